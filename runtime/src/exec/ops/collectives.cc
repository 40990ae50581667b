// SPDX-License-Identifier: Apache-2.0
#include "exec/collectives.h"

#include <cstring>

#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

// x0 + x1 + ... in rank order, then the sum to every rank.
void AllReduce(std::span<const CollectiveStep> steps, std::span<const StepContext> ranks) {
  const int64_t columns = steps[0].columns;
  ForEachRow(ranks[0], ranks[0].num_rows(steps[0].rows), columns, [&](int64_t row, int) {
    float* sum = ranks[0].value(steps[0].y).row<float>(row);
    for (size_t r = 1; r < ranks.size(); ++r) {
      ranks[r].kernels.add_row(ranks[r].value(steps[r].x).row<float>(row), columns, sum);
    }
    for (size_t r = 1; r < ranks.size(); ++r) {
      std::memcpy(ranks[r].value(steps[r].y).row<float>(row), sum,
                  static_cast<size_t>(columns) * sizeof(float));
    }
  });
}

void AllGather(std::span<const CollectiveStep> steps, std::span<const StepContext> ranks) {
  const int64_t columns = steps[0].columns;
  ForEachRow(ranks[0], ranks[0].num_rows(steps[0].rows), columns, [&](int64_t row, int) {
    for (size_t to = 0; to < ranks.size(); ++to) {
      float* y = ranks[to].value(steps[to].y).row<float>(row);
      for (size_t from = 0; from < ranks.size(); ++from) {
        std::memcpy(y + static_cast<int64_t>(from) * columns,
                    ranks[from].value(steps[from].x).row<float>(row),
                    static_cast<size_t>(columns) * sizeof(float));
      }
    }
  });
}

}  // namespace

void RunCollective(std::span<const CollectiveStep> steps, std::span<const StepContext> ranks) {
  switch (steps[0].kind) {
    case CollectiveStep::Kind::kAllReduce:
      return AllReduce(steps, ranks);
    case CollectiveStep::Kind::kAllGather:
      return AllGather(steps, ranks);
  }
}

PreparedStep PrepareAllReduce(const StepReader& step, PlanBuilder&) {
  step.Expect(1, 1, {});
  const ValueOperand x = step.input(0, {DType::kF32});
  const ValueOperand y = step.output(0, {DType::kF32});
  step.ExpectSame(x, y);
  return CollectiveStep{CollectiveStep::Kind::kAllReduce, x.rows, x.columns, x.index, y.index};
}

PreparedStep PrepareAllGather(const StepReader& step, PlanBuilder& plan) {
  step.Expect(1, 1, {});
  const ValueOperand x = step.input(0, {DType::kF32});
  const ValueOperand y = step.output(0, {DType::kF32});
  step.ExpectColumns("output 0", y.columns, x.columns * plan.tp_size());
  step.ExpectSameRows(x, y);
  step.ExpectDifferent(x, y);
  return CollectiveStep{CollectiveStep::Kind::kAllGather, x.rows, x.columns, x.index, y.index};
}

}  // namespace enginery
