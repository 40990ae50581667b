// SPDX-License-Identifier: Apache-2.0
//
// A model that is a hash: an executor for tests of the serving loop.
//
// The KV of a token is a hash of the token, its position and the KV before it, read back through
// the block table; the logits of a row are a hash of all KV of its context, read the same way. So a
// wrong block table or slot, a copy left out, a block overwritten or given away too early, or a
// stale one reused changes the logits, and everything after. HashModel computes the same from the
// token ids alone.
//
// Every promise that the header makes about a batch is checked; what is broken is kept in errors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "enginery/enginery.h"

namespace enginery::test {

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9E3779B97F4A7C15u + b + 0x632BE59BD9B4E019u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

class HashModel {
 public:
  static constexpr uint64_t kStart = 12345;

  static uint64_t Kv(uint64_t previous_kv, int32_t token_id, int64_t position) {
    return Mix(Mix(previous_kv, static_cast<uint64_t>(token_id)), static_cast<uint64_t>(position));
  }
  // Some 1 in 16 logits is exactly the row's largest value, so that ties are met.
  static void Logits(uint64_t context_hash, std::span<float> logits) {
    for (size_t v = 0; v < logits.size(); ++v) {
      const uint64_t bits = Mix(context_hash, v);
      logits[v] = (bits & 15) == 0 ? 4.0f : static_cast<float>(bits >> 40) * 0x1p-22f - 1.0f;
    }
  }
  // Logits after `token_ids`.
  static std::vector<float> Logits(std::span<const int32_t> token_ids, int64_t vocab_size) {
    uint64_t kv = kStart;
    uint64_t hash = kStart;
    for (size_t p = 0; p < token_ids.size(); ++p) {
      kv = Kv(kv, token_ids[p], static_cast<int64_t>(p));
      hash = Mix(hash, kv);
    }
    std::vector<float> logits(static_cast<size_t>(vocab_size));
    Logits(hash, logits);
    return logits;
  }
};

class FakeExecutor {
 public:
  FakeExecutor(int64_t vocab_size, int64_t num_blocks)
      : vocab_size_(vocab_size), num_blocks_(num_blocks) {}

  // The C table; `this` must outlive the runtime.
  enginery_executor table() {
    enginery_executor table = {};
    table.abi_size = sizeof table;
    table.ctx = this;
    table.init = [](void* ctx, const enginery_limits* limits, uint64_t, auto* info) {
      return self(ctx).Init(*limits, info);
    };
    table.execute = [](void* ctx, const enginery_batch* batch) {
      return self(ctx).Execute(*batch);
    };
    table.collect = [](void* ctx, enginery_step_output* out) { return self(ctx).Collect(out); };
    table.last_error = [](void* ctx) { return self(ctx).last_error_.c_str(); };
    table.destroy = [](void* ctx) { ++self(ctx).num_destroyed; };
    return table;
  }

  // Faults to be injected; set before the runtime starts.
  int32_t nan_token = -1;       // a context that ends with it gives NaN
  int32_t failing_token = -1;   // a step that has it fails
  bool samples_greedy = false;  // draw greedy rows here
  bool spares_logits = false;   // give none in steps where nobody may want them
  bool forgets_logits = false;  // give none ever
  void (*before_step)(void*) = nullptr;
  void* before_step_user = nullptr;

  // Seen.
  std::vector<std::string> errors;
  int num_destroyed = 0;
  int64_t num_steps = 0;
  int64_t num_copies = 0;
  int64_t num_spared_steps = 0;
  int64_t max_sequences_seen = 0;
  int64_t max_tokens_seen = 0;
  int64_t max_chunk_seen = 0;

 private:
  static FakeExecutor& self(void* ctx) { return *static_cast<FakeExecutor*>(ctx); }

  enginery_status Init(const enginery_limits& limits, enginery_executor_info* info) {
    limits_ = limits;
    // Never 0 and never the same twice: reading a slot that was not written is noticed.
    kv_.resize(static_cast<size_t>(num_blocks_ * limits.tokens_per_block));
    for (size_t i = 0; i < kv_.size(); ++i) kv_[i] = Mix(777, i);
    info->vocab_size = vocab_size_;
    info->num_blocks = num_blocks_;
    info->block_bytes = 8 * static_cast<uint64_t>(limits.tokens_per_block);
    return ENGINERY_OK;
  }

  template <class... Parts>
  void Expect(bool holds, const Parts&... parts) {
    if (!holds && errors.size() < 20) {
      errors.push_back(StrCat("step ", num_steps, ": ", parts...));
    }
  }

  template <class T>
  std::span<const T> Array(const enginery_batch& batch, uint64_t offset, uint64_t count,
                           const char* name) {
    Expect(offset % 8 == 0 && offset >= sizeof batch &&
               offset + count * sizeof(T) <= batch.total_bytes,
           name, " lies outside the batch");
    return {reinterpret_cast<const T*>(reinterpret_cast<const char*>(&batch) + offset), count};
  }

