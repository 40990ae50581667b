// SPDX-License-Identifier: Apache-2.0
//
// Events of golden files, which both backends read; times in them are milliseconds.
#pragma once

#include <cstdint>
#include <istream>
#include <map>
#include <string>

#include "enginery/enginery.h"

namespace enginery::triton {

inline constexpr uint64_t kNanosecondsPerMillisecond = 1'000'000;

inline const std::map<std::string, int32_t>& GoldenReasons() {
  static const std::map<std::string, int32_t> reasons = {
      {"NONE", ENGINERY_FINISH_NONE},      {"END_ID", ENGINERY_FINISH_END_ID},
      {"STOP", ENGINERY_FINISH_STOP},      {"LENGTH", ENGINERY_FINISH_LENGTH},
      {"ERROR", ENGINERY_FINISH_ERROR},    {"CANCELLED", ENGINERY_FINISH_CANCELLED},
      {"TIMEOUT", ENGINERY_FINISH_TIMEOUT}};
  return reasons;
}

inline const std::map<std::string, enginery_status>& GoldenStatuses() {
  static const std::map<std::string, enginery_status> statuses = {
      {"OK", ENGINERY_OK},
      {"EXECUTOR_FAILED", ENGINERY_EXECUTOR_FAILED},
      {"QUEUE_FULL", ENGINERY_QUEUE_FULL},
      {"WRONG_TARGET", ENGINERY_WRONG_TARGET}};
  return statuses;
}

inline enginery_event ReadGoldenEvent(std::istream& fields) {
  enginery_event event{};
  event.error = "";
  event.text = "";
  std::string reason;
  std::string status;
  fields >> event.request_id >> event.sequence_index >> reason >> event.is_last >> status >>
      event.num_prompt_tokens >> event.num_output_tokens >> event.arrival_ns >>
      event.first_scheduled_ns >> event.first_token_ns >> event.last_token_ns;
  event.finish_reason = GoldenReasons().at(reason);
  event.status = GoldenStatuses().at(status);
  for (uint64_t* time : {&event.arrival_ns, &event.first_scheduled_ns, &event.first_token_ns,
                         &event.last_token_ns}) {
    *time *= kNanosecondsPerMillisecond;
  }
  return event;
}

}  // namespace enginery::triton
