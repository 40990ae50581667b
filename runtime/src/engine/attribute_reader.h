// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_ENGINE_ATTRIBUTE_READER_H_
#define ENGINERY_SRC_ENGINE_ATTRIBUTE_READER_H_

#include <cstdint>
#include <string_view>

#include "engine/program.h"
#include "engine/program_image.h"

namespace enginery {

// Records [first, first + count) of the attribute table, which the caller has checked to exist.
// Names are unique, floats finite. Throws Error(ENGINERY_INVALID_PROGRAM) naming `owner`.
Attributes ReadAttributes(ProgramImage& image, uint32_t first, uint32_t count,
                          std::string_view owner);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_ATTRIBUTE_READER_H_
