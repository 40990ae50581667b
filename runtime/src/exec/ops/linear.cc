// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "base/str_cat.h"
#include "engine/invalid.h"
#include "exec/ops/ops.h"

namespace enginery {
namespace {

// What a linear of these dtypes runs.
struct Scheme {
  DType x, weight;
  Layout layout;
  LinearKernel Kernels::* kernel;
};

constexpr std::array kSchemes = {
    Scheme{DType::kF32, DType::kF32, Layout::kN16K1, &Kernels::linear_f32_f32},
    Scheme{DType::kBF16, DType::kBF16, Layout::kN16K2, &Kernels::linear_bf16_bf16},
    Scheme{DType::kI8, DType::kI8, Layout::kN16K4, &Kernels::linear_i8_i8},
    Scheme{DType::kF32, DType::kI8, Layout::kN16K4, &Kernels::linear_f32_i8},
    Scheme{DType::kBF16, DType::kI8, Layout::kN16K4, &Kernels::linear_bf16_i8},
};

// Beyond this many columns the i32 sums of 127 * 127 could overflow.
constexpr int64_t kMaxQuantizedColumns = 131072;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

class Linear final : public Op {
 public:
  Linear(const ValueOperand& x, const ValueOperand& y, const LinearArgs& args,
         LinearKernel Kernels::* kernel)
      : x_(x), y_(y), args_(args), kernel_(kernel) {}

  void Run(const StepContext& context) const override {
    const int64_t num_rows = context.num_rows(x_.rows);
    if (num_rows == 0) return;
    const Matrix& x = context.value(x_.index);
    const Matrix& y = context.value(y_.index);
    const LinearKernel kernel = context.kernels.*kernel_;

    // Tasks are chunks of panels, so that a thread streams its own weights; a few per thread, so
    // that none waits long for a slow one, and long enough for the kernel to fetch ahead. Many rows
    // are cut too, so that a block of them stays in the cache while the panels pass. None of this
    // changes a result.
    constexpr int64_t kRowsPerBlock = 192, kTasksPerThread = 4, kPanelsPerGroup = 4;
    constexpr int64_t kGroupsPerTask = 4;
    const int64_t num_threads = context.pool.num_threads();
    const int64_t num_panels = CeilDiv(args_.n, kPanelChannels);
    const int64_t num_row_blocks = CeilDiv(num_rows, kRowsPerBlock);
    const int64_t rows_per_block = CeilDiv(num_rows, num_row_blocks);
    const int64_t num_groups = CeilDiv(num_panels, kPanelsPerGroup);
    const int64_t num_chunks = std::min({num_groups, kTasksPerThread * num_threads,
                                         std::max(num_threads, num_groups / kGroupsPerTask)});
    context.pool.ParallelFor(num_row_blocks * num_chunks, [&](int64_t task, int) {
      const int64_t row = task / num_chunks * rows_per_block;
      const int64_t chunk = task % num_chunks;
      LinearArgs args = args_;
      args.x = x.row<std::byte>(row);
      args.x_pitch = x.pitch;
      args.x_scale = x.scales == nullptr ? nullptr : x.scales + row;
      args.y = y.row<float>(row);
      args.y_pitch = y.pitch / static_cast<int64_t>(sizeof(float));
      args.num_rows = std::min(rows_per_block, num_rows - row);
      args.panel_begin = num_groups * chunk / num_chunks * kPanelsPerGroup;
      args.panel_end =
          std::min(num_panels, num_groups * (chunk + 1) / num_chunks * kPanelsPerGroup);
      kernel(args);
    });
  }

 private:
  const ValueOperand x_, y_;
  const LinearArgs args_;  // what does not change from step to step
  LinearKernel Kernels::* kernel_;
};

const Scheme& FindScheme(const StepReader& step, const ValueOperand& x, const Tensor& weight) {
  for (const Scheme& scheme : kSchemes) {
    if (scheme.x == x.dtype && scheme.weight == weight.dtype && scheme.layout == weight.layout) {
      return scheme;
    }
  }
  step.ThrowUnsupported(StrCat("x of ", Name(x.dtype), " with weight ", Quoted(weight.name), " of ",
                               Name(weight.dtype), " in ", Name(weight.layout),
                               "; accepted: f32 with f32 in n16k1, bf16 with bf16 in n16k2, and"
                               " i8, f32 or bf16 with i8 in n16k4"));
}

}  // namespace

PreparedStep PrepareLinear(const StepReader& step, PlanBuilder& plan) {
  step.Expect(5, 1, {"accumulate"});
  const ValueOperand x = step.input(0, {DType::kF32, DType::kBF16, DType::kI8});
  const Tensor& weight = step.tensor(1);
  const ValueOperand y = step.output(0, {DType::kF32});
  const Scheme& scheme = FindScheme(step, x, weight);
  if (weight.shape.size() != 2 || weight.shape[0] != static_cast<uint64_t>(y.columns) ||
      weight.shape[1] != static_cast<uint64_t>(x.columns)) {
    step.ThrowInvalid(
        StrCat("weight ", Quoted(weight.name), " must be [", y.columns, ", ", x.columns, "]"));
  }
  step.ExpectSameRows(x, y);
  step.ExpectDifferent(x, y);
  LinearArgs args{};
  args.weight = weight.data;
  args.n = y.columns;
  args.k = x.columns;
  args.scale = step.optional_f32_vector(2, y.columns);
  args.bias = step.optional_f32_vector(3, y.columns);
  args.accumulate = step.int_attribute("accumulate", 0, 1) == 1;
  if (args.accumulate) plan.ExpectWritten(step, y);
  if (x.dtype == DType::kI8) {
    if (!step.has_input(4)) step.ThrowInvalid("x of i8 needs column_sums (input 4)");
    if (x.columns > kMaxQuantizedColumns) {
      step.ThrowUnsupported(
          StrCat("x of i8 has ", x.columns, " columns; accepted: 1..", kMaxQuantizedColumns));
    }
  }
  if (step.has_input(4)) args.column_sums = step.i32_vector(4, y.columns);
  return std::make_unique<Linear>(x, y, args, scheme.kernel);
}

}  // namespace enginery
