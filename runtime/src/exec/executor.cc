// SPDX-License-Identifier: Apache-2.0
#include "exec/executor.h"

#include <algorithm>

#include "base/error.h"
#include "base/str_cat.h"
#include "exec/collectives.h"
#include "exec/rope.h"

namespace enginery {
namespace {

std::vector<const CollectiveStep*> Collectives(const Plan& plan) {
  std::vector<const CollectiveStep*> collectives;
  for (const PreparedStep& step : plan.steps) {
    if (const auto* collective = std::get_if<CollectiveStep>(&step)) {
      collectives.push_back(collective);
    }
  }
  return collectives;
}

// Runs `body`; into a profile goes what it took, with the work that `work()` tells.
template <class Body, class Work>
void Run(Profiler::Step* profile, const Body& body, const Work& work) {
  if (profile == nullptr) {
    body();
  } else {
    profile->Time(body, work);
  }
}

OpWork WorkOf(const CollectiveStep& collective) {
  return {collective.kind == CollectiveStep::Kind::kAllReduce ? "all_reduce" : "all_gather"};
}

// Adds a query to the last tile, where it follows there and has room, or as a tile of its own.
void AddQuery(const QueryTile& query, int64_t tile_tokens, std::vector<QueryTile>& tiles) {
  if (!tiles.empty()) {
    QueryTile& last = tiles.back();
    if (last.sequence == query.sequence && last.token + last.num_queries == query.token &&
        last.num_queries < tile_tokens) {
      ++last.num_queries;
      return;
    }
  }
  tiles.push_back(query);
}

void CheckLimit(std::string_view name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat("limits.", name, " is ", value, "; accepted: ", low, "..", high));
  }
}

}  // namespace

Executor::Executor(const std::vector<const Program*>& programs, std::shared_ptr<const void> owner,
                   const Kernels& kernels, int num_threads, bool pin_threads)
    : owner_(std::move(owner)), kernels_(kernels), pool_(num_threads, pin_threads) {
  for (const Program* program : programs) {
    Rank rank;
    rank.plan = PlanBuilder(*program, static_cast<int64_t>(programs.size())).Build();
    ranks_.push_back(std::move(rank));
  }
  CheckCollectives();
}

// Ranks meet at their collectives, so these must be the same; between them each may do as it likes.
void Executor::CheckCollectives() const {
  const auto expected = Collectives(ranks_[0].plan);
  const ModelConfig& config = ranks_[0].plan.config;
  for (size_t r = 1; r < ranks_.size(); ++r) {
    const auto actual = Collectives(ranks_[r].plan);
    const bool agree =
        std::ranges::equal(expected, actual, [](const CollectiveStep* a, const CollectiveStep* b) {
          return a->kind == b->kind && a->rows == b->rows && a->columns == b->columns;
        });
    const ModelConfig& other = ranks_[r].plan.config;
    if (!agree || other.vocab_size != config.vocab_size ||
        other.tokens_per_block != config.tokens_per_block) {
      throw Error(ENGINERY_RANK_MISMATCH,
                  StrCat("ranks 0 and ", r,
                         " do not belong together: their collectives, vocab_size or "
                         "tokens_per_block differ; build all ranks at once"));
    }
  }
}

void Executor::Init(const enginery_limits& limits, uint64_t kv_cache_bytes,
                    enginery_executor_info* info) {
  const ModelConfig& config = ranks_[0].plan.config;
  CheckLimit("max_batch_size", limits.max_batch_size, 1, INT32_MAX);
  CheckLimit("max_num_tokens", limits.max_num_tokens, 1, INT32_MAX);
  CheckLimit("max_logit_rows", limits.max_logit_rows, 1, INT32_MAX);
  CheckLimit("max_seq_len", limits.max_seq_len, 1, INT32_MAX);
  CheckLimit("tokens_per_block", limits.tokens_per_block, config.tokens_per_block,
             config.tokens_per_block);
  is_initialized_ = false;
  has_result_ = false;

  std::vector<KvShape> shapes;
  for (const Rank& rank : ranks_) shapes.push_back(rank.plan.kv);
  kv_cache_ = KvCache(shapes, kv_cache_bytes);

  uint64_t workspace_bytes = 0;
  scratch_bytes_ = 0;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    Rank& rank = ranks_[r];
    rank.workspace = Workspace(rank.plan.buffers, limits.max_num_tokens, limits.max_logit_rows);
    rank.kv = kv_cache_.rank(r);
    const int64_t num_tiles = std::min<int64_t>(
        limits.max_num_tokens,
        limits.max_batch_size + limits.max_num_tokens / QueryTileTokens(rank.plan.config));
    rank.query_tiles.of_tokens.reserve(static_cast<size_t>(num_tiles));
    rank.query_tiles.of_logits.reserve(static_cast<size_t>(limits.max_logit_rows));
    workspace_bytes += rank.workspace.bytes();
    scratch_bytes_ = std::max(scratch_bytes_, rank.plan.thread_scratch_bytes);
  }
  // Threads write to their scratch at once: a cache line apart is not enough for the adjacent-line
  // prefetcher.
  scratch_bytes_ = (scratch_bytes_ + 127) / 128 * 128;
  scratch_ = Reservation(static_cast<uint64_t>(scratch_bytes_ * pool_.num_threads()), "scratch",
                         Pages::kLarge);
  contexts_.reserve(ranks_.size());
  collectives_.reserve(ranks_.size());

  limits_ = {limits.max_batch_size, limits.max_num_tokens,   limits.max_logit_rows,
             limits.max_seq_len,    config.tokens_per_block, kv_cache_.num_blocks(),
             config.vocab_size};
  info->vocab_size = config.vocab_size;
  info->num_blocks = kv_cache_.num_blocks();
  info->block_bytes = static_cast<uint64_t>(kv_cache_.block_bytes());
  info->workspace_bytes = workspace_bytes + scratch_.bytes();
  is_initialized_ = true;
}

