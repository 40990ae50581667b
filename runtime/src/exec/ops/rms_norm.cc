// SPDX-License-Identifier: Apache-2.0
#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

class RmsNorm final : public Op {
 public:
  RmsNorm(const ValueOperand& x, const ValueOperand& y, const float* weight, float epsilon,
          float inverse_scale)
      : x_(x), y_(y), weight_(weight), epsilon_(epsilon), inverse_scale_(inverse_scale) {}

  void Run(const StepContext& context) const override {
    const Matrix& x = context.value(x_.index);
    const Matrix& y = context.value(y_.index);
    ForEachRow(context, context.num_rows(x_.rows), x_.columns, [&](int64_t row, int thread) {
      FetchRow(x, row + 1, x_.columns * 4);
      if (y_.dtype == DType::kI8 && inverse_scale_ == 0.0f) {
        context.kernels.quantize_rms_norm_row(x.row<float>(row), weight_, x_.columns, epsilon_,
                                              y.row<uint8_t>(row), &y.scales[row]);
        return;
      }
      float* normed = RowInF32(context, y, y_.dtype, row, thread);
      context.kernels.rms_norm_row(x.row<float>(row), weight_, x_.columns, epsilon_, normed);
      StoreRow(context, normed, y, y_.dtype, row, x_.columns, inverse_scale_);
    });
  }

  OpWork Work(const StepContext& context) const override {
    const bool has_rows = context.num_rows(x_.rows) > 0;
    return {.op = "rms_norm", .bytes = has_rows ? 4 * x_.columns : 0};
  }

 private:
  const ValueOperand x_, y_;
  const float* weight_;
  const float epsilon_;
  const float inverse_scale_;
};

}  // namespace

PreparedStep PrepareRmsNorm(const StepReader& step, PlanBuilder& plan) {
  step.Expect(step.step().version == 2 ? 3 : 2, 1, {"epsilon"});
  const ValueOperand x = step.input(0, {DType::kF32});
  const float* weight = step.f32_vector(1, x.columns);
  const ValueOperand y = step.output(0, {DType::kF32, DType::kBF16, DType::kI8});
  step.ExpectColumns("output 0", y.columns, x.columns);
  step.ExpectSameRows(x, y);
  plan.RequireThreadScratch(x.columns * 4);
  return std::make_unique<RmsNorm>(x, y, weight, step.float_attribute("epsilon", 0, 1),
                                   ReadInverseScale(step, 2, y));
}

}  // namespace enginery
