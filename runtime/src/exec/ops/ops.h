// SPDX-License-Identifier: Apache-2.0
//
// The operations of the cpu target, as docs/engine-format.md defines them. One file each: its
// checks, then its run.
#ifndef ENGINERY_SRC_EXEC_OPS_OPS_H_
#define ENGINERY_SRC_EXEC_OPS_OPS_H_

#include "exec/plan.h"

namespace enginery {

PreparedStep PrepareEmbed(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareRmsNorm(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareLinear(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareKvAppend(const StepReader& step, PlanBuilder& plan);
PreparedStep PreparePagedAttention(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareSiluMul(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareScaleColumns(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareGroupSums(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareGatherRows(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareAllReduce(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareAllGather(const StepReader& step, PlanBuilder& plan);
PreparedStep PrepareAdd(const StepReader& step, PlanBuilder& plan);

// Checks a `silu_mul` and returns its output.
ValueOperand ReadSiluMul(const StepReader& step);
// Both steps as one op; see PlanBuilder::FusesSiluMul for when.
PreparedStep PrepareLinearSiluMul(const StepReader& linear, const StepReader& silu_mul,
                                  PlanBuilder& plan);

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_OPS_OPS_H_