void Executor::PlanQueries(const BatchView& batch, Rank& rank) const {
  const int64_t tile_tokens = QueryTileTokens(rank.plan.config);
  auto& [of_tokens, of_logits] = rank.query_tiles;
  of_tokens.clear();
  of_logits.clear();
  int32_t row = 0;  // of logits
  for (int32_t s = 0; s < batch.num_sequences; ++s) {
    for (int32_t token = batch.cu_seqlens_q[s]; token < batch.cu_seqlens_q[s + 1]; ++token) {
      AddQuery({s, token, token, 1}, tile_tokens, of_tokens);
      if (row < batch.num_logit_rows && batch.logit_rows[row] == token) {
        AddQuery({s, row, token, 1}, tile_tokens, of_logits);
        ++row;
      }
    }
  }
}

void Executor::Execute(const enginery_batch* batch) {
  if (!is_initialized_) throw Error(ENGINERY_INVALID_ARGUMENT, "execute was called before init");
  has_result_ = false;
  pool_.PinCaller();
  const BatchView view = BatchView::Check(batch, limits_);
  for (int64_t i = 0; i < view.num_block_copies; ++i) {
    kv_cache_.CopyBlock(view.block_copies[2 * i], view.block_copies[2 * i + 1]);
  }
  Profiler::Step* profile = profiler_->BeginStep(batch->step_id);
  RunRanks(view, profile);
  Sample(view, profile);
  profiler_->EndStep(profile);
  has_result_ = true;
}

// The ranks take turns from collective to collective.
void Executor::RunRanks(const BatchView& batch, Profiler::Step* profile) {
  contexts_.clear();
  for (Rank& rank : ranks_) {
    PlanQueries(batch, rank);
    contexts_.push_back({kernels_, pool_, batch, rank.kv, rank.query_tiles, rank.workspace.values(),
                         scratch_.data(), scratch_bytes_});
    for (const RopeSpec& rope : rank.plan.ropes) {
      Run(profile, [&] { ComputeRope(rope, contexts_.back()); }, [] { return OpWork{"rope"}; });
    }
  }
  std::vector<size_t> next(ranks_.size(), 0);
  while (true) {
    collectives_.clear();
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const std::vector<PreparedStep>& steps = ranks_[r].plan.steps;
      for (; next[r] < steps.size(); ++next[r]) {
        if (const auto* collective = std::get_if<CollectiveStep>(&steps[next[r]])) {
          collectives_.push_back(*collective);
          ++next[r];
          break;
        }
        const Op& op = *std::get<std::unique_ptr<Op>>(steps[next[r]]);
        Run(profile, [&] { op.Run(contexts_[r]); }, [&] { return op.Work(contexts_[r]); });
      }
    }
    if (collectives_.empty()) return;
    Run(
        profile, [&] { RunCollective(collectives_, contexts_); },
        [&] { return WorkOf(collectives_[0]); });
  }
}

void Executor::Sample(const BatchView& batch, Profiler::Step* profile) {
  const Rank& rank = ranks_[0];
  const std::span records(batch.samples, static_cast<size_t>(batch.num_samples));
  const Matrix& logits = rank.workspace.values()[rank.plan.logits];
  Run(
      profile, [&] { sampler_.Run(records, logits, limits_.vocab_size, pool_); },
      [] { return OpWork{"sample"}; });
}

void Executor::Collect(enginery_step_output* output) const {
  if (!has_result_) {
    throw Error(ENGINERY_INVALID_ARGUMENT, "collect was called without a step that succeeded");
  }
  const Rank& rank = ranks_[0];
  output->logits = rank.workspace.values()[rank.plan.logits].row<float>(0);
  output->token_ids = sampler_.token_ids().empty() ? nullptr : sampler_.token_ids().data();
}

}  // namespace enginery