  enginery_status Execute(const enginery_batch& given) {
    if (before_step != nullptr) before_step(before_step_user);
    // A copy at another address: the buffer may have no pointers into itself.
    buffer_.assign((given.total_bytes + 7) / 8, 0);
    std::memcpy(buffer_.data(), &given, given.total_bytes);
    const auto& batch = *reinterpret_cast<const enginery_batch*>(buffer_.data());
    const uint64_t num_sequences = batch.num_sequences;
    const uint64_t width = batch.block_table_width;
    Expect(batch.magic == ENGINERY_BATCH_MAGIC && batch.version == ENGINERY_BATCH_VERSION, "magic");
    Expect(num_sequences >= 1 && batch.num_sequences <= limits_.max_batch_size, "num_sequences ",
           num_sequences);
    Expect(batch.num_tokens <= limits_.max_num_tokens, "num_tokens ", batch.num_tokens);
    Expect(batch.num_logit_rows <= limits_.max_logit_rows, "num_logit_rows ", batch.num_logit_rows);
    const auto token_ids = Array<int32_t>(batch, batch.token_ids, batch.num_tokens, "token_ids");
    const auto positions = Array<int32_t>(batch, batch.positions, batch.num_tokens, "positions");
    const auto cu = Array<int32_t>(batch, batch.cu_seqlens_q, num_sequences + 1, "cu_seqlens_q");
    const auto lens = Array<int32_t>(batch, batch.context_lens, num_sequences, "context_lens");
    const auto tables =
        Array<int32_t>(batch, batch.block_tables, num_sequences * width, "block_tables");
    const auto slots = Array<int64_t>(batch, batch.slot_mapping, batch.num_tokens, "slot_mapping");
    const auto copies =
        Array<int32_t>(batch, batch.block_copies, 2 * uint64_t{batch.num_block_copies}, "copies");
    const auto rows = Array<int32_t>(batch, batch.logit_rows, batch.num_logit_rows, "logit_rows");
    const auto samples =
        Array<enginery_sample_record>(batch, batch.samples, batch.num_samples, "samples");
    if (!errors.empty()) return Fail("the batch is malformed");

    max_sequences_seen = std::max(max_sequences_seen, static_cast<int64_t>(num_sequences));
    max_tokens_seen = std::max(max_tokens_seen, static_cast<int64_t>(batch.num_tokens));
    Copy(copies);
    CheckOwnership(batch, cu, lens, tables, slots);
    for (uint64_t s = 0; s < num_sequences; ++s) {
      const auto table = tables.subspan(s * width, width);
      CheckSequence(s, cu, lens, positions, slots, table);
      for (auto t = static_cast<size_t>(cu[s]); t < static_cast<size_t>(cu[s + 1]); ++t) {
        const int64_t p = positions[t];
        const uint64_t previous = p == 0 ? HashModel::kStart : kv_[Slot(table, p - 1)];
        kv_[static_cast<size_t>(slots[t])] = HashModel::Kv(previous, token_ids[t], p);
        if (token_ids[t] == failing_token) return Fail("the fake executor was told to fail");
      }
    }
    ComputeRows(rows, cu, token_ids, positions, tables, width);
    Sample(samples, rows, positions);
    ++num_steps;
    return errors.empty() ? ENGINERY_OK : Fail("the batch breaks a promise");
  }

  size_t Slot(std::span<const int32_t> table, int64_t position) const {
    const int64_t width = limits_.tokens_per_block;
    return static_cast<size_t>(table[static_cast<size_t>(position / width)] * width +
                               position % width);
  }

  // Last to first: the order may not matter.
  void Copy(std::span<const int32_t> copies) {
    std::set<int32_t> sources;
    std::set<int32_t> targets;
    for (size_t i = 0; i < copies.size(); i += 2) {
      sources.insert(copies[i]);
      Expect(targets.insert(copies[i + 1]).second, "block ", copies[i + 1], " is a target twice");
    }
    const auto width = static_cast<size_t>(limits_.tokens_per_block);
    for (size_t i = copies.size(); i > 0; i -= 2) {
      Expect(!targets.contains(copies[i - 2]), "block ", copies[i - 2], " is source and target");
      std::copy_n(&kv_[static_cast<size_t>(copies[i - 2]) * width], width,
                  &kv_[static_cast<size_t>(copies[i - 1]) * width]);
      ++num_copies;
    }
  }

