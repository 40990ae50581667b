// SPDX-License-Identifier: Apache-2.0
#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

class ScaleColumns final : public Op {
 public:
  ScaleColumns(const ValueOperand& x, const ValueOperand& y, const float* factor,
               float inverse_scale)
      : x_(x), y_(y), factor_(factor), inverse_scale_(inverse_scale) {}

  void Run(const StepContext& context) const override {
    const Matrix& x = context.value(x_.index);
    const Matrix& y = context.value(y_.index);
    ForEachRow(context, context.num_rows(x_.rows), x_.columns, [&](int64_t row, int thread) {
      float* product = RowInF32(context, y, y_.dtype, row, thread);
      context.kernels.multiply_row(x.row<float>(row), factor_, x_.columns, product);
      StoreProductRow(context, product, y, y_.dtype, row, x_.columns, inverse_scale_);
    });
  }

  OpWork Work(const StepContext& context) const override {
    const bool has_rows = context.num_rows(x_.rows) > 0;
    return {.op = "scale_columns", .bytes = has_rows ? 4 * x_.columns : 0};
  }

 private:
  const ValueOperand x_, y_;
  const float* factor_;
  const float inverse_scale_;
};

}  // namespace

PreparedStep PrepareScaleColumns(const StepReader& step, PlanBuilder& plan) {
  step.Expect(step.step().version == 2 ? 3 : 2, 1, {});
  const ValueOperand x = step.input(0, {DType::kF32});
  const float* factor = step.f32_vector(1, x.columns);
  const ValueOperand y = step.output(0, {DType::kF32, DType::kBF16, DType::kI8});
  step.ExpectColumns("output 0", y.columns, x.columns);
  step.ExpectSameRows(x, y);
  plan.RequireThreadScratch(ProductScratchBytes(x.columns));
  return std::make_unique<ScaleColumns>(x, y, factor, ReadInverseScale(step, 2, y));
}

}  // namespace enginery
