// SPDX-License-Identifier: Apache-2.0
//
// Collectives between ranks that share this process's memory.
#ifndef ENGINERY_SRC_EXEC_COLLECTIVES_H_
#define ENGINERY_SRC_EXEC_COLLECTIVES_H_

#include <span>

#include "exec/plan.h"

namespace enginery {

// steps[r] is rank r's own step; all are of one kind, rows and columns (checked when the plans were
// made).
void RunCollective(std::span<const CollectiveStep> steps, std::span<const StepContext> ranks);

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_COLLECTIVES_H_
