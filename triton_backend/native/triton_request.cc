// SPDX-License-Identifier: Apache-2.0
#include "triton_request.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "triton_calls.h"

namespace enginery::triton {
namespace {

constexpr int64_t kMicrosecondsPerMillisecond = 1000;

DataType FromTriton(TRITONSERVER_DataType type) {
  switch (type) {
    case TRITONSERVER_TYPE_BYTES:
      return DataType::kString;
    case TRITONSERVER_TYPE_INT32:
      return DataType::kInt32;
    case TRITONSERVER_TYPE_INT64:
      return DataType::kInt64;
    case TRITONSERVER_TYPE_UINT8:
      return DataType::kUint8;
    case TRITONSERVER_TYPE_UINT64:
      return DataType::kUint64;
    case TRITONSERVER_TYPE_FP16:
      return DataType::kFp16;
    case TRITONSERVER_TYPE_FP32:
      return DataType::kFp32;
    case TRITONSERVER_TYPE_BOOL:
      return DataType::kBool;
    default:
      return DataType::kOther;
  }
}

OptionValue ReadParameterValue(TRITONSERVER_ParameterType type, const void* value) {
  switch (type) {
    case TRITONSERVER_PARAMETER_STRING:
      return std::string(static_cast<const char*>(value));
    case TRITONSERVER_PARAMETER_INT:
      return *static_cast<const int64_t*>(value);
    case TRITONSERVER_PARAMETER_BOOL:
      return *static_cast<const bool*>(value);
    case TRITONSERVER_PARAMETER_DOUBLE:
      return *static_cast<const double*>(value);
    default:  // bytes without a length; the name is what matters
      return std::string("bytes");
  }
}

std::vector<RequestParameter> ReadParameters(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  Check(TRITONBACKEND_RequestParameterCount(request, &count));
  std::vector<RequestParameter> parameters;
  for (uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    TRITONSERVER_ParameterType type{};
    const void* value = nullptr;
    Check(TRITONBACKEND_RequestParameter(request, i, &name, &type, &value));
    parameters.push_back({name, ReadParameterValue(type, value)});
  }
  return parameters;
}

// The bytes of an input: where they lie when they lie in one piece, else gathered into `gathered`.
std::span<const std::byte> ReadBytes(TRITONBACKEND_Input* input, std::string_view name,
                                     uint32_t num_buffers, std::vector<std::byte>& gathered) {
  std::span<const std::byte> whole;
  for (uint32_t i = 0; i < num_buffers; ++i) {
    const void* buffer = nullptr;
    uint64_t num_bytes = 0;
    TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
    int64_t memory_type_id = 0;
    Check(TRITONBACKEND_InputBuffer(input, i, &buffer, &num_bytes, &memory_type, &memory_type_id));
    if (memory_type == TRITONSERVER_MEMORY_GPU) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  StrCat(name, ": is in GPU memory; send it from host memory"));
    }
    whole = {static_cast<const std::byte*>(buffer), num_bytes};
    if (num_buffers > 1) gathered.insert(gathered.end(), whole.begin(), whole.end());
  }
  return num_buffers > 1 ? std::span<const std::byte>(gathered) : whole;
}

// `gathered`: holds the inputs that lie in several pieces.
std::vector<InputTensor> ReadInputs(TRITONBACKEND_Request* request,
                                    std::vector<std::vector<std::byte>>& gathered) {
  uint32_t count = 0;
  Check(TRITONBACKEND_RequestInputCount(request, &count));
  std::vector<InputTensor> tensors(count);
  gathered.resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    TRITONBACKEND_Input* input = nullptr;
    Check(TRITONBACKEND_RequestInputByIndex(request, i, &input));
    const char* name = nullptr;
    TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
    const int64_t* shape = nullptr;
    uint32_t num_dims = 0;
    uint32_t num_buffers = 0;
    Check(TRITONBACKEND_InputProperties(input, &name, &type, &shape, &num_dims, nullptr,
                                        &num_buffers));
    tensors[i] = {name,
                  FromTriton(type),
                  {shape, num_dims},
                  ReadBytes(input, name, num_buffers, gathered[i])};
  }
  return tensors;
}

// Triton server's own limit, which clients give as `timeout`, beside ours: the shorter one holds.
void ApplyServerTimeout(TRITONBACKEND_Request* request, enginery_request& fields) {
  uint64_t timeout_us = 0;
  Check(TRITONBACKEND_InferenceRequestTimeoutMicroseconds(request, &timeout_us));
  if (timeout_us == 0) return;
  const auto timeout_ms =
      static_cast<int64_t>(timeout_us / kMicrosecondsPerMillisecond) + 1;  // never before its time
  fields.timeout_ms = fields.timeout_ms == 0 ? timeout_ms : std::min(fields.timeout_ms, timeout_ms);
}

}  // namespace

ModelRequest ReadTritonRequest(TRITONBACKEND_Request* request, const Codec& codec) {
  const char* id = nullptr;
  Check(TRITONBACKEND_RequestId(request, &id));
  std::vector<std::vector<std::byte>> gathered;
  const IncomingRequest incoming{id, ReadParameters(request), ReadInputs(request, gathered)};
  ModelRequest read = codec.Read(incoming);
  for (Row& row : read.rows) ApplyServerTimeout(request, row.request.fields);
  return read;
}

}  // namespace enginery::triton
