// SPDX-License-Identifier: Apache-2.0
#include "exec/workspace.h"

#include <algorithm>
#include <random>

#include "base/error.h"
#include "check.h"
#include "exec/kv_cache.h"

namespace enginery::test {
namespace {

constexpr int64_t kTokens = 13, kLogits = 5;

int64_t RowBytes(const BufferSpec& b) {
  return b.columns * (b.dtype == DType::kF32 ? 4 : b.dtype == DType::kBF16 ? 2 : 1);
}

TEST(buffers_that_live_together_do_not_overlap) {
  std::mt19937 random(3);
  for (int round = 0; round < 30; ++round) {
    std::vector<BufferSpec> buffers;
    for (int i = 0; i < 25; ++i) {
      const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kI8};
      const auto first = static_cast<int64_t>(random() % 20);
      buffers.push_back({random() % 2 ? Rows::kTokens : Rows::kLogits, dtypes[random() % 3],
                         static_cast<int64_t>(1 + random() % 700), random() % 5 == 0, first,
                         first + static_cast<int64_t>(random() % 6)});
    }
    const Workspace workspace(buffers, kTokens, kLogits);
    // Each buffer is filled when its life begins and must be whole when it ends.
    const auto rows = [&](size_t i) {
      return buffers[i].rows == Rows::kTokens ? kTokens : kLogits;
    };
    const auto values = workspace.values();
    for (int64_t step = 0; step < 30; ++step) {
      for (size_t i = 0; i < buffers.size(); ++i) {
        if (buffers[i].first_step != step) continue;
        for (int64_t r = 0; r < rows(i); ++r) {
          std::fill_n(values[i].row<std::byte>(r), RowBytes(buffers[i]), static_cast<std::byte>(i));
          if (values[i].scales != nullptr) values[i].scales[r] = static_cast<float>(i);
        }
      }
      for (size_t i = 0; i < buffers.size(); ++i) {
        if (buffers[i].last_step != step) continue;
        for (int64_t r = 0; r < rows(i); ++r) {
          const std::byte* row = values[i].row<std::byte>(r);
          CHECK(std::all_of(row, row + RowBytes(buffers[i]),
                            [&](std::byte b) { return b == static_cast<std::byte>(i); }));
          if (values[i].scales != nullptr) CHECK_EQ(values[i].scales[r], static_cast<float>(i));
        }
      }
    }
  }
}

TEST(memory_is_shared_and_rows_are_spread) {
  // Three buffers one after the other fit in the place of one.
  const std::vector<BufferSpec> chain = {{Rows::kTokens, DType::kF32, 512, false, 0, 1},
                                         {Rows::kTokens, DType::kF32, 512, false, 2, 3},
                                         {Rows::kTokens, DType::kF32, 512, false, 4, 5}};
  const Workspace workspace(chain, kTokens, kLogits);
  CHECK_EQ(workspace.values()[0].data, workspace.values()[2].data);
  CHECK_EQ(workspace.values()[0].pitch, 2048 + 64);
  CHECK_LE(workspace.bytes(), uint64_t{kTokens * (2048 + 64)});
  const Workspace dense({{Rows::kLogits, DType::kF32, 17, true, 0, 0}}, kTokens, kLogits);
  CHECK_EQ(dense.values()[0].pitch, 17 * 4);
}

TEST(limits_beyond_memory_are_refused) {
  const std::vector<BufferSpec> wide = {{Rows::kTokens, DType::kF32, 1 << 24, false, 0, 0}};
  CHECK_THROWS_WITH(Workspace(wide, INT32_MAX, 1), Error, "lower max_num_tokens");
}

TEST(heads_of_the_kv_cache_do_not_overlap) {
  const std::vector<KvShape> shapes = {{2, 3, 18, 16, DType::kBF16}, {2, 3, 18, 16, DType::kF32}};
  // K of bf16 is padded to 32 dimensions, V of both to multiples of 16.
  const uint64_t block = 2 * 3 * 16 * ((32 + 32) * 2 + (18 + 32) * 4);
  const KvCache cache(shapes, 3 * block + 1);
  CHECK_EQ(cache.num_blocks(), 3);
  CHECK_EQ(cache.block_bytes(), static_cast<int64_t>(block));
  std::vector<std::pair<const std::byte*, int64_t>> heads;
  for (size_t rank = 0; rank < 2; ++rank) {
    for (int64_t b = 0; b < 3; ++b) {
      for (int64_t layer = 0; layer < 2; ++layer) {
        for (int64_t head = 0; head < 3; ++head) {
          const KvView view = cache.rank(rank);
          std::byte* at = view.head(layer, head) + b * shapes[rank].head_bytes();
          std::fill_n(at, shapes[rank].head_bytes(),
                      std::byte{1});  // inside, or ASan and the system object
          heads.emplace_back(at, shapes[rank].head_bytes());
        }
      }
    }
  }
  std::ranges::sort(heads);
  for (size_t i = 1; i < heads.size(); ++i) {
    CHECK_EQ(heads[i].first, heads[i - 1].first + heads[i - 1].second);
  }
}

}  // namespace
}  // namespace enginery::test
