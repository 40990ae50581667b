// SPDX-License-Identifier: Apache-2.0
#include "engine/token_bytes.h"

#include "engine/format.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

constexpr uint64_t kFixedBytes = 16;  // num_tokens, zero, data_bytes
constexpr uint8_t kUnused = 2;
constexpr uint8_t kKnownFlags = 3;

}  // namespace

TokenBytes ReadTokenBytes(ByteSpan section, int64_t vocab_size) {
  constexpr enginery_status kStatus = ENGINERY_INVALID_TOKEN_BYTES;
  if (section.size() < kFixedBytes) {
    ThrowInvalid(kStatus, "token_bytes: the section's size", section.size(), "at least 16");
  }
  const uint32_t num_tokens = Load<uint32_t>(section, 0);
  const uint64_t data_bytes = Load<uint64_t>(section, 8);
  RequireRange(kStatus, "token_bytes.num_tokens", num_tokens, static_cast<uint64_t>(vocab_size),
               kMaxColumns);
  RequireRange(kStatus, "token_bytes: the word at 4", Load<uint32_t>(section, 4), 0, 0);

  // num_tokens is small now: only data_bytes can make the sum wrap, so it is compared first.
  const uint64_t data_begin = kFixedBytes + 4 * (uint64_t{num_tokens} + 1) + num_tokens;
  const bool data_fits = FitsIn(data_begin, data_bytes, section.size());
  const uint64_t data_end = data_fits ? data_begin + data_bytes : 0;
  if (!data_fits || section.size() != (data_end + 7) / 8 * 8) {
    throw Error(kStatus,
                StrCat("token_bytes: the section has ", section.size(), " bytes, but num_tokens ",
                       num_tokens, " and data_bytes ", data_bytes, " need ", data_begin, " + ",
                       data_bytes, ", padded to a multiple of 8"));
  }
  if (!IsZero(section.subspan(data_end))) {
    throw Error(kStatus, "token_bytes: the padding at the end is not zero");
  }

  const auto* offsets = reinterpret_cast<const uint32_t*>(section.data() + kFixedBytes);
  const auto* flags = reinterpret_cast<const uint8_t*>(offsets + num_tokens + 1);
  RequireRange(kStatus, "token_bytes.offsets[0]", offsets[0], 0, 0);
  for (uint32_t id = 0; id < num_tokens; ++id) {
    if (offsets[id + 1] < offsets[id]) {
      ThrowInvalid(kStatus, StrCat("token_bytes.offsets[", id + 1, "]"), offsets[id + 1],
                   StrCat("at least the one before, ", offsets[id]));
    }
    if ((flags[id] & ~kKnownFlags) != 0) {
      ThrowInvalid(kStatus, StrCat("token_bytes.flags[", id, "]"), flags[id], "bits 0 and 1");
    }
    if ((flags[id] & kUnused) != 0 && offsets[id + 1] != offsets[id]) {
      throw Error(kStatus, StrCat("token_bytes: id ", id, " is flagged unused, but has ",
                                  offsets[id + 1] - offsets[id], " bytes of text; accepted: none"));
    }
  }
  if (offsets[num_tokens] != data_bytes) {
    ThrowInvalid(kStatus, StrCat("token_bytes.offsets[", num_tokens, "]"), offsets[num_tokens],
                 StrCat("data_bytes, ", data_bytes));
  }
  return TokenBytes(offsets, flags, reinterpret_cast<const char*>(section.data() + data_begin),
                    num_tokens);
}

}  // namespace enginery
