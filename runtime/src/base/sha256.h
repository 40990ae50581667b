// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 (FIPS 180-4), with the SHA instructions of x86 where the machine has them.
#ifndef ENGINERY_SRC_BASE_SHA256_H_
#define ENGINERY_SRC_BASE_SHA256_H_

#include <array>
#include <cstdint>
#include <string>

#include "base/bytes.h"

namespace enginery {

using Sha256Digest = std::array<std::byte, 32>;

class Sha256 {
 public:
  void Update(ByteSpan bytes);
  // The digest of all bytes given. The object must not be used after it.
  Sha256Digest Finish();

 private:
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> block_{};  // the last num_bytes_ % 64 bytes
  uint64_t num_bytes_ = 0;
};

Sha256Digest Sha256Of(ByteSpan bytes);

// 64 lower-case hexadecimal digits.
std::string ToHex(const Sha256Digest& digest);

// What Update runs on whole blocks of 64 bytes: the best of these that the machine has. Named here
// for the tests, which compare them.
using Sha256Compress = void (*)(uint32_t state[8], const std::byte* blocks, size_t num_blocks);
void Sha256CompressPortable(uint32_t state[8], const std::byte* blocks, size_t num_blocks);
// Null where the machine or the build has no SHA instructions.
Sha256Compress Sha256CompressShaNi();

// The round constants: the first 32 bits of the fractional parts of the cube roots of the first 64
// primes.
inline constexpr std::array<uint32_t, 64> kSha256RoundConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_SHA256_H_
