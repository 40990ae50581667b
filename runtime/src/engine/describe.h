// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_ENGINE_DESCRIBE_H_
#define ENGINERY_SRC_ENGINE_DESCRIBE_H_

#include <string>

#include "engine/engine_file.h"

namespace enginery {

// Header, section table and program as JSON; enginery_engine_describe_json gives the schema.
std::string DescribeJson(const EngineFile& file);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_DESCRIBE_H_
