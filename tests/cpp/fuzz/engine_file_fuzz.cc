// SPDX-License-Identifier: Apache-2.0
//
// Opens the input as an engine file, as it is and with its size and checksums made right, so that
// mutations reach what lies behind them. What opens is walked as the runtime would; what does not
// must be refused with an error of the format.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "engine/describe.h"
#include "engine/engine_file.h"
#include "support/aligned_bytes.h"
#include "support/engine_builder.h"

namespace enginery::test {
namespace {

// Reads what the reader promises can be read; a sanitizer stops at what cannot.
uint64_t Walk(const EngineFile& file) {
  uint64_t sum = DescribeJson(file).size();
  const Program& program = file.program();
  for (const Tensor& tensor : program.tensors) {
    if (reinterpret_cast<uintptr_t>(tensor.data) % 64 != 0) std::abort();
    for (uint64_t i = 0; i < tensor.bytes; ++i) sum += std::to_integer<uint64_t>(tensor.data[i]);
  }
  for (const Step& step : program.steps) {
    for (const Operand& operand : step.outputs) sum += program.values.at(operand.index).columns;
    for (const Operand& operand : step.inputs) {
      if (operand.kind == Operand::Kind::kValue) sum += program.values.at(operand.index).columns;
      if (operand.kind == Operand::Kind::kTensor) sum += program.tensors.at(operand.index).bytes;
    }
  }
  if (file.token_bytes().num_tokens() < static_cast<uint64_t>(file.config().vocab_size)) {
    std::abort();
  }
  for (uint32_t id = 0; id < file.token_bytes().num_tokens(); ++id) {
    for (const char c : file.token_bytes().bytes(static_cast<int32_t>(id))) sum += c != 0;
    sum += file.token_bytes().is_special(static_cast<int32_t>(id));
  }
  sum += file.weight_bytes() + KvBytesPerToken(file.config(), file.header().target);
  return sum;
}

bool IsExpected(enginery_status status) {
  return status >= ENGINERY_BAD_MAGIC && status <= ENGINERY_INVALID_TOKEN_BYTES;
}

void Open(const AlignedBytes& bytes) {
  try {
    const auto file = EngineFile::FromMemory(bytes, "fuzz");
    volatile uint64_t sum = Walk(*file);  // volatile: the reads must happen
    static_cast<void>(sum);
    file->Verify([](uint64_t) {});
  } catch (const Error& error) {
    if (!IsExpected(error.status())) std::abort();
  }
}

}  // namespace
}  // namespace enginery::test

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using enginery::test::AlignedBytes;
  AlignedBytes bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  enginery::test::Open(bytes);
  if (size < 256) return 0;
  enginery::test::Put<uint64_t>(bytes, 16, size);  // file_bytes
  enginery::test::Rehash(bytes);
  enginery::test::Open(bytes);
  return 0;
}
