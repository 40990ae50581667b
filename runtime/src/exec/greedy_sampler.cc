// SPDX-License-Identifier: Apache-2.0
#include "exec/greedy_sampler.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace enginery {
namespace {

// Some microseconds of work: one row is enough for many threads, and handing it out costs little.
constexpr int64_t kPieceColumns = 16384;

// As Sampler::Sample has it; the flag stands for temperature 0.
bool IsGreedy(const enginery_sample_record& record) {
  if ((record.flags & ENGINERY_SAMPLE_HOST_ONLY) != 0) return false;
  return (record.flags & ENGINERY_SAMPLE_GREEDY) != 0 || record.top_k == 1;
}

}  // namespace

void GreedySampler::Run(std::span<const enginery_sample_record> records, const Matrix& logits,
                        int64_t vocab_size, ThreadPool& pool) {
  token_ids_.clear();
  greedy_.clear();
  for (size_t i = 0; i < records.size(); ++i) {
    if (IsGreedy(records[i])) greedy_.push_back(i);
  }
  if (greedy_.empty()) return;

  const auto num_rows = static_cast<int64_t>(greedy_.size());
  const int64_t num_pieces = (vocab_size + kPieceColumns - 1) / kPieceColumns;
  maxima_.resize(static_cast<size_t>(num_rows * num_pieces));
  // All rows of a piece, then the next piece: threads get the columns that they have just computed
  // in lm_head, as far as these are still in their caches.
  pool.ParallelFor(num_rows * num_pieces, [&](int64_t task, int) {
    const enginery_sample_record& record = records[greedy_[static_cast<size_t>(task % num_rows)]];
    const int64_t begin = task / num_rows * kPieceColumns;
    const int64_t end = std::min(begin + kPieceColumns, vocab_size);
    const float* row = logits.row<float>(record.logit_row);
    LogitMax& max = maxima_[static_cast<size_t>(task)];
    max = FindMax({row + begin, row + end});
    max.token_id += static_cast<int32_t>(begin);
  });

  token_ids_.assign(records.size(), -1);
  for (size_t r = 0; r < greedy_.size(); ++r) {
    LogitMax max = maxima_[r];
    for (size_t i = r + greedy_.size(); i < maxima_.size(); i += greedy_.size()) {
      const bool is_valid = max.is_valid && maxima_[i].is_valid;
      // Of equal ones the first piece's, which has the lowest id.
      if (maxima_[i].value > max.value) max = maxima_[i];
      max.is_valid = is_valid;
    }
    if (max.is_valid && max.value > -std::numeric_limits<float>::infinity()) {
      token_ids_[greedy_[r]] = max.token_id;
    }
  }
}

}  // namespace enginery
