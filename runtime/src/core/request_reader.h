// SPDX-License-Identifier: Apache-2.0
//
// From the C struct of a request, which is hostile until checked, to a Request.
#ifndef ENGINERY_SRC_CORE_REQUEST_READER_H_
#define ENGINERY_SRC_CORE_REQUEST_READER_H_

#include <memory>

#include "core/request.h"
#include "core/runtime_config.h"
#include "enginery/enginery.h"

namespace enginery {

// Copies all it needs. Checks every field against its range and the model; whether the KV blocks
// suffice is the scheduler's question. Id, ticket and times are left to the caller. Throws
// Error(ENGINERY_INVALID_ARGUMENT) naming the first bad field, its value, what is accepted and the
// fix.
std::unique_ptr<Request> ReadRequest(const enginery_request& request, const RuntimeConfig& config);

}  // namespace enginery

#endif  // ENGINERY_SRC_CORE_REQUEST_READER_H_
