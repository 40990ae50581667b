// SPDX-License-Identifier: Apache-2.0
//
// What the machine can run, from cpuid and xgetbv: the processor has the instructions and the
// system saves the registers. Tiles (AMX) are asked of the system once, for the whole process:
// Linux saves their 8 KiB only for processes that asked.
#ifndef ENGINERY_SRC_KERNELS_CPU_FEATURES_H_
#define ENGINERY_SRC_KERNELS_CPU_FEATURES_H_

namespace enginery {

struct CpuFeatures {
  bool avx2 = false;    // AVX2, FMA and F16C
  bool avx512 = false;  // AVX-512 F, BW, VL, DQ, VNNI and BF16, besides the above
  bool amx = false;     // AMX tiles, INT8 and BF16, besides the above, and the system grants them
};

CpuFeatures DetectCpuFeatures();

}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_CPU_FEATURES_H_
