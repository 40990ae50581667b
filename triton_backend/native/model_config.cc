// SPDX-License-Identifier: Apache-2.0
#include "model_config.h"

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/str_cat.h"
#include "json.h"
#include "problems.h"
#include "tensors.h"

namespace enginery::triton {
namespace {

const std::vector<Json>& Items(const Json& json, std::string_view name) {
  static const std::vector<Json> kNone;
  const Json* const found = json.Find(name);
  return found == nullptr ? kNone : found->items;
}

// A string or a number as its text; "" when there is none.
std::string_view Text(const Json& json, std::string_view name) {
  const Json* const found = json.Find(name);
  return found == nullptr ? std::string_view() : std::string_view(found->text);
}

// As in the file: "TYPE_INT32 [-1]".
std::string Signature(const Json& tensor) {
  std::string dims;
  for (const Json& dim : Items(tensor, "dims")) dims += StrCat(dims.empty() ? "" : ", ", dim.text);
  return StrCat(Text(tensor, "data_type"), " [", dims, "]");
}

std::string Signature(const TensorSpec& spec) {
  return StrCat("TYPE_", DataTypeName(spec.type), " [", spec.dims, "]");
}

std::vector<std::string_view> Names(const std::vector<Json>& tensors) {
  std::vector<std::string_view> names;
  for (const Json& tensor : tensors) names.push_back(Text(tensor, "name"));
  return names;
}

void CheckBatching(const Json& config, const Layout& layout, Problems& problems) {
  const std::string_view size = Text(config, "max_batch_size");
  const bool is_zero = size == "0" || size == "";
  if (layout.has_rows && is_zero) {
    problems.Add("max_batch_size = 0: must be at least 1; it bounds the rows of a request");
  } else if (!layout.has_rows && !is_zero) {
    problems.Add(StrCat("max_batch_size = ", size,
                        ": must be 0; the runtime batches, set parameters max_batch_size"));
  }
}

void CheckTensors(std::string_view kind, const std::vector<Json>& written,
                  std::span<const TensorSpec> specs, Problems& problems) {
  std::set<std::string_view> found;
  for (const Json& tensor : written) {
    const std::string_view name = Text(tensor, "name");
    found.insert(name);
    const TensorSpec* const spec = FindTensor(specs, name);
    if (spec == nullptr) {
      problems.Add(StrCat(kind, " ", name, ": the model has no such tensor"));
    } else if (Signature(tensor) != Signature(*spec)) {
      problems.Add(
          StrCat(kind, " ", name, ": is ", Signature(tensor), ", must be ", Signature(*spec)));
    }
  }
  for (const TensorSpec& spec : specs) {
    if (!found.contains(spec.name)) problems.Add(StrCat(kind, " ", spec.name, ": is missing"));
  }
}

void CheckInstances(const Json& config, Problems& problems) {
  for (const Json& group : Items(config, "instance_group")) {
    const std::string_view count = Text(group, "count");
    if (count != "1") {
      problems.Add(StrCat("instance_group count = ", count,
                          ": must be 1; one instance batches all requests"));
    }
    if (Text(group, "kind") == "KIND_GPU") {
      problems.Add(
          "instance_group kind = KIND_GPU: must be KIND_CPU; the native backend runs "
          "engines of target cpu");
    }
  }
}

}  // namespace

ModelConfig ReadModelConfig(std::string_view json) {
  const Json config = ParseJson(json);
  Problems problems("config.pbtxt");
  ModelConfig read;
  read.layout = &ChooseLayout(Names(Items(config, "input")));
  CheckBatching(config, *read.layout, problems);
  CheckTensors("input", Items(config, "input"), read.layout->inputs, problems);
  CheckTensors("output", Items(config, "output"), read.layout->outputs, problems);
  CheckInstances(config, problems);
  std::map<std::string, std::string> parameters;
  if (const Json* written = config.Find("parameters")) {
    for (const auto& [name, value] : written->members) {
      parameters[name] = Text(value, "string_value");
    }
  }
  try {
    for (const LayoutParameter& own : read.layout->parameters) {
      const auto written = parameters.extract(std::string(own.name));
      if (!written.empty()) read.*own.field = ReadFlag(own.name, written.mapped());
    }
    read.options = ReadModelOptions(parameters);
  } catch (const Error& error) {
    problems.Add(error.what());
  }
  problems.ThrowIfAny();
  const Json* const policy = config.Find("model_transaction_policy");
  const Json* const decoupled = policy == nullptr ? nullptr : policy->Find("decoupled");
  read.is_decoupled = decoupled != nullptr && decoupled->truth;
  return read;
}

}  // namespace enginery::triton
