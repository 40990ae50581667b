// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_BASE_MAPPED_FILE_H_
#define ENGINERY_SRC_BASE_MAPPED_FILE_H_

#include <string>
#include <utility>

#include "base/bytes.h"

namespace enginery {

// A regular file, mapped read-only and private for as long as the object lives. The mapping
// outlives the path: a file replaced by rename (as build-engine does) or deleted stays as it was.
// A file that another process truncates in place while it is mapped raises SIGBUS on access, which
// no reader of a mapping can turn into an error without signal handlers; bytes overwritten in place
// may or may not be seen. Engine files are therefore written elsewhere and renamed, never in place.
class MappedFile {
 public:
  // Throws Error: ENGINERY_NOT_FOUND, ENGINERY_INVALID_ARGUMENT (not a regular file),
  // ENGINERY_IO_ERROR.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  // Page-aligned; empty for an empty file.
  ByteSpan bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_MAPPED_FILE_H_
