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
    const auto row_bytes = static_cast<size_t>(x_.columns) * ElementBits(x_.dtype) / 8;
    ForEachRow(context, context.batch.num_logit_rows, x_.columns, [&](int64_t row, int) {
      const int64_t from = context.batch.logit_rows[row];
      std::memcpy(y.row<std::byte>(row), x.row<std::byte>(from), row_bytes);
      if (x_.dtype == DType::kI8) y.scales[row] = x.scales[from];
    });
  }

  OpWork Work(const StepContext&) const override { return {"gather_rows"}; }

 private:
  const ValueOperand x_, y_;
};

}  // namespace

PreparedStep PrepareGatherRows(const StepReader& step, PlanBuilder&) {
  step.Expect(1, 1, {});
  const ValueOperand x = step.input(0, {DType::kF32, DType::kBF16, DType::kI8});
  const ValueOperand y = step.output(0, {x.dtype});
  step.ExpectColumns("output 0", y.columns, x.columns);
  if (x.rows != Rows::kTokens || y.rows != Rows::kLogits) {
    step.ThrowInvalid("gathers rows of logits from rows of tokens");
  }
  return std::make_unique<GatherRows>(x, y);
}

}  // namespace enginery
