// SPDX-License-Identifier: Apache-2.0
#include "exec/rope.h"

#include <cmath>

#include "exec/ops/rows.h"

namespace enginery {

void ComputeRope(const RopeSpec& rope, const StepContext& context) {
  const Matrix& table = context.value(rope.buffer);
  // A cosine costs some fifty times what an element of other row loops does.
  constexpr int64_t kCost = 50;
  ForEachRow(context, context.batch.num_tokens, kCost * rope.half_dim, [&](int64_t row, int) {
    float* cos = table.row<float>(row);
    float* sin = cos + rope.half_dim;
    const float position = static_cast<float>(context.batch.positions[row]);
    for (int64_t i = 0; i < rope.half_dim; ++i) {
      const float angle = position * rope.inv_freq[i];
      cos[i] = std::cos(angle) * rope.scale;
      sin[i] = std::sin(angle) * rope.scale;
    }
  });
}

}  // namespace enginery
