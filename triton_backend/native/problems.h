// SPDX-License-Identifier: Apache-2.0
//
// Collects what is wrong, so that one error lists all of it.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_PROBLEMS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_PROBLEMS_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery::triton {

class Problems {
 public:
  // `owner`: what they are found in.
  explicit Problems(std::string_view owner) : owner_(owner) {}

  void Add(std::string problem) { problems_.push_back(std::move(problem)); }

  // Throws Error (INVALID_ARGUMENT) unless there are none.
  void ThrowIfAny() const {
    if (problems_.empty()) return;
    std::string message = StrCat(owner_, ": ");
    if (problems_.size() == 1) {
      message += problems_[0];
    } else {
      message += StrCat(problems_.size(), " problems");
      for (const std::string& problem : problems_) message += StrCat("\n  - ", problem);
    }
    throw Error(ENGINERY_INVALID_ARGUMENT, message);
  }

 private:
  std::string owner_;
  std::vector<std::string> problems_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_PROBLEMS_H_
