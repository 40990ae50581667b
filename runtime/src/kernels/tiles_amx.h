// SPDX-License-Identifier: Apache-2.0
//
// AMX tiles: eight registers of 16 rows by 64 bytes. A product takes A (rows of the input), B (16
// groups of k by 16 channels, which is 16 consecutive groups of a packed panel as it lies in
// memory) and adds to C (rows by 16 channels of 32 bits).
//
// Numbers of tile registers are template arguments: they are part of the instruction.
#ifndef ENGINERY_SRC_KERNELS_TILES_AMX_H_
#define ENGINERY_SRC_KERNELS_TILES_AMX_H_

#include <cstddef>
#include <cstdint>

#include "kernels/inline.h"

namespace enginery {
namespace {

constexpr int64_t kTileRows = 16, kTileRowBytes = 64, kTileBytes = kTileRows * kTileRowBytes;

// C 0..3, A 4..5, B 6..7: two row tiles by two panels, or one row tile by four panels.
constexpr int kTileA = 4, kTileB = 6;

// The tile registers of this thread while it lives. A tile of A or C has num_rows rows, one of B
// 16. Tiles are released at the end, so that a context switch has nothing to save.
class TileScope {
 public:
  explicit TileScope(int64_t num_rows) {
    struct alignas(64) Config {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = kTileRowBytes;
      config.rows[t] = static_cast<uint8_t>(t < kTileB ? num_rows : kTileRows);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileScope() { __asm__ volatile("tilerelease"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

template <int t>
ENGINERY_INLINE void TileZero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(t));
}
// Rows of 64 bytes, `stride` bytes apart. What was written to memory before is seen.
template <int t>
ENGINERY_INLINE void TileLoad(const void* base, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(t) : "memory");
}
// The same of what is not read again soon: it leaves the place in L1 to the rest.
template <int t>
ENGINERY_INLINE void TileLoadPassing(const void* base, int64_t stride) {
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(t) : "memory");
}
template <int t>
ENGINERY_INLINE void TileStore(void* base, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(t) : "memory");
}
// The first kCount tiles of C. In memory each begins `step` bytes after the one before.
template <int kCount>
ENGINERY_INLINE void ZeroSums() {
  TileZero<0>();
  if constexpr (kCount > 1) TileZero<1>();
  if constexpr (kCount > 2) TileZero<2>();
  if constexpr (kCount > 3) TileZero<3>();
}
template <int kCount>
ENGINERY_INLINE void LoadSums(const std::byte* base, int64_t step, int64_t stride) {
  TileLoad<0>(base, stride);
  if constexpr (kCount > 1) TileLoad<1>(base + step, stride);
  if constexpr (kCount > 2) TileLoad<2>(base + 2 * step, stride);
  if constexpr (kCount > 3) TileLoad<3>(base + 3 * step, stride);
}
template <int kCount>
ENGINERY_INLINE void StoreSums(std::byte* base, int64_t step, int64_t stride) {
  TileStore<0>(base, stride);
  if constexpr (kCount > 1) TileStore<1>(base + step, stride);
  if constexpr (kCount > 2) TileStore<2>(base + 2 * step, stride);
  if constexpr (kCount > 3) TileStore<3>(base + 3 * step, stride);
}
// C += A B over u8 by i8 in i32, exactly.
template <int c, int a, int b>
ENGINERY_INLINE void TileDotU8I8() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}
// C += A B over bf16 in f32: for each pair of k the products of the even and of the odd k are
// summed over the tile apart, then added to C. The order depends on k alone.
template <int c, int a, int b>
ENGINERY_INLINE void TileDotBf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_TILES_AMX_H_
