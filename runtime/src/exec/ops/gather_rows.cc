// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

class GatherRows final : public Op {
 public:
  GatherRows(const ValueOperand& x, const ValueOperand& y) : x_(x), y_(y) {}

  void Run(const StepContext& context) const override {
    const Matrix& x = context.value(x_.index);
    const Matrix& y = context.value(y_.index);
    ForEachRow(context, context.batch.num_logit_rows, x_.columns, [&](int64_t row, int) {
      std::memcpy(y.row<float>(row), x.row<float>(context.batch.logit_rows[row]),
                  static_cast<size_t>(x_.columns) * sizeof(float));
    });
  }

  OpWork Work(const StepContext&) const override { return {"gather_rows"}; }

 private:
  const ValueOperand x_, y_;
};

}  // namespace

PreparedStep PrepareGatherRows(const StepReader& step, PlanBuilder&) {
  step.Expect(1, 1, {});
  const ValueOperand x = step.input(0, {DType::kF32});
  const ValueOperand y = step.output(0, {DType::kF32});
  step.ExpectColumns("output 0", y.columns, x.columns);
  if (x.rows != Rows::kTokens || y.rows != Rows::kLogits) {
    step.ThrowInvalid("gathers rows of logits from rows of tokens");
  }
  return std::make_unique<GatherRows>(x, y);
}

}  // namespace enginery
