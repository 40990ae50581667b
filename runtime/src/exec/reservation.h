// SPDX-License-Identifier: Apache-2.0
//
// Zeroed memory of this process that costs nothing until it is touched.
#ifndef ENGINERY_SRC_EXEC_RESERVATION_H_
#define ENGINERY_SRC_EXEC_RESERVATION_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace enginery {

// What a touch pays for.
enum class Pages {
  kSmall,
  kLarge,  // up to 2 MiB where the kernel has them: for what is read and written as a whole
};

class Reservation {
 public:
  Reservation() = default;
  // Throws Error(ENGINERY_OUT_OF_MEMORY) naming `purpose` when the address space is refused. 0
  // bytes reserve nothing.
  Reservation(uint64_t bytes, std::string_view purpose, Pages pages);
  ~Reservation();
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;

  std::byte* data() const { return data_; }  // aligned to a page
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_RESERVATION_H_
