// SPDX-License-Identifier: Apache-2.0
//
// Exact block ids and eviction order, by hand; tests/cpp/cache/block_manager_property_test.cc
// compares long random operation with a naive model.
#include "cache/block_manager.h"

#include <vector>

#include "check.h"

namespace enginery::test {
namespace {

using Ids = std::vector<int32_t>;

// The prefix of `token_ids` that is cached, attached to a new sequence, with room for all of them.
BlockManager::SequenceId Start(BlockManager* blocks, const Ids& token_ids) {
  Prefix prefix;
  blocks->FindPrefix(token_ids, &prefix);
  const auto num_tokens = static_cast<int64_t>(token_ids.size());
  REQUIRE(blocks->CanAttach(prefix, num_tokens, 0));
  const auto id = blocks->Create();
  blocks->Attach(id, prefix);
  REQUIRE(blocks->CanAllocate(id, num_tokens));
  blocks->Allocate(id, num_tokens);
  return id;
}

// Start, and all of it computed.
BlockManager::SequenceId Compute(BlockManager* blocks, const Ids& token_ids) {
  const auto id = Start(blocks, token_ids);
  blocks->Commit(id, token_ids, static_cast<int64_t>(token_ids.size()));
  return id;
}

Ids Table(const BlockManager& blocks, BlockManager::SequenceId id) {
  const auto table = blocks.block_table(id);
  return Ids(table.begin(), table.end());
}

TEST(blocks_are_taken_from_the_front) {
  BlockManager blocks(6, 2, true);
  const auto a = Start(&blocks, {1, 2, 3});
  const auto b = Start(&blocks, {4});
  CHECK(Table(blocks, a) == (Ids{0, 1}));
  CHECK(Table(blocks, b) == (Ids{2}));
  CHECK(blocks.FreeOrder() == (Ids{3, 4, 5}));
  CHECK_EQ(blocks.num_free_blocks(), 3);
}

TEST(empty_blocks_return_to_the_front_and_cached_ones_to_the_back) {
  BlockManager blocks(6, 2, true);
  const auto a = Compute(&blocks, {1, 2, 3, 4, 5});  // blocks 0, 1 full, 2 half full
  blocks.Free(a);
  CHECK(blocks.FreeOrder() == (Ids{2, 3, 4, 5, 1, 0}));
  CHECK_EQ(blocks.num_free_blocks(), 6);
  CHECK_EQ(blocks.num_cached_blocks(), 2);
}

TEST(what_is_not_computed_is_not_cached) {
  BlockManager blocks(4, 2, true);
  const auto a = Start(&blocks, {1, 2, 3, 4});
  blocks.Commit(a, Ids{1, 2, 3, 4}, 3);
  blocks.Free(a);
  CHECK_EQ(blocks.num_cached_blocks(), 1);
  CHECK(blocks.FreeOrder() == (Ids{1, 2, 3, 0}));
}

TEST(a_prefix_is_found_by_its_tokens) {
  BlockManager blocks(8, 2, true);
  const auto a = Compute(&blocks, {1, 2, 3, 4, 5, 6});
  Prefix prefix;
  blocks.FindPrefix(Ids{1, 2, 3, 4, 9, 9}, &prefix);
  CHECK(prefix.blocks == (Ids{0, 1}));
  CHECK_EQ(prefix.num_idle_blocks, 0);
  blocks.FindPrefix(Ids{3, 4, 5, 6, 7}, &prefix);  // the content is there, after something else
  CHECK(prefix.blocks.empty());
  blocks.Free(a);
  blocks.FindPrefix(Ids{1, 2, 3, 4, 9, 9}, &prefix);
  CHECK_EQ(prefix.num_idle_blocks, 2);
}

TEST(the_last_token_is_left_to_compute) {
  BlockManager blocks(8, 2, true);
  Compute(&blocks, {1, 2, 3, 4});
  Prefix prefix;
  blocks.FindPrefix(Ids{1, 2, 3, 4}, &prefix);
  CHECK(prefix.blocks == (Ids{0}));
  blocks.FindPrefix(Ids{1, 2, 3, 4, 5}, &prefix);
  CHECK(prefix.blocks == (Ids{0, 1}));
  blocks.FindPrefix(Ids{1}, &prefix);
  CHECK(prefix.blocks.empty());
  blocks.FindPrefix(Ids{}, &prefix);
  CHECK(prefix.blocks.empty());
}

TEST(the_least_recently_used_is_evicted_and_tails_before_heads) {
  BlockManager blocks(6, 1, true);
  const auto a = Compute(&blocks, {1, 2, 3});  // blocks 0, 1, 2
  const auto b = Compute(&blocks, {7, 8, 9});  // blocks 3, 4, 5
  blocks.Free(b);
  blocks.Free(a);
  CHECK(blocks.FreeOrder() == (Ids{5, 4, 3, 2, 1, 0}));
  const auto c = Start(&blocks, {4, 5});
  CHECK(Table(blocks, c) == (Ids{5, 4}));
  Prefix prefix;
  blocks.FindPrefix(Ids{7, 8, 9, 0}, &prefix);
  CHECK(prefix.blocks == (Ids{3}));
  blocks.FindPrefix(Ids{1, 2, 3, 0}, &prefix);
  CHECK(prefix.blocks == (Ids{0, 1, 2}));
}

TEST(using_a_prefix_makes_it_the_most_recent) {
  BlockManager blocks(4, 1, true);
  blocks.Free(Compute(&blocks, {1, 2}));
  blocks.Free(Compute(&blocks, {3, 4}));
  CHECK(blocks.FreeOrder() == (Ids{1, 0, 3, 2}));
  const auto a = Start(&blocks, {1, 2, 5});  // takes 0 and 1 from the cache, evicts 3
  CHECK(Table(blocks, a) == (Ids{0, 1, 3}));
  blocks.Free(a);
  CHECK(blocks.FreeOrder() == (Ids{3, 2, 1, 0}));
}

TEST(finding_does_not_change_the_order) {
  BlockManager blocks(3, 1, true);
  blocks.Free(Compute(&blocks, {1, 2, 3}));
  const Ids before = blocks.FreeOrder();
  Prefix prefix;
  blocks.FindPrefix(Ids{1, 2, 3, 4}, &prefix);
  CHECK_EQ(prefix.num_idle_blocks, 3);
  CHECK(blocks.FreeOrder() == before);
}

TEST(idle_prefix_blocks_count_as_taken) {
  BlockManager blocks(3, 1, true);
  blocks.Free(Compute(&blocks, {1, 2, 3}));
  Prefix prefix;
  blocks.FindPrefix(Ids{1, 2, 3, 4}, &prefix);
  // Three cached blocks and a new one: the pool has three in all.
  CHECK(!blocks.CanAttach(prefix, 4, 0));
  CHECK(blocks.CanAttach(prefix, 3, 0));
  CHECK(!blocks.CanAttach(prefix, 3, 1));
}

TEST(equal_contents_computed_side_by_side_become_one) {
  BlockManager blocks(6, 2, true);
  const auto a = Start(&blocks, {1, 2, 3, 4});  // blocks 0, 1
  const auto b = Start(&blocks, {1, 2, 5, 6});  // blocks 2, 3
  blocks.Commit(a, Ids{1, 2, 3, 4}, 4);
  blocks.Commit(b, Ids{1, 2, 5, 6}, 4);
  CHECK(Table(blocks, a) == (Ids{0, 1}));
  CHECK(Table(blocks, b) == (Ids{0, 3}));
  CHECK_EQ(blocks.ref_count(0), 2);
  CHECK(blocks.FreeOrder() == (Ids{2, 4, 5}));
}

TEST(a_fork_shares_until_it_writes) {
  BlockManager blocks(8, 2, true);
  const auto a = Compute(&blocks, {1, 2, 3});  // blocks 0 full, 1 half full
  const auto b = blocks.Fork(a);
  const auto c = blocks.Fork(a);
  CHECK(Table(blocks, b) == (Ids{0, 1}));
  CHECK_EQ(blocks.ref_count(1), 3);
  blocks.Allocate(a, 4);
  blocks.Allocate(b, 4);
  blocks.Allocate(c, 4);  // the last to write keeps the block
  CHECK(Table(blocks, a) == (Ids{0, 2}));
  CHECK(Table(blocks, b) == (Ids{0, 3}));
  CHECK(Table(blocks, c) == (Ids{0, 1}));
  const auto copies = blocks.pending_copies();
  REQUIRE_EQ(copies.size(), 2);
  CHECK(copies[0] == (BlockCopy{1, 2}));
  CHECK(copies[1] == (BlockCopy{1, 3}));
  blocks.ClearCopies();
  CHECK_EQ(blocks.ref_count(1), 1);
  CHECK_EQ(blocks.num_free_blocks(), 4);
}

TEST(a_fork_of_full_blocks_needs_no_copy) {
  BlockManager blocks(8, 2, true);
  const auto a = Compute(&blocks, {1, 2, 3, 4});
  const auto b = blocks.Fork(a);
  blocks.Allocate(a, 5);
  blocks.Allocate(b, 5);
  CHECK(blocks.pending_copies().empty());
  CHECK(Table(blocks, a) == (Ids{0, 1, 2}));
  CHECK(Table(blocks, b) == (Ids{0, 1, 3}));
}

TEST(the_source_of_a_pending_copy_is_held) {
  BlockManager blocks(3, 2, true);
  const auto a = Compute(&blocks, {1});
  const auto b = blocks.Fork(a);
  blocks.Allocate(b, 2);  // copies 0 to 1
  blocks.Free(a);         // nobody's now, but the copy has not been done
  CHECK_EQ(blocks.num_free_blocks(), 1);
  const auto c = Start(&blocks, {5, 6});
  CHECK(Table(blocks, c) == (Ids{2}));
  blocks.ClearCopies();
  CHECK(blocks.FreeOrder() == (Ids{0}));
}

TEST(a_copy_counts_as_a_new_block) {
  BlockManager blocks(2, 2, true);
  const auto a = Compute(&blocks, {1});
  const auto b = blocks.Fork(a);
  const auto c = Start(&blocks, {5});
  CHECK(!blocks.CanAllocate(b, 2));
  blocks.Free(c);
  CHECK(blocks.CanAllocate(b, 2));
  blocks.Free(a);
  blocks.Allocate(b, 2);  // alone with its block again
  CHECK(Table(blocks, b) == (Ids{0}));
}

TEST(without_reuse_nothing_is_cached) {
  BlockManager blocks(4, 1, false);
  blocks.Free(Compute(&blocks, {1, 2, 3}));
  CHECK_EQ(blocks.num_cached_blocks(), 0);
  Prefix prefix;
  blocks.FindPrefix(Ids{1, 2, 3, 4}, &prefix);
  CHECK(prefix.blocks.empty());
  CHECK(blocks.FreeOrder() == (Ids{0, 1, 2, 3}));
}

}  // namespace
}  // namespace enginery::test
