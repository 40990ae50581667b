// SPDX-License-Identifier: Apache-2.0
#include "exec/ops/ops.h"
#include "exec/ops/product.h"

namespace enginery {
namespace {

class Linear final : public Op {
 public:
  Linear(Product product, const ValueOperand& y) : product_(std::move(product)), y_(y) {}

  void Run(const StepContext& context) const override {
    if (context.num_rows(y_.rows) == 0) return;
    const Matrix& y = context.value(y_.index);
    const LinearKernel kernel = context.kernels.*product_.kernel;
    const ProductTasks tasks(context, product_);
    context.pool.ParallelFor(tasks.count(), [&](int64_t index, int thread) {
      const ProductTask task = tasks[index];
      LinearArgs args = product_.ForTask(context, task, thread);
      args.y = y.row<float>(task.row);
      args.y_pitch = y.pitch / static_cast<int64_t>(sizeof(float));
      kernel(args);
    });
  }

  Product* product() override { return &product_; }

  OpWork Work(const StepContext& context) const override {
    return product_.work.ForRows("linear", context.num_rows(y_.rows));
  }

 private:
  Product product_;
  const ValueOperand y_;
};

}  // namespace

PreparedStep PrepareLinear(const StepReader& step, PlanBuilder& plan) {
  Product product = PrepareProduct(step, plan);
  return std::make_unique<Linear>(std::move(product), step.output(0, {DType::kF32}));
}

}  // namespace enginery