  // A block that is written stands in no other table of the step, and no slot is written twice.
  void CheckOwnership(const enginery_batch& batch, std::span<const int32_t> cu,
                      std::span<const int32_t> lens, std::span<const int32_t> tables,
                      std::span<const int64_t> slots) {
    const uint64_t width = batch.block_table_width;
    std::vector<int> num_tables(static_cast<size_t>(num_blocks_), 0);
    for (uint64_t s = 0; s < batch.num_sequences; ++s) {
      const int64_t used = (lens[s] + limits_.tokens_per_block - 1) / limits_.tokens_per_block;
      Expect(used <= static_cast<int64_t>(width), "the block table is too narrow");
      for (uint64_t i = 0; i < width && errors.empty(); ++i) {
        const int32_t block = tables[s * width + i];
        if (static_cast<int64_t>(i) >= used) {
          Expect(block == -1, "unused block table entry is ", block);
        } else {
          Expect(block >= 0 && block < num_blocks_, "block ", block, " does not exist");
          if (errors.empty()) ++num_tables[static_cast<size_t>(block)];
        }
      }
      Expect(cu[s] < cu[s + 1], "a sequence has no tokens");
    }
    std::set<int64_t> written;
    for (const int64_t slot : slots) {
      Expect(slot >= 0 && slot < static_cast<int64_t>(kv_.size()), "slot ", slot);
      Expect(written.insert(slot).second, "slot ", slot, " is written twice");
      if (!errors.empty()) return;
      Expect(num_tables[static_cast<size_t>(slot / limits_.tokens_per_block)] == 1, "block ",
             slot / limits_.tokens_per_block, " is written and shared");
    }
  }

  void CheckSequence(uint64_t s, std::span<const int32_t> cu, std::span<const int32_t> lens,
                     std::span<const int32_t> positions, std::span<const int64_t> slots,
                     std::span<const int32_t> table) {
    max_chunk_seen = std::max<int64_t>(max_chunk_seen, cu[s + 1] - cu[s]);
    Expect(positions[static_cast<size_t>(cu[s + 1]) - 1] + 1 == lens[s], "context_len");
    Expect(lens[s] <= limits_.max_seq_len, "context_len ", lens[s]);
    for (auto t = static_cast<size_t>(cu[s]); t < static_cast<size_t>(cu[s + 1]); ++t) {
      Expect(t == static_cast<size_t>(cu[s]) || positions[t] == positions[t - 1] + 1, "positions");
      Expect(slots[t] == static_cast<int64_t>(Slot(table, positions[t])), "slot_mapping");
    }
  }

  void ComputeRows(std::span<const int32_t> rows, std::span<const int32_t> cu,
                   std::span<const int32_t> token_ids, std::span<const int32_t> positions,
                   std::span<const int32_t> tables, uint64_t width) {
    const auto vocab = static_cast<size_t>(vocab_size_);
    logits_.assign(rows.size() * vocab, 0.0f);
    for (size_t r = 0; r < rows.size(); ++r) {
      Expect(r == 0 || rows[r] > rows[r - 1], "logit_rows do not increase");
      const auto s =
          static_cast<size_t>(std::upper_bound(cu.begin(), cu.end(), rows[r]) - cu.begin() - 1);
      const auto table = tables.subspan(s * width, width);
      const auto t = static_cast<size_t>(rows[r]);
      uint64_t hash = HashModel::kStart;
      for (int64_t p = 0; p <= positions[t]; ++p) hash = Mix(hash, kv_[Slot(table, p)]);
      HashModel::Logits(hash, std::span(logits_).subspan(r * vocab, vocab));
      if (token_ids[t] == nan_token) logits_[r * vocab + vocab / 2] = __builtin_nanf("");
    }
  }

  void Sample(std::span<const enginery_sample_record> samples, std::span<const int32_t> rows,
              std::span<const int32_t> positions) {
    tokens_.assign(samples.size(), -1);
    std::set<int32_t> sampled_rows;
    for (const enginery_sample_record& sample : samples) sampled_rows.insert(sample.logit_row);
    rows_wanted_ = sampled_rows.size() < rows.size();
    const auto vocab = static_cast<size_t>(vocab_size_);
    for (size_t i = 0; i < samples.size(); ++i) {
      const enginery_sample_record& sample = samples[i];
      Expect(sample.logit_row >= 0 && sample.logit_row < static_cast<int32_t>(rows.size()),
             "logit_row ", sample.logit_row);
      if (!errors.empty()) return;
      const auto row = static_cast<size_t>(sample.logit_row);
      Expect(static_cast<int64_t>(sample.position) == positions[static_cast<size_t>(rows[row])] + 1,
             "sample position ", sample.position);
      if (!samples_greedy || sample.flags != 1) continue;
      const float* logits = &logits_[row * vocab];
      tokens_[i] = static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
    }
  }

  enginery_status Collect(enginery_step_output* output) {
    const bool are_wanted = rows_wanted_ || std::ranges::count(tokens_, -1) > 0;
    output->logits = forgets_logits || (spares_logits && !are_wanted) ? nullptr : logits_.data();
    num_spared_steps += output->logits == nullptr ? 1 : 0;
    output->token_ids = samples_greedy ? tokens_.data() : nullptr;
    return ENGINERY_OK;
  }

  enginery_status Fail(const char* reason) {
    last_error_ = reason;
    return ENGINERY_INTERNAL;
  }

  const int64_t vocab_size_;
  const int64_t num_blocks_;
  enginery_limits limits_ = {};
  std::vector<uint64_t> kv_;
  std::vector<uint64_t> buffer_;
  std::vector<float> logits_;
  std::vector<int32_t> tokens_;
  bool rows_wanted_ = false;  // for something else than drawing
  std::string last_error_;
};

}  // namespace enginery::test
