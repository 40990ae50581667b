// SPDX-License-Identifier: Apache-2.0
//
// Speed of the linear kernels on one thread, beside what the machine can do at that moment.
//
//     make test-cpp
//     LIBRARY=build/tests/libenginery_static.a
//     g++ -std=c++20 -O2 -Iruntime/src -Iruntime/include benchmarks/kernels.cc $LIBRARY \
//         -pthread -o build/kernels
//     build/kernels [isa [scheme]]
//
// Times are of the thread's own CPU time; the ceiling (the loops of `enginery bench --profile`) is
// measured again before every line, for the machine changes. Columns are rows of x; figures are G
// operations/s and the share of the ceiling. `stream` is rows over weights that no cache holds, in
// GB/s of weights.
#include "kernels/kernels.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "exec/machine_limits.h"

namespace {

using enginery::Kernels;
using enginery::LinearArgs;
using enginery::LinearKernel;

double Now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Seconds of the median of several runs that take 0.1 s together. Not the fastest: the clock of a
// virtual machine jumps now and then.
template <class Body>
double Median(const Body& body) {
  std::vector<double> runs;
  for (double total = 0; total < 0.1 || runs.size() < 3; total += runs.back()) {
    const double begin = Now();
    body();
    runs.push_back(Now() - begin);
  }
  std::ranges::nth_element(runs, runs.begin() + static_cast<long>(runs.size() / 2));
  return runs[runs.size() / 2];
}

using Peak = double enginery_machine_limits::*;

struct Scheme {
  const char* name;
  LinearKernel Kernels::* kernel;
  Peak peak;
  int64_t x_bytes, weight_bits;  // of an element
};

constexpr Scheme kSchemes[] = {
    {"f32", &Kernels::linear_f32_f32, &enginery_machine_limits::f32_peak, 4, 32},
    {"bf16", &Kernels::linear_bf16_bf16, &enginery_machine_limits::bf16_peak, 2, 16},
    {"int8_dynamic", &Kernels::linear_i8_i8, &enginery_machine_limits::i8_peak, 1, 8},
    {"w4a8_dynamic", &Kernels::linear_i8_i4, &enginery_machine_limits::i8_peak, 1, 4},
    {"int8_wo f32", &Kernels::linear_f32_i8, &enginery_machine_limits::f32_peak, 4, 8},
    {"int8_wo bf16", &Kernels::linear_bf16_i8, &enginery_machine_limits::bf16_peak, 2, 8},
};

constexpr int64_t kGroup = 128;  // k that share a scale of i4 weights

// A product of zeros: the time does not depend on the values.
class Product {
 public:
  Product(const Scheme& scheme, int64_t rows, int64_t n, int64_t k)
      : x_(Zeros(rows * k * scheme.x_bytes)),
        weight_(Zeros(n * k * scheme.weight_bits / 8)),
        group_scales_(static_cast<size_t>(n * ((k + kGroup - 1) / kGroup))),
        x_scale_(static_cast<size_t>(rows)),
        scale_(static_cast<size_t>(n)),
        column_sums_(static_cast<size_t>(n)),
        y_(static_cast<size_t>(rows * n)),
        scratch_(Zeros(enginery::LinearScratchBytes(k))) {
    args_.x = x_.get();
    args_.x_pitch = k * scheme.x_bytes;
    args_.x_scale = x_scale_.data();
    args_.weight = weight_.get();
    args_.scale = scale_.data();
    args_.column_sums = column_sums_.data();
    args_.group_scales = group_scales_.data();
    args_.group = kGroup;
    args_.scratch = static_cast<std::byte*>(scratch_.get());
    args_.y = y_.data();
    args_.y_pitch = n;
    args_.num_rows = rows;
    args_.n = n;
    args_.k = k;
    args_.panel_end = n / enginery::kPanelChannels;
  }
  double Seconds(LinearKernel kernel) const {
    return Median([&] { kernel(args_); });
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  using Bytes = std::unique_ptr<void, Free>;
  static Bytes Zeros(int64_t bytes) {
    const auto size = static_cast<size_t>((bytes + 63) / 64 * 64);
    Bytes memory(std::aligned_alloc(64, size));
    std::memset(memory.get(), 0, size);  // pages of its own, not the shared one of zeros
    return memory;
  }
  Bytes x_, weight_;
  std::vector<int8_t> group_scales_;
  std::vector<float> x_scale_, scale_;
  std::vector<int32_t> column_sums_;
  std::vector<float> y_;
  Bytes scratch_;
  LinearArgs args_{};
};

struct Shape {
  int64_t n, k;
};

// The linears of a model of the Qwen2.5-0.5B shape: qkv, gate and up, down.
constexpr Shape kShapes[] = {{1152, 896}, {9728, 896}, {896, 4864}};
constexpr int64_t kRows[] = {1, 2, 4, 6, 8, 16, 32, 128, 512};
constexpr int64_t kStreamRows[] = {1, 4, 8, 16, 32};
constexpr int64_t kStreamBytes = 256 << 20;

void Measure(const Kernels& kernels, const Scheme& scheme, const Shape& shape) {
  constexpr uint64_t kNoBuffer = 0;  // bandwidth is not asked for
  const double ceiling = enginery::MeasureLimits(kernels, 1, kNoBuffer).*scheme.peak * 1e-9;
  std::printf("%-12s [%5ld, %4ld]  ceiling %4.0f", scheme.name, static_cast<long>(shape.n),
              static_cast<long>(shape.k), ceiling);
  for (const int64_t rows : kRows) {
    const double seconds = Product(scheme, rows, shape.n, shape.k).Seconds(kernels.*scheme.kernel);
    const double rate = 2.0 * static_cast<double>(rows * shape.n * shape.k) / seconds * 1e-9;
    std::printf("  %ld: %.0f", static_cast<long>(rows), rate);
    if (ceiling > 0) std::printf(" (%.0f%%)", 100 * rate / ceiling);
  }
  const int64_t panel_bytes = enginery::kPanelChannels * shape.k * scheme.weight_bits / 8;
  const int64_t channels = kStreamBytes / panel_bytes * enginery::kPanelChannels;
  const int64_t bytes = channels * shape.k * scheme.weight_bits / 8;
  std::printf("  stream:");
  for (const int64_t rows : kStreamRows) {
    const double seconds = Product(scheme, rows, channels, shape.k).Seconds(kernels.*scheme.kernel);
    std::printf("  %ld: %.1f", static_cast<long>(rows),
                static_cast<double>(bytes) / seconds * 1e-9);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const Kernels* kernels = enginery::FindKernels(argc > 1 ? argv[1] : "auto");
  if (kernels == nullptr) {
    std::fprintf(stderr, "this machine has no %s; known: auto, avx512, avx2, portable\n", argv[1]);
    return 1;
  }
  std::printf("%s, one thread\n", kernels->name);
  for (const Scheme& scheme : kSchemes) {
    if (argc > 2 && std::strcmp(argv[2], scheme.name) != 0) continue;
    for (const Shape& shape : kShapes) Measure(*kernels, scheme, shape);
  }
  return 0;
}
