// SPDX-License-Identifier: Apache-2.0
#include "text/text_stream.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "check.h"

namespace enginery::test {
namespace {

struct Outcome {
  std::string text;
  int32_t match = StopMatcher::kNone;
  bool operator==(const Outcome&) const = default;
};

// The whole text at once: the match that ends first, the longest of those.
Outcome Reference(const std::string& bytes, const std::vector<std::string>& stops,
                  bool include_stop) {
  Outcome outcome;
  Utf8Decoder decoder;
  decoder.Append(bytes, &outcome.text);
  decoder.Finish(&outcome.text);
  size_t best_end = std::string::npos;
  size_t best_begin = 0;
  for (size_t i = 0; i < stops.size(); ++i) {
    const size_t begin = outcome.text.find(stops[i]);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stops[i].size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_end = end;
      best_begin = begin;
      outcome.match = static_cast<int32_t>(i);
    }
  }
  if (outcome.match != StopMatcher::kNone) {
    outcome.text.resize(include_stop ? best_end : best_begin);
  }
  return outcome;
}

TEST(text_agrees_with_the_whole_text_reference_under_random_cuts) {
  std::mt19937 random(1);
  const std::vector<std::string> letters = {"a",    "b",        "ab",       "\xC3\xA9", "\xC3",
                                            "\xA9", "\xF0\x9F", "\x98\x80", "\xFF",     "a"};
  const std::vector<std::string> stop_choices = {
      "ab",           "aba",          "bab",      "abab",
      "aab",          "b\xC3\xA9",    "\xC3\xA9", "\xF0\x9F\x98\x80",
      "ba",           "\xEF\xBF\xBD", "aaaa",     "bbb",
      "a\xEF\xBF\xBD"};
  int num_matches = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = random() % 4; i > 0; --i) {
      const std::string& stop = stop_choices[random() % stop_choices.size()];
      if (std::find(stops.begin(), stops.end(), stop) == stops.end()) stops.push_back(stop);
    }
    const bool include_stop = random() % 2 == 0;
    std::vector<std::string> pieces;
    std::string bytes;
    for (size_t i = random() % 16; i > 0; --i) {
      pieces.push_back(letters[random() % letters.size()]);
      bytes += pieces.back();
    }
    const StopStrings strings(stops);
    TextStream stream(&strings, include_stop);
    Outcome got;
    for (const std::string& piece : pieces) {
      std::string text;
      got.match = stream.Append(piece, &text);
      CHECK(IsUtf8(text));
      got.text += text;
      if (got.match != StopMatcher::kNone) break;
    }
    if (got.match == StopMatcher::kNone) got.match = stream.Finish(&got.text);
    const Outcome expected = Reference(bytes, stops, include_stop);
    CHECK_EQ(got.text, expected.text);
    CHECK_EQ(got.match, expected.match);
    num_matches += got.match != StopMatcher::kNone ? 1 : 0;
  }
  CHECK_GT(num_matches, 3000);
}

TEST(only_what_could_become_a_stop_is_held_back) {
  const StopStrings strings({"stop", "tox"});
  TextStream stream(&strings, false);
  std::string text;
  CHECK_EQ(stream.Append("a st", &text), StopMatcher::kNone);
  CHECK_EQ(text, "a ");
  CHECK_EQ(stream.Append("o", &text), StopMatcher::kNone);
  CHECK_EQ(text, "a ");  // "sto" begins "stop"
  CHECK_EQ(stream.Append("y", &text), StopMatcher::kNone);
  CHECK_EQ(text, "a stoy");
  CHECK_EQ(stream.Append("sto", &text), StopMatcher::kNone);
  CHECK_EQ(text, "a stoy");
  CHECK_EQ(stream.Append("xyz", &text), 1);  // "tox" ends before "stop" could
  CHECK_EQ(text, "a stoys");
}

TEST(a_match_inside_a_token_is_cut_exactly) {
  const StopStrings strings({"\n\n"});
  for (const bool include_stop : {false, true}) {
    TextStream stream(&strings, include_stop);
    std::string text;
    CHECK_EQ(stream.Append("one\n", &text), StopMatcher::kNone);
    CHECK_EQ(text, "one");
    CHECK_EQ(stream.Append("\ntwo\n\nthree", &text), 0);
    CHECK_EQ(text, include_stop ? "one\n\n" : "one");
  }
}

TEST(finish_releases_what_was_held) {
  const StopStrings strings({"stop"});
  TextStream stream(&strings, false);
  std::string text;
  stream.Append("sto\xE2\x82", &text);
  CHECK_EQ(text, "");
  CHECK_EQ(stream.Finish(&text), StopMatcher::kNone);
  CHECK_EQ(text, "sto\xEF\xBF\xBD");
}

}  // namespace
}  // namespace enginery::test
