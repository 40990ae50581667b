// SPDX-License-Identifier: Apache-2.0
//
// A `linear` whose only reader is a `silu_mul`: the matrix of gates and ups, the widest of a model,
// is never stored. Many rows go through a gated kernel where there is one. Else a thread computes a
// piece of the gate and the piece of the up beside it into its scratch, where both are still in the
// cache when they are multiplied. Results are those of the two ops one after the other, bit for
// bit.
#include <algorithm>

#include "exec/ops/ops.h"
#include "exec/ops/product.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

// Floats of gate, and of up, that a thread holds at most: together a quarter of an L2 cache of
// 2 MiB.
constexpr int64_t kPieceFloats = 64 * 1024;
constexpr int64_t kMaxPanelsAtOnce = 4;  // of any kernels: a piece has multiples of theirs
static_assert(ProductTasks::kMaxRows * kMaxPanelsAtOnce * kPanelChannels <= kPieceFloats);

class LinearSiluMul final : public Op {
 public:
  // `rounded` is where products of gate and up are kept in bf16 until their row is whole; y itself
  // when that takes them as they come.
  LinearSiluMul(Product product, const ValueOperand& y, size_t rounded, int64_t scratch_offset)
      : product_(std::move(product)), y_(y), rounded_(rounded), scratch_offset_(scratch_offset) {}

  void Run(const StepContext& context) const override {
    const int64_t num_rows = context.num_rows(y_.rows);
    if (num_rows == 0) return;
    const ProductTasks tasks(context, product_);
    const LinearKernel gated = GatedKernel(context, num_rows);
    context.pool.ParallelFor(tasks.count(), [&](int64_t index, int thread) {
      const ProductTask task = tasks[index];
      const LinearArgs args = product_.ForTask(context, task, thread);
      if (gated != nullptr) return RunGated(context, args, task.row, gated);
      const int64_t at_once = context.kernels.panels_at_once;
      const int64_t panels = kPieceFloats / task.num_rows / kPanelChannels / at_once * at_once;
      for (int64_t p = task.panel_begin; p < task.panel_end; p += panels) {
        RunPiece(context, args, task.row, p, std::min(p + panels, task.panel_end), thread);
      }
    });
    if (y_.dtype != DType::kI8) return;
    const Matrix& rounded = context.value(rounded_);
    const Matrix& y = context.value(y_.index);
    ForEachRow(context, num_rows, y_.columns, [&](int64_t row, int) {
      FetchRow(rounded, row + 1, y_.columns * 2);
      context.kernels.quantize_bf16_row(rounded.row<uint16_t>(row), y_.columns, y.row<uint8_t>(row),
                                        &y.scales[row]);
    });
  }

  Product* product() override { return &product_; }

  OpWork Work(const StepContext& context) const override {
    return product_.work.ForRows("linear+silu_mul", context.num_rows(y_.rows));
  }

 private:
  LinearKernel GatedKernel(const StepContext& context, int64_t num_rows) const {
    // For few rows memory is the limit, and the piece that they take of the scratch is small.
    if (product_.gated_kernel == nullptr || y_.dtype == DType::kF32 ||
        num_rows < context.kernels.min_gated_rows) {
      return nullptr;
    }
    return context.kernels.*product_.gated_kernel;
  }

  void RunGated(const StepContext& context, LinearArgs args, int64_t row,
                LinearKernel gated) const {
    const Matrix& to = context.value(rounded_);
    args.y = reinterpret_cast<float*>(to.row<uint16_t>(row));
    args.y_pitch = to.pitch / static_cast<int64_t>(sizeof(uint16_t));
    gated(args);
  }

  // The panels [panel_begin, panel_end) of `task`, whose rows begin at `row`.
  void RunPiece(const StepContext& context, const LinearArgs& task, int64_t row,
                int64_t panel_begin, int64_t panel_end, int thread) const {
    const LinearKernel kernel = context.kernels.*product_.kernel;
    const int64_t column = panel_begin * kPanelChannels;
    const int64_t columns = (panel_end - panel_begin) * kPanelChannels;
    float* gate = context.thread_scratch(thread) + scratch_offset_ / 4;
    float* up = gate + task.num_rows * columns;

    const auto multiply = [&](float* to, int64_t first_panel, bool is_prepared, const void* next) {
      LinearArgs piece =
          OfPanels(task, first_panel, first_panel + panel_end - panel_begin, product_.panel_bytes);
      piece.y = to;
      piece.y_pitch = columns;
      piece.is_prepared = is_prepared;
      piece.next = next;
      kernel(piece);
    };
    const int64_t up_panel = panel_begin + y_.columns / kPanelChannels;
    multiply(gate, panel_begin, task.is_prepared || panel_begin > task.panel_begin,
             product_.panel(up_panel));
    multiply(up, up_panel, true,
             panel_end < task.panel_end ? product_.panel(panel_end) : task.next);

    const Matrix& to = context.value(rounded_);
    for (int64_t r = 0; r < task.num_rows; ++r) {
      float* g = gate + r * columns;
      const float* u = up + r * columns;
      if (y_.dtype == DType::kF32) {
        context.kernels.silu_mul_row(g, u, columns, to.row<float>(row + r) + column);
      } else {
        context.kernels.silu_mul_row(g, u, columns, g);
        context.kernels.bf16_row(g, columns, to.row<uint16_t>(row + r) + column);
      }
    }
  }

  Product product_;
  const ValueOperand y_;
  const size_t rounded_;
  const int64_t scratch_offset_;
};

}  // namespace

PreparedStep PrepareLinearSiluMul(const StepReader& linear, const StepReader& silu_mul,
                                  PlanBuilder& plan) {
  Product product = PrepareProduct(linear, plan);
  const ValueOperand y = ReadSiluMul(silu_mul);
  product.num_task_panels = y.columns / kPanelChannels;
  const size_t rounded =
      y.dtype == DType::kI8 ? plan.AddBuffer(y.rows, DType::kBF16, y.columns) : y.index;
  // Behind what the kernel itself takes of the scratch.
  const int64_t offset = (product.scratch_bytes + 63) / 64 * 64;
  plan.RequireThreadScratch(offset + 2 * kPieceFloats * 4);
  return std::make_unique<LinearSiluMul>(std::move(product), y, rounded, offset);
}

}  // namespace enginery
