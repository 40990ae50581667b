// SPDX-License-Identifier: Apache-2.0
//
// Loops over rows, and rows written in the dtype that the next linear takes.
#ifndef ENGINERY_SRC_EXEC_OPS_ROWS_H_
#define ENGINERY_SRC_EXEC_OPS_ROWS_H_

#include <algorithm>
#include <cstdint>

#include "exec/op.h"
#include "exec/step_reader.h"

namespace enginery {

// Calls body(begin, end, thread) for pieces of the rows of about kElements elements: less work than
// that does not pay for waking a thread. Two rows or more are an even number.
template <class Body>
void ForEachRows(const StepContext& context, int64_t num_rows, int64_t columns, const Body& body) {
  constexpr int64_t kElements = 8192;
  const int64_t fitting = std::max<int64_t>(1, kElements / columns);
  const int64_t rows_per_task = fitting + (fitting > 1 ? fitting % 2 : 0);
  const int64_t num_tasks = (num_rows + rows_per_task - 1) / rows_per_task;
  context.pool.ParallelFor(num_tasks, [&](int64_t task, int thread) {
    body(task * rows_per_task, std::min(num_rows, (task + 1) * rows_per_task), thread);
  });
}

// Asks for bytes of a row that is read soon. Of a long step rows lie in the last cache, whose
// latency a processor that sees each row begin anew does not hide.
inline void FetchRow(const Matrix& matrix, int64_t row, int64_t bytes, int64_t offset = 0) {
  constexpr int64_t kLineBytes = 64;
  const std::byte* begin = matrix.row<std::byte>(row) + offset;
  for (int64_t at = 0; at < bytes; at += kLineBytes) __builtin_prefetch(begin + at);
}

// Calls body(row, thread) for every row.
template <class Body>
void ForEachRow(const StepContext& context, int64_t num_rows, int64_t columns, const Body& body) {
  ForEachRows(context, num_rows, columns, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t row = begin; row < end; ++row) body(row, thread);
  });
}

// Where a row destined for `to` is computed in f32: in place, or in the thread's scratch.
inline float* RowInF32(const StepContext& context, const Matrix& to, DType dtype, int64_t row,
                       int thread) {
  return dtype == DType::kF32 ? to.row<float>(row) : context.thread_scratch(thread);
}

// Stores what RowInF32 gave. inverse_scale: above zero, of codes with a static scale: i8, or values
// of E4M3 in bf16. Who multiplies static codes of i8 knows their scale: that of the row is 1.
inline void StoreRow(const StepContext& context, const float* from, const Matrix& to, DType dtype,
                     int64_t row, int64_t columns, float inverse_scale = 0.0f) {
  const Kernels& kernels = context.kernels;
  if (dtype == DType::kBF16 && inverse_scale > 0.0f) {
    kernels.static_e4m3_row(from, columns, inverse_scale, to.row<uint16_t>(row));
  } else if (dtype == DType::kBF16) {
    kernels.bf16_row(from, columns, to.row<uint16_t>(row));
  } else if (dtype == DType::kI8 && inverse_scale > 0.0f) {
    kernels.static_i8_row(from, columns, inverse_scale, to.row<uint8_t>(row));
    to.scales[row] = 1.0f;
  } else if (dtype == DType::kI8) {
    kernels.quantize_row(from, columns, to.row<uint8_t>(row), &to.scales[row]);
  }
}

// Of the thread's scratch, for StoreProductRow.
constexpr int64_t ProductScratchBytes(int64_t columns) { return columns * (4 + 2); }

// As StoreRow, for products: those that get a scale of their row are rounded to bf16 before it is
// found, as where they are stored so on the way (linear_silu_mul.cc).
inline void StoreProductRow(const StepContext& context, float* from, const Matrix& to, DType dtype,
                            int64_t row, int64_t columns, float inverse_scale) {
  if (dtype != DType::kI8 || inverse_scale > 0.0f) {
    return StoreRow(context, from, to, dtype, row, columns, inverse_scale);
  }
  uint16_t* rounded = reinterpret_cast<uint16_t*>(from + columns);
  context.kernels.bf16_row(from, columns, rounded);
  context.kernels.quantize_bf16_row(rounded, columns, to.row<uint8_t>(row), &to.scales[row]);
}

// The inverse of a static scale of `y`: input `input` of a step of version 2; 0 where there is
// none.
inline float ReadInverseScale(const StepReader& step, size_t input, const ValueOperand& y) {
  if (step.step().version < 2 || !step.has_input(input)) return 0.0f;
  if (y.dtype == DType::kF32) step.ThrowInvalid("an output of f32 has no scale");
  return step.scale(input);
}

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_OPS_ROWS_H_
