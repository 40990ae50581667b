// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_ENGINE_TENSOR_READER_H_
#define ENGINERY_SRC_ENGINE_TENSOR_READER_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "engine/program.h"
#include "engine/program_image.h"
#include "engine/sections.h"

namespace enginery {

// Bytes of a tensor, padding of the panels included; nullopt when they do not fit 64 bits. Packed
// layouts take two dimensions; i4 takes n16k8, or `rows` and an even last dimension.
std::optional<uint64_t> TensorBytes(DType dtype, Layout layout, std::span<const uint64_t> shape);

// The tensor table: every tensor lies in its section of `file`. Throws
// Error(ENGINERY_INVALID_TENSOR).
std::vector<Tensor> ReadTensors(ProgramImage& image, ByteSpan file,
                                const std::vector<Section>& sections);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_TENSOR_READER_H_
