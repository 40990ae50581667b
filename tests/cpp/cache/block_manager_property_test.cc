// SPDX-License-Identifier: Apache-2.0
//
// Long random operation against a model that is plain and slow: lists instead of links, contents
// compared in full, reference counts recounted from the tables. After every operation both must
// have the same tables, the same free list in the same order and the same cached blocks.
#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "base/str_cat.h"
#include "cache/block_manager.h"
#include "check.h"

namespace enginery::test {
namespace {

using Ids = std::vector<int32_t>;

struct NaiveSequence {
  Ids tokens;
  Ids table;
  size_t num_computed = 0;
};

class NaiveManager {
 public:
  NaiveManager(int32_t num_blocks, size_t width, bool reuse) : width_(width), reuse_(reuse) {
    for (int32_t b = 0; b < num_blocks; ++b) free.push_back(b);
  }

  int RefCount(int32_t block) const {
    int count = static_cast<int>(held.count(block));
    for (const auto& [id, s] : sequences)
      count += static_cast<int>(std::ranges::count(s.table, block));
    return count;
  }
  int TableCount(int32_t block) const {
    return RefCount(block) - static_cast<int>(held.count(block));
  }

  // A cached block's content is all tokens from the sequence's start.
  std::optional<int32_t> Find(const Ids& content) const {
    for (const auto& [block, known] : cached) {
      if (known == content) return block;
    }
    return std::nullopt;
  }

  Ids FindPrefix(const Ids& tokens) const {
    Ids found;
    for (size_t n = width_; reuse_ && n < tokens.size(); n += width_) {
      const auto block = Find(Ids(tokens.begin(), tokens.begin() + static_cast<int64_t>(n)));
      if (!block) break;
      found.push_back(*block);
    }
    return found;
  }

  int32_t Take() {
    const int32_t block = free.front();
    free.erase(free.begin());
    cached.erase(block);
    return block;
  }
  void Use(int32_t block) { std::erase(free, block); }
  // Call when a hold on `block` has gone.
  void Dropped(int32_t block) {
    if (RefCount(block) > 0) return;
    if (cached.contains(block)) {
      free.push_back(block);
    } else {
      free.insert(free.begin(), block);
    }
  }

  size_t NumNew(const NaiveSequence& s, size_t num_tokens) const {
    size_t count = 0;
    const size_t wanted = (num_tokens + width_ - 1) / width_;
    if (wanted > s.table.size()) count = wanted - s.table.size();
    for (size_t i = s.num_computed / width_; i < s.table.size(); ++i) {
      count += TableCount(s.table[i]) > 1 ? 1 : 0;
    }
    return count;
  }

  void Allocate(NaiveSequence* s, size_t num_tokens) {
    for (size_t i = s->num_computed / width_; i < s->table.size(); ++i) {
      const int32_t shared = s->table[i];
      if (TableCount(shared) <= 1) continue;
      s->table[i] = Take();
      if (i * width_ < s->num_computed) {
        copies.push_back({shared, s->table[i]});
        held.insert(shared);
      } else {
        Dropped(shared);
      }
    }
    while (s->table.size() * width_ < num_tokens) s->table.push_back(Take());
  }

  void Commit(NaiveSequence* s, size_t num_computed) {
    const size_t before = s->num_computed / width_;
    s->num_computed = num_computed;
    for (size_t i = before; reuse_ && (i + 1) * width_ <= num_computed; ++i) {
      const Ids content(s->tokens.begin(),
                        s->tokens.begin() + static_cast<int64_t>((i + 1) * width_));
      const auto known = Find(content);
      if (!known) {
        cached[s->table[i]] = content;
      } else if (*known != s->table[i]) {
        const int32_t duplicate = s->table[i];
        Use(*known);
        s->table[i] = *known;
        Dropped(duplicate);
      }
    }
  }

