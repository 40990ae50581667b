// SPDX-License-Identifier: Apache-2.0
#include "base/sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace enginery {
namespace {

uint32_t LoadBigEndian(const std::byte* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof word);
  return __builtin_bswap32(word);
}

Sha256Compress BestCompress() {
  static const Sha256Compress best =
      Sha256CompressShaNi() != nullptr ? Sha256CompressShaNi() : Sha256CompressPortable;
  return best;
}

}  // namespace

#if !defined(__x86_64__)
Sha256Compress Sha256CompressShaNi() { return nullptr; }
#endif

void Sha256CompressPortable(uint32_t state[8], const std::byte* blocks, size_t num_blocks) {
  for (; num_blocks > 0; --num_blocks, blocks += 64) {
    uint32_t w[64];
    for (size_t t = 0; t < 16; ++t) w[t] = LoadBigEndian(blocks + 4 * t);
    for (size_t t = 16; t < 64; ++t) {
      const uint32_t x = w[t - 15];
      const uint32_t y = w[t - 2];
      w[t] = w[t - 16] + (std::rotr(x, 7) ^ std::rotr(x, 18) ^ (x >> 3)) + w[t - 7] +
             (std::rotr(y, 17) ^ std::rotr(y, 19) ^ (y >> 10));
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (size_t t = 0; t < 64; ++t) {
      const uint32_t t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                          ((e & f) ^ (~e & g)) + kSha256RoundConstants[t] + w[t];
      const uint32_t t2 =
          (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + t1;
      d = c;
      c = b;
      b = a;
      a = t1 + t2;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
  }
}

void Sha256::Update(ByteSpan bytes) {
  const Sha256Compress compress = BestCompress();
  const size_t pending = num_bytes_ % block_.size();
  num_bytes_ += bytes.size();
  if (pending > 0) {
    const size_t taken = std::min(block_.size() - pending, bytes.size());
    std::copy_n(bytes.begin(), taken, block_.begin() + static_cast<std::ptrdiff_t>(pending));
    if (pending + taken < block_.size()) return;
    compress(state_.data(), block_.data(), 1);
    bytes = bytes.subspan(taken);
  }
  const size_t num_blocks = bytes.size() / block_.size();
  if (num_blocks > 0) compress(state_.data(), bytes.data(), num_blocks);
  std::ranges::copy(bytes.subspan(num_blocks * block_.size()), block_.begin());
}

Sha256Digest Sha256::Finish() {
  // One 1 bit, zeros, and the length in bits as the last 8 bytes of a block, big-endian.
  const uint64_t num_bits = __builtin_bswap64(num_bytes_ * 8);
  std::array<std::byte, 72> tail{std::byte{0x80}};
  const size_t pending = num_bytes_ % 64;
  const size_t padding = (pending < 56 ? 56 : 120) - pending;
  std::memcpy(tail.data() + padding, &num_bits, sizeof num_bits);
  Update(ByteSpan(tail).first(padding + sizeof num_bits));
  Sha256Digest digest;
  for (size_t i = 0; i < state_.size(); ++i) {
    const uint32_t word = __builtin_bswap32(state_[i]);
    std::memcpy(digest.data() + 4 * i, &word, sizeof word);
  }
  return digest;
}

Sha256Digest Sha256Of(ByteSpan bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

std::string ToHex(const Sha256Digest& digest) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const std::byte byte : digest) {
    hex += kDigits[std::to_integer<unsigned>(byte) >> 4];
    hex += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return hex;
}

}  // namespace enginery
