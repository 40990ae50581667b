// SPDX-License-Identifier: Apache-2.0
//
// Not how fast the machine is: that every table of kernels gets the figures that it has a loop for.
#include "exec/machine_limits.h"

#include <string>

#include "check.h"

namespace enginery::test {
namespace {

constexpr uint64_t kAvailable = uint64_t{64} << 20;  // half of it is read

TEST(every_isa_has_its_limits) {
  for (const char* isa : {"amx", "avx512", "avx2", "portable"}) {
    const Kernels* kernels = FindKernels(isa);
    if (kernels == nullptr) continue;
    const enginery_machine_limits limits = MeasureLimits(*kernels, 2, kAvailable);
    CHECK_GT(limits.memory_bandwidth, 0.0);
    CHECK_EQ(limits.buffer_bytes, kAvailable / 2);
    CHECK_EQ(limits.num_threads, 2);
    const bool is_known = std::string(isa) != "portable";
    CHECK_EQ(limits.f32_peak > 0, is_known);
    CHECK_EQ(limits.bf16_peak > 0, is_known);
    CHECK_EQ(limits.i8_peak > 0, is_known);
  }
}

TEST(a_small_memory_gives_a_small_buffer) {
  CHECK_EQ(MeasureLimits(*FindKernels("portable"), 1, 0).buffer_bytes, uint64_t{1} << 20);
}

}  // namespace
}  // namespace enginery::test
