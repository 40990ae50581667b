// SPDX-License-Identifier: Apache-2.0
//
// The one exception type of the library. It carries the status code that the C interface returns;
// src/api turns it into that code and a message. Others catch it only to say more (which file) and
// throw it on.
#ifndef ENGINERY_SRC_BASE_ERROR_H_
#define ENGINERY_SRC_BASE_ERROR_H_

#include <stdexcept>
#include <string>

#include "enginery/enginery.h"

namespace enginery {

class Error : public std::runtime_error {
 public:
  Error(enginery_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  enginery_status status() const { return status_; }

 private:
  enginery_status status_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_ERROR_H_
