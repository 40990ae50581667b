// SPDX-License-Identifier: Apache-2.0
//
// What this machine can do at most: bytes per second from memory, multiply-adds per second.
//
//   limits [NUM_THREADS]
//
// Prints one JSON object. Bandwidth is that of reading a buffer again and again, for a buffer near
// the size of a model and for one that no cache holds. Peaks are those of loops over registers or
// tiles that load nothing, in 1e9 operations per second, a multiply-add being two. Of several short
// trials the best counts.
#include <cpuid.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

namespace {

constexpr int kTrials = 7;
constexpr long kPeakIterations = 200000;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs `work(thread)` on all threads at once, `kTrials` times; the shortest time, in seconds.
double ShortestTime(int num_threads, const std::function<void(int)>& work) {
  std::atomic<int> num_ready{0};
  std::vector<double> begin(num_threads * kTrials), end(num_threads * kTrials);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < num_threads; ++thread) {
    threads.emplace_back([&, thread] {
      work(thread);  // first touch, frequency
      for (int trial = 0; trial < kTrials; ++trial) {
        ++num_ready;
        while (num_ready.load() < num_threads * (trial + 1)) {
        }
        begin[trial * num_threads + thread] = Seconds();
        work(thread);
        end[trial * num_threads + thread] = Seconds();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  double shortest = 1e30;
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto first = begin.begin() + trial * num_threads;
    const auto last = end.begin() + trial * num_threads;
    shortest = std::min(shortest, *std::max_element(last, last + num_threads) -
                                      *std::min_element(first, first + num_threads));
  }
  return shortest;
}

__attribute__((target("avx2"))) void ReadAll(const char* data, size_t num_bytes) {
  __m256i sum[8] = {};
  for (size_t i = 0; i + 256 <= num_bytes; i += 256) {
    for (int j = 0; j < 8; ++j) {
      const auto* vector = reinterpret_cast<const __m256i*>(data + i + 32 * j);
      sum[j] = _mm256_xor_si256(sum[j], _mm256_load_si256(vector));
    }
  }
  for (__m256i& value : sum) asm volatile("" : : "x"(value));
}

double BandwidthGbS(int num_threads, size_t num_bytes) {
  void* memory =
      mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  madvise(memory, num_bytes, MADV_HUGEPAGE);
  char* data = static_cast<char*>(memory);
  const size_t share = num_bytes / num_threads / 4096 * 4096;
  for (size_t i = 0; i < num_bytes; i += 4096) data[i] = 1;
  const double seconds =
      ShortestTime(num_threads, [&](int thread) { ReadAll(data + thread * share, share); });
  munmap(memory, num_bytes);
  return static_cast<double>(share * num_threads) / seconds / 1e9;
}

// Twelve independent accumulators hide the latency of two units of four or five cycles.
#define LOOP12(INSTRUCTION)                                      \
  for (long i = 0; i < kPeakIterations; ++i) {                   \
    _Pragma("GCC unroll 12") for (int j = 0; j < 12; ++j) {      \
      asm volatile(INSTRUCTION : "+v"(sum[j]) : "v"(a), "v"(b)); \
    }                                                            \
  }

__attribute__((target("avx2,fma"))) void FmaAvx2() {
  __m256 sum[12] = {}, a = _mm256_set1_ps(0.5f), b = a;
  LOOP12("vfmadd231ps %2, %1, %0")
}
__attribute__((target("avx2"))) void Int8Avx2() {
  __m256i sum[6] = {}, a = _mm256_set1_epi8(1), b = a, ones = _mm256_set1_epi16(1);
  for (long i = 0; i < kPeakIterations; ++i) {
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      __m256i product;
      asm volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
                   : "+x"(sum[j]), "=&x"(product)
                   : "x"(a), "x"(b), "x"(ones));
    }
  }
}
__attribute__((target("avx512f"))) void FmaAvx512() {
  __m512 sum[12] = {}, a = _mm512_set1_ps(0.5f), b = a;
  LOOP12("vfmadd231ps %2, %1, %0")
}
__attribute__((target("avx512f,avx512vnni"))) void Int8Avx512() {
  __m512i sum[12] = {}, a = _mm512_set1_epi8(1), b = a;
  LOOP12("vpdpbusd %2, %1, %0")
}
__attribute__((target("avx512f,avx512bf16"))) void Bf16Avx512() {
  __m512 sum[12] = {}, a = _mm512_set1_ps(0.5f), b = a;
  LOOP12("vdpbf16ps %2, %1, %0")
}

// Four accumulators of 2 x 2 tiles, as a GEMM holds them.
void LoadTileConfig() {
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; ++tile) config[16 + 2 * tile] = 64, config[48 + tile] = 16;
  asm volatile("ldtilecfg %0" : : "m"(config));
  asm volatile("tilezero %tmm4\n\ttilezero %tmm5\n\ttilezero %tmm6\n\ttilezero %tmm7");
  asm volatile("tilezero %tmm0\n\ttilezero %tmm1\n\ttilezero %tmm2\n\ttilezero %tmm3");
}
void Int8Amx() {
  LoadTileConfig();
  for (long i = 0; i < kPeakIterations / 10; ++i) {
    asm volatile(
        "tdpbssd %tmm6, %tmm4, %tmm0\n\ttdpbssd %tmm7, %tmm4, %tmm1\n\t"
        "tdpbssd %tmm6, %tmm5, %tmm2\n\ttdpbssd %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
}
void Bf16Amx() {
  LoadTileConfig();
  for (long i = 0; i < kPeakIterations / 10; ++i) {
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
}

bool HasBit(unsigned leaf, unsigned subleaf, int which, int bit) {
  unsigned words[4] = {};
  if (__get_cpuid_count(leaf, subleaf, &words[0], &words[1], &words[2], &words[3]) == 0)
    return false;
  return (words[which] >> bit & 1) != 0;
}

// The kernel gives a process the tiles' state only when it asks.
bool HasAmx(int bit) {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return HasBit(7, 0, 3, bit) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

void PrintPeak(const char* name, int num_threads, void (*loop)(), double operations) {
  const double seconds = ShortestTime(num_threads, [loop](int) { loop(); });
  std::printf(", \"%s\": %.1f", name, num_threads * operations / seconds / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : 1;
  if (num_threads < 1 || num_threads > 1024) {
    std::fprintf(stderr, "NUM_THREADS = %d: must be 1 .. 1024\n", num_threads);
    return 2;
  }
  constexpr size_t kMb = size_t{1} << 20;
  constexpr double k12 = 12.0 * kPeakIterations, kTiles = 4.0 * (kPeakIterations / 10);
  std::printf("{\"num_threads\": %d", num_threads);
  std::printf(", \"bandwidth_512mb_gb_s\": %.2f", BandwidthGbS(num_threads, 512 * kMb));
  std::printf(", \"bandwidth_2048mb_gb_s\": %.2f", BandwidthGbS(num_threads, 2048 * kMb));
  if (HasBit(7, 0, 1, 5) && HasBit(1, 0, 2, 12)) {
    PrintPeak("float32_avx2_gops", num_threads, FmaAvx2, k12 * 16);
    PrintPeak("int8_avx2_gops", num_threads, Int8Avx2, k12 / 2 * 64);
  }
  if (HasBit(7, 0, 1, 16)) PrintPeak("float32_avx512_gops", num_threads, FmaAvx512, k12 * 32);
  if (HasBit(7, 0, 2, 11)) PrintPeak("int8_avx512_gops", num_threads, Int8Avx512, k12 * 128);
  if (HasBit(7, 1, 0, 5)) PrintPeak("bf16_avx512_gops", num_threads, Bf16Avx512, k12 * 64);
  if (HasAmx(25)) PrintPeak("int8_amx_gops", num_threads, Int8Amx, kTiles * 32768);
  if (HasAmx(22)) PrintPeak("bf16_amx_gops", num_threads, Bf16Amx, kTiles * 16384);
  std::printf("}\n");
  return 0;
}
