// SPDX-License-Identifier: Apache-2.0
#include "exec/machine_limits.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string_view>

#include "exec/reservation.h"
#include "exec/thread_pool.h"

namespace enginery {
namespace {

template <class Body>
double Seconds(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// ---- Memory ----

// Bytes that a task reads.
constexpr int64_t kPieceBytes = int64_t{1} << 20;

// No cache holds it: twice the last level, where that leaves half of the free memory.
int64_t BufferBytes(uint64_t available_bytes) {
  constexpr int64_t kLeast = int64_t{256} << 20, kMost = int64_t{1} << 30;
  const int64_t cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const int64_t wanted = std::clamp(2 * cache_bytes, kLeast, kMost);
  const auto available = static_cast<int64_t>(available_bytes / 2);
  return std::max(std::min(wanted, available) / kPieceBytes, int64_t{1}) * kPieceBytes;
}

// Four streams at once: a core's prefetchers keep more lines in flight than for one.
uint64_t ReadAll(const std::byte* from, int64_t bytes) {
  using Words = uint64_t __attribute__((vector_size(16)));
  constexpr int64_t kStreams = 4, kLine = 64;
  Words seen[kStreams] = {};
  const int64_t stream_bytes = bytes / kStreams;
  for (int64_t i = 0; i < stream_bytes; i += kLine) {
    for (int64_t s = 0; s < kStreams; ++s) {
      for (int64_t j = 0; j < kLine; j += int64_t{sizeof(Words)}) {
        Words words;
        std::memcpy(&words, from + s * stream_bytes + i + j, sizeof words);
        seen[s] |= words;
      }
    }
  }
  const Words all = (seen[0] | seen[1]) | (seen[2] | seen[3]);
  return all[0] | all[1];
}

double MeasureBandwidth(ThreadPool& pool, int64_t buffer_bytes) {
  constexpr int kRounds = 4;
  const Reservation buffer(static_cast<uint64_t>(buffer_bytes), "measured buffer", Pages::kLarge);
  const int64_t num_pieces = buffer_bytes / kPieceBytes;
  // Written first: pages never touched are all the same page of zeros.
  pool.ParallelFor(num_pieces, [&](int64_t piece, int) {
    std::memset(buffer.data() + piece * kPieceBytes, 1, kPieceBytes);
  });
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const double seconds = Seconds([&] {
      pool.ParallelFor(num_pieces, [&](int64_t piece, int) {
        volatile uint64_t seen = ReadAll(buffer.data() + piece * kPieceBytes, kPieceBytes);
        static_cast<void>(seen);
      });
    });
    best = std::max(best, static_cast<double>(buffer_bytes) / seconds);
  }
  return best;
}

// ---- Products ----

// Runs `rounds` rounds of independent multiply-adds on registers.
using ProductLoop = void (*)(int rounds);

struct Peak {
  ProductLoop loop = nullptr;  // null: not known
  double operations_per_round = 0;
};

// By what is multiplied.
struct Peaks {
  Peak f32, bf16, i8;
};

#if defined(__x86_64__)

// One instruction on twelve accumulators: more than any of these takes cycles.
constexpr int kChains = 12;
#define ENGINERY_TWELVE(op) \
  op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define ENGINERY_CHAIN_REGISTERS                                                           \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define ENGINERY_ROUNDS(target_name, name, zero, round)               \
  __attribute__((target(target_name))) void name(int rounds) {        \
    __asm__ volatile(zero "1:\n" round "dec %0\njnz 1b\nvzeroupper\n" \
                     : "+r"(rounds)                                   \
                     :                                                \
                     : ENGINERY_CHAIN_REGISTERS, "cc");               \
  }

#define ENGINERY_ZERO(i) "vpxor %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n"
#define ENGINERY_ZERO_ALL        \
  ENGINERY_TWELVE(ENGINERY_ZERO) \
  ENGINERY_ZERO(12) ENGINERY_ZERO(13) ENGINERY_ZERO(14) ENGINERY_ZERO(15)

#define ENGINERY_FMA_YMM(i) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" #i "\n"
ENGINERY_ROUNDS("avx2,fma", FmaYmm, ENGINERY_ZERO_ALL, ENGINERY_TWELVE(ENGINERY_FMA_YMM))

// AVX2 has no product of bytes summed in 32 bits: three instructions make one.
#define ENGINERY_MADD_YMM(i)               \
  "vpmaddubsw %%ymm15, %%ymm14, %%ymm13\n" \
  "vpmaddwd %%ymm15, %%ymm13, %%ymm12\n"   \
  "vpaddd %%ymm12, %%ymm" #i ", %%ymm" #i "\n"
ENGINERY_ROUNDS("avx2", MaddYmm, ENGINERY_ZERO_ALL, ENGINERY_TWELVE(ENGINERY_MADD_YMM))

#define ENGINERY_FMA_ZMM(i) "vfmadd231ps %%zmm15, %%zmm14, %%zmm" #i "\n"
ENGINERY_ROUNDS("avx512f", FmaZmm, ENGINERY_ZERO_ALL, ENGINERY_TWELVE(ENGINERY_FMA_ZMM))
#define ENGINERY_BF16_ZMM(i) "vdpbf16ps %%zmm15, %%zmm14, %%zmm" #i "\n"
ENGINERY_ROUNDS("avx512f", Bf16Zmm, ENGINERY_ZERO_ALL, ENGINERY_TWELVE(ENGINERY_BF16_ZMM))
#define ENGINERY_VNNI_ZMM(i) "vpdpbusd %%zmm15, %%zmm14, %%zmm" #i "\n"
ENGINERY_ROUNDS("avx512f", VnniZmm, ENGINERY_ZERO_ALL, ENGINERY_TWELVE(ENGINERY_VNNI_ZMM))

// Eight tiles of 16 rows by 64 bytes: four accumulators, two of each factor. The factors are loaded
// and not zero: of tiles that nobody filled, Granite Rapids multiplies up to 2.4 times as many.
constexpr int kTileProducts = 4;
struct TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // bytes
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
struct TileData {
  int64_t pitch = 64;
  uint8_t bytes[1024];
  TileData() { std::memset(bytes, 0x3f, sizeof bytes); }  // 63; 0.75 as bfloat16
};
#define ENGINERY_TILES(name, op)                                                \
  void name(int rounds) {                                                       \
    const TileConfig config;                                                    \
    const TileData data;                                                        \
    __asm__ volatile(                                                           \
        "ldtilecfg %1\n"                                                        \
        "tilezero %%tmm0\ntilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n"  \
        "tileloadd (%2,%3,1), %%tmm4\ntileloadd (%2,%3,1), %%tmm5\n"            \
        "tileloadd (%2,%3,1), %%tmm6\ntileloadd (%2,%3,1), %%tmm7\n"            \
        "1:\n" op " %%tmm6, %%tmm4, %%tmm0\n" op " %%tmm7, %%tmm4, %%tmm1\n" op \
        " %%tmm6, %%tmm5, %%tmm2\n" op                                          \
        " %%tmm7, %%tmm5, %%tmm3\ndec %0\njnz 1b\n"                             \
        "tilerelease\n"                                                         \
        : "+r"(rounds)                                                          \
        : "m"(config), "r"(data.bytes), "r"(data.pitch)                         \
        : "cc", "memory");                                                      \
  }
ENGINERY_TILES(Bf16Tiles, "tdpbf16ps")
ENGINERY_TILES(I8Tiles, "tdpbusd")

// Asking for kernels by name asked the machine for their instructions, and the system for tiles.
Peaks PeaksOf(std::string_view isa) {
  const Peak fma_ymm = {FmaYmm, kChains * 16.0};
  if (isa == "avx2") return {fma_ymm, fma_ymm, {MaddYmm, kChains * 64.0}};  // bf16 widened to f32
  const Peak fma_zmm = {FmaZmm, kChains * 32.0};
  if (isa == "avx512") return {fma_zmm, {Bf16Zmm, kChains * 64.0}, {VnniZmm, kChains * 128.0}};
  if (isa == "amx") {
    constexpr double kOperations = kTileProducts * 2.0 * 16 * 16;  // per step of depth
    return {fma_zmm, {Bf16Tiles, kOperations * 32}, {I8Tiles, kOperations * 64}};
  }
  return {};
}

#else

Peaks PeaksOf(std::string_view) { return {}; }

#endif

double MeasurePeak(ThreadPool& pool, const Peak& peak) {
  if (peak.loop == nullptr) return 0;
  constexpr int kRepeats = 5, kRounds = 20000, kTasksPerThread = 10;
  const int64_t num_tasks = int64_t{kTasksPerThread} * pool.num_threads();
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const double seconds =
        Seconds([&] { pool.ParallelFor(num_tasks, [&](int64_t, int) { peak.loop(kRounds); }); });
    best = std::max(best,
                    static_cast<double>(num_tasks) * kRounds * peak.operations_per_round / seconds);
  }
  return best;
}

}  // namespace

enginery_machine_limits MeasureLimits(const Kernels& kernels, int num_threads,
                                      uint64_t available_bytes) {
  ThreadPool pool(num_threads);
  const Peaks peaks = PeaksOf(kernels.name);
  enginery_machine_limits limits = {};
  limits.abi_size = sizeof limits;
  // Memory first, which takes long: threads that were just made may share a processor for some
  // milliseconds, and products took no longer and came out at half.
  const int64_t buffer_bytes = BufferBytes(available_bytes);
  limits.memory_bandwidth = MeasureBandwidth(pool, buffer_bytes);
  limits.f32_peak = MeasurePeak(pool, peaks.f32);
  limits.bf16_peak = MeasurePeak(pool, peaks.bf16);
  limits.i8_peak = MeasurePeak(pool, peaks.i8);
  limits.buffer_bytes = static_cast<uint64_t>(buffer_bytes);
  limits.num_threads = num_threads;
  return limits;
}

}  // namespace enginery
