// SPDX-License-Identifier: Apache-2.0
//
// Cosines and sines of a step's positions.
#ifndef ENGINERY_SRC_EXEC_ROPE_H_
#define ENGINERY_SRC_EXEC_ROPE_H_

#include "exec/op.h"
#include "exec/plan.h"

namespace enginery {

// Fills the rope's buffer for every token: cos(position * inv_freq) * scale and the sines, in
// float32 throughout, as the models were trained.
void ComputeRope(const RopeSpec& rope, const StepContext& context);

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_ROPE_H_
