// SPDX-License-Identifier: Apache-2.0
//
// From the inputs of `tensorrt_llm` to what the runtime takes: a request per row of the batch.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_ROW_READER_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_ROW_READER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "input_rows.h"
#include "native/codec.h"
#include "row_writer.h"

namespace enginery::triton::trtllm {

class RowReader {
 public:
  // `is_decoupled`: whether a request may have several responses. `excludes_input`:
  // `exclude_input_in_output` where a request does not say. The engine outlives the reader.
  RowReader(const EngineFacts& engine, bool is_decoupled, bool excludes_input)
      : engine_(engine), is_decoupled_(is_decoupled), excludes_input_(excludes_input) {}

  // All rows; the engine's limits are checked by submit. Throws Error (INVALID_ARGUMENT) that names
  // the input, what it is and what is accepted.
  std::vector<Row> Read(std::span<const InputTensor> inputs) const;

 private:
  GenerationRequest ReadRequest(const InputRows& inputs, size_t index) const;
  RowOptions ReadOptions(const InputRows& inputs, size_t index,
                         const GenerationRequest& request) const;
  void SetBias(const InputRows& inputs, size_t index, GenerationRequest& request) const;
  void SetStops(const InputRows& inputs, size_t index, GenerationRequest& request) const;

  const EngineFacts& engine_;
  const bool is_decoupled_;
  const bool excludes_input_;
};

}  // namespace enginery::triton::trtllm

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_ROW_READER_H_
