// SPDX-License-Identifier: Apache-2.0
#include "exec/ops/ops.h"
#include "exec/ops/product.h"

namespace enginery {
namespace {

class Linear final : public Op {
 public:
  Linear(Product product, const ValueOperand& y) : product_(std::move(product)), y_(y) {}

  void Run(const StepContext& context) const override {
    const int64_t num_rows = context.num_rows(y_.rows);
    if (num_rows == 0) return;
    const Matrix& y = context.value(y_.index);
    const LinearKernel kernel = context.kernels.*product_.kernel;
    const int64_t num_panels = (y_.columns + kPanelChannels - 1) / kPanelChannels;
    const ProductTasks tasks(context, context.value(product_.x.index), num_rows, num_panels);
    context.pool.ParallelFor(tasks.count(), [&](int64_t index, int thread) {
      const ProductTask task = tasks[index];
      LinearArgs args = product_.ForRows(context, task.row, task.num_rows, thread);
      args.y = y.row<float>(task.row);
      args.y_pitch = y.pitch / static_cast<int64_t>(sizeof(float));
      args.panel_begin = task.panel_begin;
      args.panel_end = task.panel_end;
      kernel(args);
    });
  }

  OpWork Work(const StepContext& context) const override {
    return product_.work.ForRows("linear", context.num_rows(y_.rows));
  }

 private:
  const Product product_;
  const ValueOperand y_;
};

}  // namespace

PreparedStep PrepareLinear(const StepReader& step, PlanBuilder& plan) {
  Product product = PrepareProduct(step, plan);
  return std::make_unique<Linear>(std::move(product), step.output(0, {DType::kF32}));
}

}  // namespace enginery
