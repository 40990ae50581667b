// SPDX-License-Identifier: Apache-2.0
//
// What the HTTP generate extension takes for parameters: JSON keys of no input. Without this a
// misspelt option would be ignored, and so would one that other servers have and this one lacks.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_PARAMETERS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_PARAMETERS_H_

#include <span>
#include <string>
#include <string_view>

#include "option_value.h"

namespace enginery::triton {

struct RequestParameter {
  std::string name;
  OptionValue value;
};

// An option that users bring from elsewhere: the value that leaves it off, as JSON ("": none does),
// and why there is no other. As `_UNSUPPORTED` in triton_backend/requests.py.
struct UnsupportedOption {
  std::string_view name;
  std::string_view neutral;
  std::string_view reason;
};
std::span<const UnsupportedOption> UnsupportedOptions();

// Throws Error (INVALID_ARGUMENT) that lists every parameter that is refused, with the reason or
// the input that was meant.
void CheckParameters(std::span<const RequestParameter> parameters);

// Whether Triton server understands it: e.g. triton_enable_empty_final_response, and `id` of HTTP's
// `generate`, which is the request's id as well.
bool IsServersOwn(const RequestParameter& parameter);

// The problem with a parameter that none of `names` is: with the one that was perhaps meant.
std::string NoSuchOption(const std::string& name, std::span<const std::string_view> names);

// The one of `names` that `name` is most likely a misspelling of; "" when none is close.
std::string_view ClosestName(std::string_view name, std::span<const std::string_view> names);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_PARAMETERS_H_
