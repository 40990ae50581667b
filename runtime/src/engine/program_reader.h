// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_ENGINE_PROGRAM_READER_H_
#define ENGINERY_SRC_ENGINE_PROGRAM_READER_H_

#include <vector>

#include "base/bytes.h"
#include "engine/program.h"
#include "engine/sections.h"

namespace enginery {

// Reads section `program` of `file`. Tensors point into `file`, which must be 64-byte aligned in
// memory and outlive the program. Throws Error: ENGINERY_INVALID_PROGRAM, ENGINERY_INVALID_TENSOR,
// ENGINERY_UNSUPPORTED_VERSION.
Program ReadProgram(ByteSpan file, const std::vector<Section>& sections, const Section& program);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_PROGRAM_READER_H_
