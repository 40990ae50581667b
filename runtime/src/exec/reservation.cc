// SPDX-License-Identifier: Apache-2.0
#include "exec/reservation.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery {

Reservation::Reservation(uint64_t bytes, std::string_view purpose, Pages pages) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(ENGINERY_OUT_OF_MEMORY, StrCat("cannot reserve ", bytes, " bytes for the ", purpose,
                                               ": ", std::string_view(std::strerror(errno))));
  }
  if (pages == Pages::kLarge) madvise(memory, bytes, MADV_HUGEPAGE);  // else it is slower, no more
  data_ = static_cast<std::byte*>(memory);
}

Reservation::~Reservation() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Reservation::Reservation(Reservation&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace enginery
