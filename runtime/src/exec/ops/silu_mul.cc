// SPDX-License-Identifier: Apache-2.0
#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

class SiluMul final : public Op {
 public:
  SiluMul(const ValueOperand& x, const ValueOperand& y, float inverse_scale)
      : x_(x), y_(y), inverse_scale_(inverse_scale) {}

  void Run(const StepContext& context) const override {
    const Matrix& x = context.value(x_.index);
    const Matrix& y = context.value(y_.index);
    ForEachRow(context, context.num_rows(x_.rows), y_.columns, [&](int64_t row, int thread) {
      const float* gate = x.row<float>(row);
      float* product = RowInF32(context, y, y_.dtype, row, thread);
      context.kernels.silu_mul_row(gate, gate + y_.columns, y_.columns, product);
      StoreProductRow(context, product, y, y_.dtype, row, y_.columns, inverse_scale_);
    });
  }

  OpWork Work(const StepContext&) const override { return {"silu_mul"}; }

 private:
  const ValueOperand x_, y_;
  const float inverse_scale_;
};

}  // namespace

ValueOperand ReadSiluMul(const StepReader& step) {
  step.Expect(step.step().version == 2 ? 2 : 1, 1, {});
  const ValueOperand x = step.input(0, {DType::kF32});
  const ValueOperand y = step.output(0, {DType::kF32, DType::kBF16, DType::kI8});
  step.ExpectColumns("input 0", x.columns, 2 * y.columns);
  step.ExpectSameRows(x, y);
  return y;
}

PreparedStep PrepareSiluMul(const StepReader& step, PlanBuilder& plan) {
  const ValueOperand y = ReadSiluMul(step);
  plan.RequireThreadScratch(ProductScratchBytes(y.columns));
  return std::make_unique<SiluMul>(step.input(0, {DType::kF32}), y, ReadInverseScale(step, 1, y));
}

}  // namespace enginery
