// SPDX-License-Identifier: Apache-2.0
#include "exec/profiler.h"

#include <algorithm>

namespace enginery {

void Profiler::Step::Add(const OpWork& work, uint64_t duration_ns) {
  auto place = std::ranges::find_if(profile_.ops, [&](const OpProfile& op) {
    return op.op == work.op && op.role == work.role && op.unit == work.unit;
  });
  if (place == profile_.ops.end()) {
    profile_.ops.push_back(
        {std::string(work.op), std::string(work.role), std::string(work.unit), 0, 0, 0, 0});
    place = std::prev(profile_.ops.end());
  }
  ++place->num_calls;
  place->duration_ns += duration_ns;
  place->bytes += static_cast<uint64_t>(work.bytes);
  place->operations += static_cast<uint64_t>(work.operations);
}

void Profiler::set_enabled(bool is_enabled) {
  const std::lock_guard lock(mutex_);
  ++generation_;
  if (is_enabled) steps_.clear();
  is_enabled_.store(is_enabled, std::memory_order_relaxed);
}

Profiler::Step* Profiler::BeginStep(uint64_t step_id) {
  if (!is_enabled_.load(std::memory_order_relaxed)) return nullptr;
  const std::lock_guard lock(mutex_);
  step_.profile_ = {step_id, {}};
  step_.generation_ = generation_;
  return &step_;
}

void Profiler::EndStep(Step* step) {
  if (step == nullptr) return;
  const std::lock_guard lock(mutex_);
  // Turned off, or on anew, meanwhile: it belongs to what was forgotten.
  if (step->generation_ != generation_) return;
  steps_.push_back(std::move(step->profile_));
  if (steps_.size() > kMaxSteps) steps_.pop_front();
}

std::vector<StepProfile> Profiler::Steps() const {
  const std::lock_guard lock(mutex_);
  return {steps_.begin(), steps_.end()};
}

}  // namespace enginery
