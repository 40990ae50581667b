// SPDX-License-Identifier: Apache-2.0
#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

class Add final : public Op {
 public:
  Add(const ValueOperand& x, const ValueOperand& y) : x_(x), y_(y) {}

  void Run(const StepContext& context) const override {
    const Matrix& x = context.value(x_.index);
    const Matrix& y = context.value(y_.index);
    ForEachRow(context, context.num_rows(x_.rows), x_.columns, [&](int64_t row, int) {
      context.kernels.add_row(x.row<float>(row), x_.columns, y.row<float>(row));
    });
  }

  OpWork Work(const StepContext&) const override { return {"add"}; }

 private:
  const ValueOperand x_, y_;
};

}  // namespace

PreparedStep PrepareAdd(const StepReader& step, PlanBuilder& plan) {
  step.Expect(1, 1, {});
  const ValueOperand x = step.input(0, {DType::kF32});
  const ValueOperand y = step.output(0, {DType::kF32});
  step.ExpectColumns("output 0", y.columns, x.columns);
  step.ExpectSameRows(x, y);
  plan.ExpectWritten(step, y);
  return std::make_unique<Add>(x, y);
}

}  // namespace enginery