  void Free(int id) {
    NaiveSequence s = sequences[id];
    sequences.erase(id);
    // One hold after the other goes, from the last.
    NaiveSequence& rest = sequences[id];
    rest.table = s.table;
    while (!rest.table.empty()) {
      const int32_t block = rest.table.back();
      rest.table.pop_back();
      Dropped(block);
    }
    sequences.erase(id);
  }

  void ClearCopies() {
    for (const BlockCopy& copy : copies) {
      held.erase(held.find(copy.from));
      Dropped(copy.from);
    }
    copies.clear();
  }

  std::map<int, NaiveSequence> sequences;
  Ids free;                       // in the order in which they are taken
  std::map<int32_t, Ids> cached;  // in tables or free
  std::vector<BlockCopy> copies;
  std::multiset<int32_t> held;

 private:
  const size_t width_;
  const bool reuse_;
};

class Comparison {
 public:
  Comparison(uint64_t seed, int32_t num_blocks, int64_t width, bool reuse)
      : random_(seed),
        num_blocks_(num_blocks),
        blocks_(num_blocks, width, reuse),
        naive_(num_blocks, static_cast<size_t>(width), reuse) {}

  void Run(int num_operations) {
    for (int i = 0; i < num_operations; ++i) {
      switch (random_() % 8) {
        case 0:
        case 1:
          Start();
          break;
        case 2:
          Fork();
          break;
        case 3:
          Free();
          break;
        case 4:
          // As between two steps: copies are done before anything is computed.
          blocks_.ClearCopies();
          naive_.ClearCopies();
          break;
        default:
          Grow();
      }
      Compare();
    }
    while (!naive_.sequences.empty()) FreeOne(naive_.sequences.begin()->first);
    blocks_.ClearCopies();
    naive_.ClearCopies();
    Compare();
    CHECK_EQ(blocks_.num_free_blocks(), num_blocks_);
  }

  int64_t num_hits = 0;
  int64_t num_refusals = 0;
  int64_t num_copies = 0;

 private:
  void Start() {
    // Few different tokens: prefixes repeat.
    Ids tokens(1 + random_() % 12);
    for (int32_t& t : tokens) t = static_cast<int32_t>(random_() % 2);
    Prefix prefix;
    blocks_.FindPrefix(tokens, &prefix);
    const Ids expected = naive_.FindPrefix(tokens);
    REQUIRE(prefix.blocks == expected);
    num_hits += static_cast<int64_t>(expected.size());
    int64_t num_idle = 0;
    for (const int32_t block : expected) num_idle += naive_.RefCount(block) == 0 ? 1 : 0;
    REQUIRE_EQ(prefix.num_idle_blocks, num_idle);

    NaiveSequence s;
    s.tokens = tokens;
    const auto num_tokens = static_cast<int64_t>(tokens.size());
    const int64_t num_new =
        blocks_.NumBlocksFor(num_tokens) - static_cast<int64_t>(expected.size());
    const bool fits = num_new + num_idle <= static_cast<int64_t>(naive_.free.size());
    REQUIRE_EQ(blocks_.CanAttach(prefix, num_tokens, 0), fits);
    if (!fits) {
      ++num_refusals;
      return;
    }
    const int id = blocks_.Create();
    REQUIRE(!naive_.sequences.contains(id));
    const int64_t num_computed = blocks_.Attach(id, prefix);
    REQUIRE_EQ(num_computed, static_cast<int64_t>(expected.size()) * blocks_.tokens_per_block());
    blocks_.Allocate(id, num_tokens);
    for (const int32_t block : expected) naive_.Use(block);
    s.table = expected;
    s.num_computed = static_cast<size_t>(num_computed);
    naive_.sequences[id] = s;
    naive_.Allocate(&naive_.sequences[id], tokens.size());
  }

  std::optional<int> Any() {
    if (naive_.sequences.empty()) return std::nullopt;
    auto it = naive_.sequences.begin();
    std::advance(it, static_cast<int64_t>(random_() % naive_.sequences.size()));
    return it->first;
  }

