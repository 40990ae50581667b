// SPDX-License-Identifier: Apache-2.0
//
// The main of a fuzz target where libFuzzer is not there (GCC). Same flags for what both can do:
//
//   engine_fuzz [-runs=N] [-max_total_time=SECONDS] [-seed=N] [-max_len=BYTES] CORPUS...
//
// Every file of the corpus is executed once as it is, then mutations of them until the runs
// (default 0) or the seconds are used up. It steers by nothing but chance: there is no coverage
// feedback, so the corpus must reach the interesting states by itself. Input i depends on the seed,
// i and the corpus alone. An input that ends the process is written to ./crash-<target>.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// Defined by the sanitizers' runtime; absent without them.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

namespace {

using Bytes = std::vector<uint8_t>;

Bytes current_input;
std::string crash_path;

void save_current_input() {
  std::FILE* file = std::fopen(crash_path.c_str(), "wb");
  if (file == nullptr) return;
  std::fwrite(current_input.data(), 1, current_input.size(), file);
  std::fclose(file);
  std::fprintf(stderr, "the input is in %s (%zu bytes)\n", crash_path.c_str(),
               current_input.size());
}

void on_signal(int signal) {
  save_current_input();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void save_input_on_death() {
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(save_current_input);
    std::signal(SIGABRT, on_signal);  // the sanitizers leave abort() alone
    return;
  }
  for (int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, on_signal);
}

void execute(const Bytes& input) {
  current_input = input;
  LLVMFuzzerTestOneInput(current_input.data(), current_input.size());
}

// SplitMix64: small, and good enough to choose bytes with.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, bound); bound > 0.
  size_t below(size_t bound) { return static_cast<size_t>(next() % bound); }

 private:
  uint64_t state_;
};

// Values at which length and offset arithmetic goes wrong.
constexpr uint64_t kEdges[] = {0,
                               1,
                               2,
                               63,
                               64,
                               0x7f,
                               0x80,
                               0xff,
                               0x7fff,
                               0xffff,
                               0x7fffffff,
                               0x80000000,
                               0xffffffff,
                               0x7fffffffffffffff,
                               0x8000000000000000,
                               0xffffffffffffffc0,
                               0xfffffffffffffff8,
                               0xffffffffffffffff};

void overwrite_with_edge(Bytes& input, Random& random) {
  const uint64_t value = kEdges[random.below(std::size(kEdges))];
  const size_t width = size_t{1} << random.below(4);
  if (input.size() < width) return;
  size_t at = random.below(input.size() - width + 1);
  if (random.below(2) == 0) at -= at % width;  // fields are mostly aligned
  std::memcpy(input.data() + at, &value, width);
}

void add_to_field(Bytes& input, Random& random) {
  const size_t width = size_t{4} << random.below(2);
  if (input.size() < width) return;
  size_t at = random.below(input.size() - width + 1);
  at -= at % width;
  uint64_t value = 0;
  std::memcpy(&value, input.data() + at, width);
  value += random.below(65) - 32;
  std::memcpy(input.data() + at, &value, width);
}

void copy_range(Bytes& input, const Bytes& source, Random& random) {
  if (input.empty() || source.empty()) return;
  const size_t from = random.below(source.size());
  const size_t to = random.below(input.size());
  const size_t longest = std::min({source.size() - from, input.size() - to, size_t{256}});
  const size_t length = 1 + random.below(longest);
  std::memmove(input.data() + to, source.data() + from, length);
}

void mutate_once(Bytes& input, const Bytes& other, size_t max_bytes, Random& random) {
  switch (random.below(7)) {
    case 0:
      if (!input.empty()) input[random.below(input.size())] ^= 1u << random.below(8);
      break;
    case 1:
      if (!input.empty()) input[random.below(input.size())] = static_cast<uint8_t>(random.next());
      break;
    case 2:
      overwrite_with_edge(input, random);
      break;
    case 3:
      add_to_field(input, random);
      break;
    case 4:
      copy_range(input, other, random);
      break;
    case 5:
      input.resize(random.below(input.size() + 1));
      break;
    default:
      if (input.size() < max_bytes) {
        const size_t at = random.below(input.size() + 1);
        const size_t length = 1 + random.below(std::min<size_t>(64, max_bytes - input.size()));
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), length,
                     static_cast<uint8_t>(random.next()));
      }
  }
}

Bytes read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(in), {});
}

std::vector<Bytes> read_corpus(const std::vector<std::string>& places) {
  std::vector<std::filesystem::path> files;
  for (const std::string& place : places) {
    if (std::filesystem::is_directory(place)) {
      for (const auto& entry : std::filesystem::directory_iterator(place)) {
        if (entry.is_regular_file()) files.push_back(entry.path());
      }
    } else {
      files.emplace_back(place);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Bytes> corpus;
  for (const auto& file : files) corpus.push_back(read_file(file));
  return corpus;
}

struct Options {
  uint64_t runs = 0;
  uint64_t max_total_time = 0;  // seconds; 0 = no limit
  uint64_t seed = 1;
  uint64_t max_len = 1 << 20;  // bytes
  std::vector<std::string> corpus;
};

bool parse(int argc, char** argv, Options& options) {
  const std::pair<std::string_view, uint64_t*> numbers[] = {
      {"-runs=", &options.runs},
      {"-max_total_time=", &options.max_total_time},
      {"-seed=", &options.seed},
      {"-max_len=", &options.max_len}};
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (!arg.starts_with("-")) {
      options.corpus.emplace_back(arg);
      continue;
    }
    const auto* number =
        std::find_if(std::begin(numbers), std::end(numbers),
                     [&](const auto& candidate) { return arg.starts_with(candidate.first); });
    if (number == std::end(numbers)) {
      std::fprintf(stderr, "unknown flag %s\n", argv[i]);
      return false;
    }
    *number->second = std::strtoull(argv[i] + number->first.size(), nullptr, 10);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) return 2;
  crash_path = "crash-" + std::filesystem::path(argv[0]).filename().string();
  save_input_on_death();

  std::vector<Bytes> corpus = read_corpus(options.corpus);
  if (corpus.empty()) {
    std::fprintf(stderr, "the corpus is empty\n");
    return 2;
  }
  for (const Bytes& input : corpus) execute(input);

  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed_s = [&] {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const bool is_timed = options.max_total_time > 0;
  uint64_t executed = 0;
  while (is_timed ? elapsed_s() < static_cast<double>(options.max_total_time)
                  : executed < options.runs) {
    Random random(options.seed * 0x100000001b3u + executed);
    Bytes input = corpus[random.below(corpus.size())];
    const Bytes& other = corpus[random.below(corpus.size())];
    const size_t num_mutations = 1 + random.below(6);
    for (size_t i = 0; i < num_mutations; ++i) {
      mutate_once(input, other, options.max_len, random);
    }
    execute(input);
    ++executed;
  }
  std::printf("%zu corpus files and %llu mutations executed in %.0f s, seed %llu\n", corpus.size(),
              static_cast<unsigned long long>(executed), elapsed_s(),
              static_cast<unsigned long long>(options.seed));
  return 0;
}
