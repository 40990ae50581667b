// SPDX-License-Identifier: Apache-2.0
//
// The scratch memory of one rank: a place for every buffer of its plan, shared by those that never
// live at once.
#ifndef ENGINERY_SRC_EXEC_WORKSPACE_H_
#define ENGINERY_SRC_EXEC_WORKSPACE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "exec/op.h"
#include "exec/plan.h"
#include "exec/reservation.h"

namespace enginery {

class Workspace {
 public:
  Workspace() = default;
  // Room for max_num_tokens rows of tokens and max_logit_rows rows of logits. Throws
  // Error(ENGINERY_INVALID_ARGUMENT) when the limits ask for more than can be addressed.
  Workspace(const std::vector<BufferSpec>& buffers, int64_t max_num_tokens, int64_t max_logit_rows);

  std::span<const Matrix> values() const { return values_; }
  uint64_t bytes() const { return memory_.bytes(); }

 private:
  Reservation memory_;
  std::vector<Matrix> values_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_WORKSPACE_H_