  // Computes some of what is left, or takes a token more.
  void Grow() {
    const auto id = Any();
    if (!id) return;
    NaiveSequence& s = naive_.sequences[*id];
    if (s.num_computed == s.tokens.size()) s.tokens.push_back(static_cast<int32_t>(random_() % 2));
    const size_t target = s.num_computed + 1 + random_() % (s.tokens.size() - s.num_computed);
    const bool fits = naive_.NumNew(s, s.tokens.size()) <= naive_.free.size();
    const auto num_tokens = static_cast<int64_t>(s.tokens.size());
    REQUIRE_EQ(blocks_.CanAllocate(*id, num_tokens), fits);
    if (!fits) {
      ++num_refusals;
      return;
    }
    blocks_.Allocate(*id, num_tokens);
    naive_.Allocate(&s, s.tokens.size());
    num_copies += static_cast<int64_t>(naive_.copies.size());
    Compare();
    blocks_.ClearCopies();
    naive_.ClearCopies();
    blocks_.Commit(*id, s.tokens, static_cast<int64_t>(target));
    naive_.Commit(&s, target);
  }

  void Fork() {
    const auto id = Any();
    if (!id || naive_.sequences.size() > 6) return;
    const int child = blocks_.Fork(*id);
    REQUIRE(!naive_.sequences.contains(child));
    naive_.sequences[child] = naive_.sequences[*id];
  }

  void Free() {
    const auto id = Any();
    if (id) FreeOne(*id);
  }
  void FreeOne(int id) {
    blocks_.Free(id);
    naive_.Free(id);
  }

  void Compare() {
    REQUIRE(blocks_.FreeOrder() == naive_.free);
    REQUIRE_EQ(blocks_.num_free_blocks(), naive_.free.size());
    int64_t num_cached_free = 0;
    for (int32_t block = 0; block < num_blocks_; ++block) {
      REQUIRE_EQ(blocks_.ref_count(block), naive_.RefCount(block));
      REQUIRE_EQ(blocks_.is_cached(block), naive_.cached.contains(block));
      const bool is_free = std::ranges::count(naive_.free, block) == 1;
      // Conservation: free once and in no table, or in a table and not free.
      REQUIRE_EQ(is_free, naive_.RefCount(block) == 0);
      num_cached_free += is_free && naive_.cached.contains(block) ? 1 : 0;
    }
    REQUIRE_EQ(blocks_.num_cached_blocks(), num_cached_free);
    for (const auto& [id, s] : naive_.sequences) {
      const auto table = blocks_.block_table(id);
      REQUIRE(std::ranges::equal(table, s.table));
    }
    const auto copies = blocks_.pending_copies();
    REQUIRE(std::ranges::equal(copies, naive_.copies));
  }

  std::mt19937_64 random_;
  const int32_t num_blocks_;
  BlockManager blocks_;
  NaiveManager naive_;
};

TEST(random_operation_agrees_with_the_naive_model) {
  int64_t num_hits = 0;
  int64_t num_refusals = 0;
  int64_t num_copies = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const auto num_blocks = static_cast<int32_t>(5 + seed % 17);
    const auto width = static_cast<int64_t>(1 + seed % 4);
    Comparison comparison(seed, num_blocks, width, seed % 5 != 0);
    const int failures_before = failures_in_case();
    comparison.Run(600);
    num_hits += comparison.num_hits;
    num_refusals += comparison.num_refusals;
    num_copies += comparison.num_copies;
    if (failures_in_case() > failures_before) fail(__FILE__, __LINE__, StrCat("seed ", seed));
  }
  CHECK_GT(num_hits, 1000);
  CHECK_GT(num_refusals, 1000);
  CHECK_GT(num_copies, 200);
}

}  // namespace
}  // namespace enginery::test
