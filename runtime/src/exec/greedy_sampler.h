// SPDX-License-Identifier: Apache-2.0
//
// Tokens of the records that take the largest logit and ask for nothing else, found by all threads.
// The sampler, which is one thread, needs tens of microseconds for a row of 150,000 logits; from a
// step that takes the serving loop's time for each sequence.
#ifndef ENGINERY_SRC_EXEC_GREEDY_SAMPLER_H_
#define ENGINERY_SRC_EXEC_GREEDY_SAMPLER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "enginery/enginery.h"
#include "exec/op.h"
#include "sample/logit_scan.h"

namespace enginery {

class GreedySampler {
 public:
  // Draws for the records of a step from `logits` [num_logit_rows, vocab_size]. A token is the one
  // that Sampler::Sample draws, whatever the number of threads. Rows that it would refuse (NaN,
  // +infinity, nothing but -infinity) are left to it, and so is every record that wants more.
  void Run(std::span<const enginery_sample_record> records, const Matrix& logits,
           int64_t vocab_size, ThreadPool& pool);

  // [num_samples] of the last Run: -1 where the record is left to the sampler. Empty when all are.
  std::span<const int32_t> token_ids() const { return token_ids_; }

 private:
  // Kept for their memory.
  std::vector<size_t> greedy_;    // indices of records
  std::vector<LogitMax> maxima_;  // [num_pieces][greedy_.size()]
  std::vector<int32_t> token_ids_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_GREEDY_SAMPLER_H_
