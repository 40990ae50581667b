// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

#include <string_view>

#include "kernels/cpu_features.h"

namespace enginery {

const Kernels* FindKernels(const char* isa) {
  const std::string_view name(isa);
  const bool is_auto = name == "auto";
#if defined(__x86_64__)
  static const CpuFeatures features = DetectCpuFeatures();
  if (features.amx && (is_auto || name == "amx")) return &AmxKernels();
  if (features.avx512 && (is_auto || name == "avx512")) return &Avx512Kernels();
  if (features.avx2 && (is_auto || name == "avx2")) return &Avx2Kernels();
#endif
  return is_auto || name == "portable" ? &PortableKernels() : nullptr;
}

}  // namespace enginery
