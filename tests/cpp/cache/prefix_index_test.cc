// SPDX-License-Identifier: Apache-2.0
#include "cache/prefix_index.h"

#include <map>
#include <random>
#include <utility>
#include <vector>

#include "check.h"

namespace enginery::test {
namespace {

using Ids = std::vector<int32_t>;

TEST(an_entry_is_found_under_its_parent_only) {
  PrefixIndex index(4, 2);
  const uint64_t first = index.Insert(3, PrefixIndex::kRoot, Ids{5, 6});
  const uint64_t second = index.Insert(1, first, Ids{5, 6});
  CHECK_NE(first, second);
  CHECK_EQ(index.Find(PrefixIndex::kRoot, Ids{5, 6}), 3);
  CHECK_EQ(index.Find(first, Ids{5, 6}), 1);
  CHECK_EQ(index.Find(second, Ids{5, 6}), PrefixIndex::kNone);
  CHECK_EQ(index.Find(PrefixIndex::kRoot, Ids{6, 5}), PrefixIndex::kNone);
}

TEST(a_uid_is_never_given_twice) {
  PrefixIndex index(1, 1);
  const uint64_t first = index.Insert(0, PrefixIndex::kRoot, Ids{1});
  index.Erase(0);
  CHECK(!index.contains(0));
  CHECK_NE(index.Insert(0, PrefixIndex::kRoot, Ids{1}), first);
}

// Few buckets for many contents: chains are long, and what a hash alone would confuse is met.
TEST(random_operation_agrees_with_a_map) {
  constexpr int32_t kNumBlocks = 13;
  std::mt19937_64 random(1);
  PrefixIndex index(kNumBlocks, 3);
  std::map<std::pair<uint64_t, Ids>, int32_t> expected;
  std::map<int32_t, std::pair<uint64_t, Ids>> content;
  for (int i = 0; i < 100'000; ++i) {
    const auto block = static_cast<int32_t>(random() % kNumBlocks);
    const Ids ids = {static_cast<int32_t>(random() % 3), static_cast<int32_t>(random() % 3), 7};
    const uint64_t parent = random() % 4;
    const auto known = expected.find({parent, ids});
    REQUIRE_EQ(index.Find(parent, ids),
               known == expected.end() ? PrefixIndex::kNone : known->second);
    if (content.contains(block)) {
      expected.erase(content[block]);
      content.erase(block);
      index.Erase(block);
    } else if (known == expected.end()) {
      index.Insert(block, parent, ids);
      content[block] = {parent, ids};
      expected[{parent, ids}] = block;
    }
    REQUIRE_EQ(index.contains(block), content.contains(block));
  }
}

}  // namespace
}  // namespace enginery::test
