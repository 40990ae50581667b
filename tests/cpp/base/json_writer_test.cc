// SPDX-License-Identifier: Apache-2.0
#include "base/json_writer.h"

#include <cstdint>
#include <limits>

#include "check.h"

namespace enginery::test {
namespace {

TEST(nested_values_are_separated) {
  JsonWriter json;
  json.BeginObject();
  json.Key("a").BeginArray().Int(-1).Uint(2).Null().BeginObject().EndObject().EndArray();
  json.Key("b").String("c");
  json.Key("d").BeginObject().Key("e").BeginArray().EndArray().EndObject();
  json.EndObject();
  CHECK_EQ(json.text(), R"({"a":[-1,2,null,{}],"b":"c","d":{"e":[]}})");
}

TEST(text_is_escaped) {
  JsonWriter json;
  json.String(std::string("\"\\/\n\t\r\x01\x1f\0 \xc3\xa9", 12));
  CHECK_EQ(json.text(), "\"\\\"\\\\/\\n\\t\\u000d\\u0001\\u001f\\u0000 \xc3\xa9\"");
}

TEST(numbers_read_back_as_they_were) {
  JsonWriter json;
  json.BeginArray().Int(std::numeric_limits<int64_t>::min());
  json.Uint(std::numeric_limits<uint64_t>::max());
  json.Double(1).Double(0.1).Double(-1e300).Double(5e-324).Double(-0.0).EndArray();
  CHECK_EQ(json.text(), "[-9223372036854775808,18446744073709551615,1.0,0.1,-1e+300,5e-324,-0.0]");
}

}  // namespace
}  // namespace enginery::test
