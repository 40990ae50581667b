// SPDX-License-Identifier: Apache-2.0
//
// What events say is added up as in the Python backend: both are compared with one golden file,
// here and in tests/triton_backend/test_observations.py.
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "check.h"
#include "native/metric_families.h"
#include "native/observations.h"
#include "support/golden_events.h"
#include "support/golden_lines.h"

namespace enginery::triton {
namespace {

Lines Show(const Observed& observed) {
  Lines lines;
  for (size_t i = 0; i < kFinishReasons.size(); ++i) {
    lines.push_back(StrCat("finish ", kFinishReasons[i], " ", observed.finish_reasons[i]));
  }
  for (size_t i = 0; i < kErrorCauses.size(); ++i) {
    lines.push_back(StrCat("cause ", kErrorCauses[i], " ", observed.errors[i]));
  }
  for (size_t i = 0; i < kNumHistograms; ++i) {
    const Distribution& seen = observed.histograms[i];
    Lines names = BucketNames(Histograms()[i]);
    names.emplace_back("+Inf");
    char sum[64];
    std::snprintf(sum, sizeof sum, "%.6f", seen.sum);
    std::string line = StrCat("histogram ", Histograms()[i].name, " ", sum);
    for (size_t bucket = 0; bucket < names.size(); ++bucket) {
      if (seen.counts[bucket] == 0) continue;
      line += StrCat(" ", names[bucket], " ", seen.counts[bucket]);
    }
    lines.push_back(line);
  }
  return lines;
}

TEST(sums_are_those_of_the_golden_file) {
  Observations observations;
  Lines expected;
  for (const std::string& line : GoldenLines("tests/triton_backend/golden/observations.txt")) {
    if (line.starts_with("#")) continue;
    std::istringstream fields(line);
    std::string kind;
    fields >> kind;
    if (kind == "event") {
      observations.Add(ReadGoldenEvent(fields));
    } else if (kind == "refused") {
      std::string status;
      fields >> status;
      observations.AddError(GoldenStatuses().at(status));
    } else {
      expected.push_back(line);
    }
  }
  const Lines found = Show(observations.Read());
  REQUIRE_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) CHECK_EQ(found[i], expected[i]);
}

TEST(last_step_is_read) {
  const Step step = ReadLastStep(
      R"([{"num_sequences": 1}, {"iteration": 7, "num_sequences": 5, "num_prefill_tokens": 40,)"
      R"( "num_decode_tokens": 3, "num_preempted": 2}])");
  CHECK_EQ(step.num_sequences, 5);
  CHECK_EQ(step.num_prefill_tokens, 40);
  CHECK_EQ(step.num_decode_tokens, 3);
  CHECK_EQ(step.num_preempted, 2);
  CHECK_EQ(ReadLastStep("[]").num_sequences, 0);
}

}  // namespace
}  // namespace enginery::triton
