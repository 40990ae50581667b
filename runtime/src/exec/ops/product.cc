// SPDX-License-Identifier: Apache-2.0
#include "exec/ops/product.h"

#include <algorithm>
#include <array>

#include "base/str_cat.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

// What a product of these dtypes runs, in a version of `linear`.
struct Scheme {
  uint32_t version;
  DType x, weight;
  Layout layout;
  int64_t group;  // of the layout
  LinearKernel Kernels::* kernel;
  LinearKernel Kernels::* gated_kernel = nullptr;

  int64_t PanelBytesOf(int64_t k) const {
    const auto bits = static_cast<int64_t>(ElementBits(weight));
    return PanelBytes(k, group, kPanelChannels * group * bits / 8);
  }
};

constexpr std::array kSchemes = {
    Scheme{1, DType::kF32, DType::kF32, Layout::kN16K1, 1, &Kernels::linear_f32_f32},
    Scheme{1, DType::kBF16, DType::kBF16, Layout::kN16K2, 2, &Kernels::linear_bf16_bf16,
           &Kernels::gated_bf16_bf16},
    Scheme{1, DType::kI8, DType::kI8, Layout::kN16K4, 4, &Kernels::linear_i8_i8,
           &Kernels::gated_i8_i8},
    Scheme{1, DType::kF32, DType::kI8, Layout::kN16K4, 4, &Kernels::linear_f32_i8},
    Scheme{1, DType::kBF16, DType::kI8, Layout::kN16K4, 4, &Kernels::linear_bf16_i8},
    Scheme{2, DType::kI8, DType::kI4, Layout::kN16K8, 8, &Kernels::linear_i8_i4},
    Scheme{1, DType::kBF16, DType::kF8E4M3, Layout::kN16K2, 2, &Kernels::linear_bf16_e4m3},
    Scheme{2, DType::kBF16, DType::kI4, Layout::kN16K8, 8, &Kernels::linear_bf16_i4},
    Scheme{3, DType::kBF16, DType::kI4, Layout::kN16K8, 8, &Kernels::linear_e4m3_i4},
};

// Beyond this many columns the i32 sums of 128 * 127 could overflow.
constexpr int64_t kMaxQuantizedColumns = 131072;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

const Scheme& FindScheme(const StepReader& step, const ValueOperand& x, const Tensor& weight) {
  bool is_known = false;
  for (const Scheme& scheme : kSchemes) {
    if (scheme.x != x.dtype || scheme.weight != weight.dtype || scheme.layout != weight.layout) {
      continue;
    }
    if (scheme.version == step.step().version) return scheme;
    is_known = true;
  }
  if (is_known) {
    step.ThrowInvalid(
        "version 2 is for weights of i4, 3 for those beside x of bf16, 1 for all others");
  }
  step.ThrowUnsupported(StrCat("x of ", Name(x.dtype), " with weight ", Quoted(weight.name), " of ",
                               Name(weight.dtype), " in ", Name(weight.layout),
                               "; accepted: f32 with f32 in n16k1, bf16 with bf16 or f8e4m3 in "
                               "n16k2, i8, f32 or bf16 with i8 in n16k4, and i8 or bf16 with i4 in "
                               "n16k8"));
}

// What the groups of an i4 weight are multiplied by: i8 where x is i8, else f32. Their number says
// how large groups are.
void ReadGroupScales(const StepReader& step, size_t input, DType dtype, LinearArgs& args) {
  const Tensor& tensor = step.tensor(input);
  if (tensor.dtype == dtype && tensor.layout == Layout::kN16K1 && tensor.shape.size() == 2 &&
      tensor.shape[0] == static_cast<uint64_t>(args.n)) {
    for (const int64_t group : kWeightGroups) {
      args.group = group;
      if (tensor.shape[1] != static_cast<uint64_t>(args.num_groups())) continue;
      if (dtype == DType::kI8) {
        args.group_scales = reinterpret_cast<const int8_t*>(tensor.data);
      } else {
        args.block_scales = reinterpret_cast<const float*>(tensor.data);
      }
      return;
    }
  }
  std::string accepted;
  for (const int64_t group : kWeightGroups) {
    accepted += StrCat(accepted.empty() ? "" : ", ", CeilDiv(args.k, group));
  }
  step.ThrowInvalid(StrCat("input ", input, ", tensor ", Quoted(tensor.name),
                           ", must be group scales: ", Name(dtype), " in n16k1 of ", args.n,
                           " by one of ", accepted));
}

}  // namespace

