// SPDX-License-Identifier: Apache-2.0
#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

class GroupSums final : public Op {
 public:
  GroupSums(const ValueOperand& x, const ValueOperand& y, int64_t group)
      : x_(x), y_(y), group_(group) {}

  void Run(const StepContext& context) const override {
    const Kernels& kernels = context.kernels;
    const Matrix& x = context.value(x_.index);
    const Matrix& y = context.value(y_.index);
    ForEachRow(context, context.num_rows(x_.rows), x_.columns, [&](int64_t row, int) {
      if (x_.dtype == DType::kF32) {
        kernels.group_sums_row(x.row<float>(row), x_.columns, group_, y.row<float>(row));
      } else if (x_.dtype == DType::kI8) {
        kernels.group_sums_i8_row(x.row<uint8_t>(row), x_.columns, group_, x.scales[row],
                                  y.row<float>(row));
      } else {
        kernels.group_sums_bf16_row(x.row<uint16_t>(row), x_.columns, group_, y.row<float>(row));
      }
    });
  }

  OpWork Work(const StepContext&) const override { return {"group_sums"}; }

 private:
  const ValueOperand x_, y_;
  const int64_t group_;
};

}  // namespace

PreparedStep PrepareGroupSums(const StepReader& step, PlanBuilder&) {
  constexpr int64_t kMaxGroup = 1 << 24;  // as many columns as a value has at most
  step.Expect(1, 1, {"group"});
  const ValueOperand x = step.input(0, {DType::kF32, DType::kBF16, DType::kI8});
  const ValueOperand y = step.output(0, {DType::kF32});
  const int64_t group = step.int_attribute("group", 1, kMaxGroup);
  step.ExpectColumns("output 0", y.columns, (x.columns + group - 1) / group);
  step.ExpectSameRows(x, y);
  step.ExpectDifferent(x, y);
  return std::make_unique<GroupSums>(x, y, group);
}

}  // namespace enginery
