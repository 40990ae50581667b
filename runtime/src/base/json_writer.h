// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_BASE_JSON_WRITER_H_
#define ENGINERY_SRC_BASE_JSON_WRITER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace enginery {

// Writes one JSON document, in the order of the calls and without spaces. The caller keeps the
// grammar: inside an object Key comes before every value. Text must be UTF-8, doubles finite.
//
//   JsonWriter json;
//   json.BeginObject().Key("shape").BeginArray().Uint(4).Uint(8).EndArray().EndObject();
//   json.text();  // {"shape":[4,8]}
class JsonWriter {
 public:
  JsonWriter& BeginObject() { return Begin('{'); }
  JsonWriter& EndObject() { return End('}'); }
  JsonWriter& BeginArray() { return Begin('['); }
  JsonWriter& EndArray() { return End(']'); }
  JsonWriter& Key(std::string_view key);
  JsonWriter& String(std::string_view value);
  JsonWriter& Int(int64_t value);
  JsonWriter& Uint(uint64_t value);
  // The shortest text that reads back as `value`, always with a point or an exponent, so that a
  // reader can tell it from an integer.
  JsonWriter& Double(double value);
  JsonWriter& Bool(bool value);
  JsonWriter& Null();
  const std::string& text() const { return text_; }

 private:
  JsonWriter& Begin(char bracket);
  JsonWriter& End(char bracket);
  void Separate();
  void Quote(std::string_view text);

  std::string text_;
  std::vector<bool> has_members_;  // of each open object or array
  bool after_key_ = false;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_JSON_WRITER_H_