Product PrepareProduct(const StepReader& step, PlanBuilder& plan) {
  const bool has_groups = step.step().version != 1;
  step.Expect(has_groups ? 6 : 5, 1, {"accumulate"});
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
  if (has_groups) {
    ReadGroupScales(step, 5, x.dtype == DType::kI8 ? DType::kI8 : DType::kF32, args);
  }
  const int64_t scratch_bytes = LinearScratchBytes(x.columns);
  plan.RequireThreadScratch(scratch_bytes);
  return {x,
          args,
          scheme.kernel,
          scheme.gated_kernel,
          scheme.PanelBytesOf(x.columns),
          CeilDiv(y.columns, kPanelChannels),
          scratch_bytes,
          ProductWork(step, 1, x)};
}

LinearArgs Product::ForTask(const StepContext& context, const ProductTask& task, int thread) const {
  const Matrix& matrix = context.value(x.index);
  LinearArgs result = args;
  result.x = matrix.row<std::byte>(task.row);
  result.x_pitch = matrix.pitch;
  result.x_scale = matrix.scales == nullptr ? nullptr : matrix.scales + task.row;
  result.scratch = reinterpret_cast<std::byte*>(context.thread_scratch(thread));
  result.num_rows = task.num_rows;
  result.panel_begin = task.panel_begin;
  result.panel_end = task.panel_end;
  result.is_prepared = task.prepared == thread;
  if (task.next_panel >= 0) {
    result.next = panel(task.next_panel);
  } else if (next != nullptr && context.num_rows(next->x.rows) > 0) {
    const ProductTasks tasks(context, *next);
    result.next = next->panel(tasks[tasks.first_of(thread)].panel_begin);
  }
  return result;
}

ProductTasks::ProductTasks(const StepContext& context, const Product& product)
    : num_threads_(context.pool.num_threads()),
      num_rows_(context.num_rows(product.x.rows)),
      num_panels_(product.num_task_panels) {
  constexpr int64_t kTasksPerThread = 4, kGroupsPerTask = 4;
  // What kernels take at once; of few rows most take one at a time, and even shares count.
  constexpr int64_t kFewRows = 16, kFewRowsPanels = 4;
  panels_per_group_ = num_rows_ > kFewRows ? context.kernels.panels_at_once : kFewRowsPanels;
  // Each block of rows reads all weights: as many rows as a thread owns, but so many that
  // multiplying takes longer than reading. Not more than an L2 cache of 2 MiB holds beside the
  // weights. A multiple of what kernels take at once.
  constexpr int64_t kBlockBytes = 3 << 19, kMinRows = 96, kMinOwnedRows = 256, kMultiple = 32;
  const int64_t x_pitch = context.value(product.x.index).pitch;
  const int64_t owned_rows = std::max(kMinOwnedRows, CeilDiv(num_rows_, num_threads_));
  const int64_t max_rows =
      std::min({kMaxRows, std::max(kBlockBytes / x_pitch, kMinRows), owned_rows});
  num_row_blocks_ = CeilDiv(num_rows_, max_rows);
  rows_per_block_ = CeilDiv(CeilDiv(num_rows_, num_row_blocks_), kMultiple) * kMultiple;
  num_row_blocks_ = CeilDiv(num_rows_, rows_per_block_);
  num_groups_ = CeilDiv(num_panels_, panels_per_group_);
  // As many chunks for each thread: an odd one would be waited for.
  const int64_t chunks_per_thread =
      std::clamp<int64_t>(num_groups_ / (num_threads_ * kGroupsPerTask), 1, kTasksPerThread);
  num_chunks_ = std::min(num_groups_, num_threads_ * chunks_per_thread);
}

ProductTask ProductTasks::operator[](int64_t task) const {
  const int64_t row = task / num_chunks_ * rows_per_block_;
  const int64_t chunk = task % num_chunks_;
  // Whose share it is in. A thread takes the tasks of its own in order, and others' only after
  // them.
  const int64_t thread = CeilDiv((task + 1) * num_threads_, count()) - 1;
  const bool is_first = first_of(thread) == task;
  const bool is_last = first_of(thread + 1) == task + 1;
  return {row,
          std::min(rows_per_block_, num_rows_ - row),
          panel_begin(chunk),
          std::min(num_panels_, num_groups_ * (chunk + 1) / num_chunks_ * panels_per_group_),
          is_last ? -1 : panel_begin(task + 1),
          is_first || chunk == 0 ? -1 : thread};
}

}  // namespace enginery
