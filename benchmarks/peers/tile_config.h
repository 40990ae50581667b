// SPDX-License-Identifier: Apache-2.0
//
// Included before llama.cpp's sources. GCC's AMX intrinsics (seen in 12.2) do not tell the compiler
// all that they read: 8 of the 64 bytes of a tile configuration, nothing of a tile. Stores that it
// believes dead are removed, and llama.cpp's AMX kernels crash. These say it.
#pragma once
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#undef _tile_loadd
#define _tile_loadconfig(config) \
  __asm__ volatile("ldtilecfg %0" : : "m"(*(const char (*)[64])(const void*)(config)))
#define _tile_loadd(tile, base, stride)       \
  do {                                        \
    __asm__ volatile("" : : : "memory");      \
    _tile_loadd_internal(tile, base, stride); \
  } while (0)
#endif
