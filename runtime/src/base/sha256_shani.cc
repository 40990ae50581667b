// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 with the x86 SHA extensions (Intel SDM volume 2: SHA256RNDS2, SHA256MSG1, SHA256MSG2):
// about 2 GB/s a core, so that checking the sections at open costs little. Compiled with
// -msha -msse4.1; called only where cpuid reports both.
#include <cpuid.h>
#include <immintrin.h>

#include "base/sha256.h"

namespace enginery {
namespace {

void Compress(uint32_t state[8], const std::byte* blocks, size_t num_blocks) {
  // Words are big-endian in the message.
  const __m128i byte_order = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  // The instructions want the state as (A, B, E, F) and (C, D, G, H), highest lane first.
  const __m128i dcba = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state));
  const __m128i hgfe = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4));
  const __m128i cdab = _mm_shuffle_epi32(dcba, 0xB1);
  const __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1B);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);

  for (; num_blocks > 0; --num_blocks, blocks += 64) {
    const __m128i abef_before = abef;
    const __m128i cdgh_before = cdgh;
    __m128i w[4];  // the last 16 words of the message schedule, 4 a register
    for (int i = 0; i < 4; ++i) {
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks + 16 * i)),
                              byte_order);
    }
#pragma GCC unroll 16
    for (int quad = 0; quad < 16; ++quad) {
      const __m128i constants = _mm_loadu_si128(
          reinterpret_cast<const __m128i*>(kSha256RoundConstants.data() + 4 * quad));
      const __m128i words = w[quad % 4];
      const __m128i sum = _mm_add_epi32(words, constants);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
      if (quad < 12) {
        // w[t] = w[t-16] + sigma0(w[t-15]) + w[t-7] + sigma1(w[t-2]), four at a time.
        const __m128i w15 = w[(quad + 1) % 4];
        const __m128i w7 = _mm_alignr_epi8(w[(quad + 3) % 4], w[(quad + 2) % 4], 4);
        const __m128i partial = _mm_add_epi32(_mm_sha256msg1_epu32(words, w15), w7);
        w[quad % 4] = _mm_sha256msg2_epu32(partial, w[(quad + 3) % 4]);
      }
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }

  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

bool MachineHasShaNi() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
  const bool has_ssse3_sse41 = (ecx & bit_SSSE3) != 0 && (ecx & bit_SSE4_1) != 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  return has_ssse3_sse41 && (ebx & bit_SHA) != 0;
}

}  // namespace

Sha256Compress Sha256CompressShaNi() { return MachineHasShaNi() ? Compress : nullptr; }

}  // namespace enginery
