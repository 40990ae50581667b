// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace enginery {

#if defined(__x86_64__)
namespace {

// Register state components that the system saves on a context switch (XCR0).
uint64_t EnabledState() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

constexpr bool HasBits(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

// Asks Linux to let this process use tile data (arch/x86/include/uapi/asm/prctl.h).
bool RequestTiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

CpuFeatures DetectCpuFeatures() {
  CpuFeatures features;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return features;
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  if (!HasBits(c, kFma | kOsxsave | kAvx | kF16c))
    return features;  // without OSXSAVE, xgetbv faults
  const uint64_t state = EnabledState();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xE6;  // SSE + AVX; opmask and upper ZMM besides
  if (!HasBits(state, kYmm)) return features;

  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return features;
  const uint32_t max_subleaf = a;
  constexpr uint32_t kAvx2 = 1u << 5;
  features.avx2 = HasBits(b, kAvx2);
  constexpr uint32_t kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;  // in ebx
  constexpr uint32_t kVnni = 1u << 11;                                               // in ecx
  if (!features.avx2 || !HasBits(state, kZmm) || !HasBits(b, kF | kDq | kBw | kVl) ||
      !HasBits(c, kVnni) || max_subleaf < 1) {
    return features;
  }
  constexpr uint32_t kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;  // in edx
  constexpr uint64_t kTiles = 0x60000;  // tile configuration and data
  const bool has_amx = HasBits(d, kAmxBf16 | kAmxTile | kAmxInt8) && HasBits(state, kTiles);
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0) return features;
  constexpr uint32_t kBf16 = 1u << 5;  // in eax
  features.avx512 = HasBits(a, kBf16);
  features.amx = features.avx512 && has_amx && RequestTiles();
  return features;
}
#else
CpuFeatures DetectCpuFeatures() { return {}; }
#endif

}  // namespace enginery
