// SPDX-License-Identifier: Apache-2.0
//
// An operation prepared to run: what the steps of a program become once their operands were checked
// (plan.h).
#ifndef ENGINERY_SRC_EXEC_OP_H_
#define ENGINERY_SRC_EXEC_OP_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/program.h"
#include "exec/batch_view.h"
#include "exec/kv_cache.h"
#include "exec/op_work.h"
#include "exec/thread_pool.h"
#include "kernels/kernels.h"

namespace enginery {

// A value in the workspace: rows of kF32, kBF16 or kI8 (as u8, q + 128, with one scale per row).
struct Matrix {
  std::byte* data;
  int64_t pitch;  // bytes from row to row
  float* scales;  // kI8 only

  template <class T>
  T* row(int64_t r) const {
    return reinterpret_cast<T*>(data + r * pitch);
  }
};

// Queries of attention that follow each other in one sequence.
struct QueryTile {
  int32_t sequence;
  int32_t row;    // the first, in the value that has them
  int32_t token;  // of the step, of the first
  int32_t num_queries;
};
// The tiles of a step, by what a value has rows for.
struct QueryTiles {
  std::vector<QueryTile> of_tokens, of_logits;

  const std::vector<QueryTile>& of(Rows rows) const {
    return rows == Rows::kTokens ? of_tokens : of_logits;
  }
};

// What an op sees of one rank while a step runs.
struct StepContext {
  const Kernels& kernels;
  ThreadPool& pool;
  const BatchView& batch;
  const KvView& kv;
  const QueryTiles& query_tiles;
  std::span<const Matrix> values;  // of the program, then those that ops asked for
  std::byte* scratch;              // scratch_bytes for each thread, aligned to 64 bytes
  int64_t scratch_bytes;

  int64_t num_rows(Rows rows) const {
    return rows == Rows::kTokens ? batch.num_tokens : batch.num_logit_rows;
  }
  const Matrix& value(size_t index) const { return values[index]; }
  float* thread_scratch(int thread) const {
    return reinterpret_cast<float*>(scratch + thread * scratch_bytes);
  }
};

struct Product;

class Op {
 public:
  Op() = default;
  virtual ~Op() = default;
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;

  // Runs on one rank. Does not throw or allocate.
  virtual void Run(const StepContext& context) const = 0;
  // Where this multiplies by a weight, that product (ops/product.h); else null.
  virtual Product* product() { return nullptr; }
  // What Run does for this step, as the shapes imply it.
  virtual OpWork Work(const StepContext& context) const = 0;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_OP_H_
