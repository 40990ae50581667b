// SPDX-License-Identifier: Apache-2.0
//
// The lines of requests are those of the Python backend: both are compared with one golden file,
// here and in tests/triton_backend/test_request_log.py, which says how to write it anew.
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/str_cat.h"
#include "check.h"
#include "native/request_log.h"
#include "support/golden_events.h"
#include "support/golden_lines.h"

namespace enginery::triton {
namespace {

constexpr const char* kGolden = "tests/triton_backend/golden/request_log.txt";

// What is left of a line, without the space before it.
std::string Rest(std::istream& fields) {
  std::string rest;
  std::getline(fields >> std::ws, rest);
  return rest;
}

Lines Written(LogFormat format) {
  Lines lines;
  RequestLog log(
      format, "enginery", [&](const std::string& line) { lines.push_back(line); },
      [] { return Now{1'795'810'000'045, 30'000'000'000}; });
  for (const std::string& line : GoldenLines(kGolden)) {
    std::istringstream fields(line);
    std::string kind;
    fields >> kind;
    if (kind == "event") {
      const enginery_event event = ReadGoldenEvent(fields);
      log.Add(Delta(event, 0), Rest(fields));
    } else if (kind == "refused") {
      std::string status;
      std::string client_id;
      fields >> status >> client_id;
      log.Refuse(client_id, GoldenStatuses().at(status), Rest(fields));
    }
  }
  return lines;
}

TEST(lines_are_those_of_the_golden_file) {
  Lines expected;
  for (const std::string& line : GoldenLines(kGolden)) {
    if (line.starts_with("text ") || line.starts_with("json ")) expected.push_back(line + "\n");
  }
  Lines found;
  for (const std::string& line : Written(LogFormat::kText)) found.push_back("text " + line);
  for (const std::string& line : Written(LogFormat::kJson)) found.push_back("json " + line);
  REQUIRE_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) CHECK_EQ(found[i], expected[i]);
  CHECK(Written(LogFormat::kOff).empty());
}

TEST(ids_that_are_not_fit_for_a_log) {
  CHECK_EQ(ClientRequestId("chat-7"), "chat-7");
  CHECK_EQ(ClientRequestId(std::string(256, 'a')), std::string(256, 'a'));
  CHECK_EQ(ClientRequestId(std::string(257, 'a')), "(257 bytes)");
  CHECK_EQ(ClientRequestId("\xFF"), "(not UTF-8)");
}

TEST(formats_are_named) {
  CHECK(ReadLogFormat("text") == LogFormat::kText);
  CHECK(ReadLogFormat("json") == LogFormat::kJson);
  CHECK_THROWS_WITH(ReadLogFormat("xml"), Error, "text, json");
}

}  // namespace
}  // namespace enginery::triton
