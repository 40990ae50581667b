// SPDX-License-Identifier: Apache-2.0
#include "json.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace enginery::triton {
namespace {

// Bounds the reader's recursion, whatever a client sends.
constexpr int kMaxDepth = 64;
constexpr size_t kNone = std::string_view::npos;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

void AppendUtf8(std::string& out, uint32_t character) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xC0 | character >> 6);
    put(0x80 | (character & 0x3F));
  } else if (character < 0x10000) {
    put(0xE0 | character >> 12);
    put(0x80 | (character >> 6 & 0x3F));
    put(0x80 | (character & 0x3F));
  } else {
    put(0xF0 | character >> 18);
    put(0x80 | (character >> 12 & 0x3F));
    put(0x80 | (character >> 6 & 0x3F));
    put(0x80 | (character & 0x3F));
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json ParseDocument() {
    if (!IsUtf8(text_)) Fail("the text is not UTF-8");
    Json value = ParseValue(0);
    SkipSpace();
    if (at_ != text_.size()) Fail("something follows the value");
    return value;
  }

 private:
  [[noreturn]] void Fail(std::string_view what) const {
    throw Error(ENGINERY_INVALID_ARGUMENT, StrCat("byte ", at_, ": ", what));
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void SkipSpace() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != kNone) ++at_;
  }

  bool Take(char c) {
    if (Peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }

  void Expect(char c) {
    if (!Take(c)) Fail(StrCat("expected '", std::string_view(&c, 1), "'"));
  }

  bool TakeWord(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  Json ParseValue(int depth) {
    if (depth > kMaxDepth) Fail(StrCat("nested more than ", kMaxDepth, " levels deep"));
    SkipSpace();
    Json value;
    switch (Peek()) {
      case '{':
        ParseObject(value, depth);
        break;
      case '[':
        ParseArray(value, depth);
        break;
      case '"':
        value.kind = Json::Kind::kString;
        value.text = ParseString();
        break;
      default:
        ParseScalar(value);
    }
    return value;
  }

  void ParseObject(Json& object, int depth) {
    object.kind = Json::Kind::kObject;
    Expect('{');
    SkipSpace();
    if (Take('}')) return;
    std::set<std::string, std::less<>> names;
    do {
      SkipSpace();
      std::string name = ParseString();
      if (!names.insert(name).second) Fail(StrCat("the name ", name, " for the second time"));
      SkipSpace();
      Expect(':');
      Json value = ParseValue(depth + 1);
      object.members.emplace_back(std::move(name), std::move(value));
      SkipSpace();
    } while (Take(','));
    Expect('}');
  }

  void ParseArray(Json& array, int depth) {
    array.kind = Json::Kind::kArray;
    Expect('[');
    SkipSpace();
    if (Take(']')) return;
    do {
      array.items.push_back(ParseValue(depth + 1));
      SkipSpace();
    } while (Take(','));
    Expect(']');
  }

  void ParseScalar(Json& value) {
    if (TakeWord("null")) return;
    value.truth = TakeWord("true");
    if (value.truth || TakeWord("false")) {
      value.kind = Json::Kind::kBool;
      return;
    }
    value.kind = Json::Kind::kNumber;
    const size_t begin = at_;
    Take('-');
    if (!Take('0')) TakeDigits("expected a value");
    if (Take('.')) TakeDigits("expected digits after the point");
    if (Take('e') || Take('E')) {
      if (!Take('+')) Take('-');
      TakeDigits("expected digits of the exponent");
    }
    value.text = text_.substr(begin, at_ - begin);
  }

  void TakeDigits(std::string_view what) {
    if (!IsDigit(Peek())) Fail(what);
    while (IsDigit(Peek())) ++at_;
  }

  std::string ParseString() {
    if (!Take('"')) Fail("expected a string");
    std::string out;
    while (true) {
      if (at_ == text_.size()) Fail("the string does not end");
      const char c = text_[at_++];
      if (c == '"') return out;
      if (static_cast<unsigned char>(c) < 0x20) Fail("a control character must be escaped");
      if (c == '\\') {
        ParseEscape(out);
      } else {
        out.push_back(c);
      }
    }
  }

  void ParseEscape(std::string& out) {
    constexpr std::string_view kLetters = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    if (Take('u')) {
      uint32_t character = ParseHex();
      if (character >= 0xD800 && character < 0xDC00) {
        if (!TakeWord("\\u")) Fail("a lone surrogate is no character");
        const uint32_t low = ParseHex();
        if (low < 0xDC00 || low > 0xDFFF) Fail("a lone surrogate is no character");
        character = 0x10000 + ((character - 0xD800) << 10) + (low - 0xDC00);
      } else if (character >= 0xDC00 && character <= 0xDFFF) {
        Fail("a lone surrogate is no character");
      }
      AppendUtf8(out, character);
      return;
    }
    const size_t found = at_ < text_.size() ? kLetters.find(text_[at_]) : kNone;
    if (found == kNone) Fail("there is no such escape");
    ++at_;
    out.push_back(kMeanings[found]);
  }

  uint32_t ParseHex() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = Peek();
      if (IsDigit(c)) {
        value = value << 4 | static_cast<uint32_t>(c - '0');
      } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
        value = value << 4 | static_cast<uint32_t>((c | 0x20) - 'a' + 10);
      } else {
        Fail("expected four hexadecimal digits");
      }
    }
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const Json* Json::Find(std::string_view name) const {
  const auto found = std::ranges::find(members, name, &std::pair<std::string, Json>::first);
  return found == members.end() ? nullptr : &found->second;
}

Json ParseJson(std::string_view text) { return Parser(text).ParseDocument(); }

}  // namespace enginery::triton
