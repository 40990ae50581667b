// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "engine/engine_file.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

constexpr enginery_status kStatus = ENGINERY_RANK_MISMATCH;

std::string RankPath(const std::string& directory, size_t rank) {
  return (std::filesystem::path(directory) / StrCat("rank", rank, ".engine")).string();
}

void RequireSame(const EngineFile& first, const EngineFile& other, std::string_view field,
                 const std::string& expected, const std::string& found) {
  if (expected == found) return;
  throw Error(kStatus,
              StrCat(other.name(), ": ", field, " is ", Quoted(found), ", but ", first.name(),
                     " has ", Quoted(expected), "; accepted: the rank files of one build"));
}

// Ranks run in lockstep and meet in collectives: the operations must come in the same order.
bool HaveSameOps(const Program& a, const Program& b) {
  return std::ranges::equal(a.steps, b.steps, {}, &Step::op, &Step::op);
}

void CheckRank(const EngineFile& first, const EngineFile& file, size_t rank) {
  const Header& header = file.header();
  if (header.tp_rank != rank || header.tp_size != first.header().tp_size) {
    throw Error(kStatus,
                StrCat(file.name(), ": tp_rank is ", header.tp_rank, " of tp_size ", header.tp_size,
                       "; accepted here: tp_rank ", rank, " of tp_size ", first.header().tp_size));
  }
  RequireSame(first, file, "target", first.header().target, header.target);
  RequireSame(first, file, "sku", first.header().sku, header.sku);
  RequireSame(first, file, "variant", first.header().variant, header.variant);
  RequireSame(first, file, "builder_version", first.header().builder_version,
              header.builder_version);
  RequireSame(first, file, "token_bytes sha256", ToHex(first.FindSection("token_bytes")->sha256),
              ToHex(file.FindSection("token_bytes")->sha256));
  if (file.config() != first.config()) {
    throw Error(kStatus, StrCat(file.name(), ": the program's attributes differ from those of ",
                                first.name(), "; accepted: the rank files of one build"));
  }
  if (!HaveSameOps(first.program(), file.program())) {
    throw Error(kStatus, StrCat(file.name(), ": the program's steps are other operations than in ",
                                first.name(), "; accepted: the rank files of one build"));
  }
}

// `reason` says why there must be a file at `path`, for the case that there is none.
std::unique_ptr<EngineFile> OpenRank(const std::string& path, std::string_view reason) {
  try {
    return EngineFile::Open(path);
  } catch (const Error& error) {
    if (error.status() != ENGINERY_NOT_FOUND) throw;
    throw Error(ENGINERY_NOT_FOUND, StrCat(error.what(), "; ", reason));
  }
}

std::vector<std::unique_ptr<EngineFile>> OpenDirectory(const std::string& directory) {
  std::vector<std::unique_ptr<EngineFile>> ranks;
  ranks.push_back(
      OpenRank(RankPath(directory, 0), "pass an engine directory that build-engine wrote"));
  const uint32_t tp_size = ranks[0]->header().tp_size;
  for (size_t rank = 1; rank < tp_size; ++rank) {
    ranks.push_back(
        OpenRank(RankPath(directory, rank), StrCat("rank0.engine says tp_size ", tp_size,
                                                   ", which takes rank files 0..", tp_size - 1)));
  }
  return ranks;
}

}  // namespace

Engine::Engine(std::vector<std::unique_ptr<EngineFile>> ranks) : ranks_(std::move(ranks)) {}
Engine::~Engine() = default;

std::shared_ptr<const Engine> Engine::Open(const std::string& path) {
  std::error_code error;  // what is wrong with `path` is said by who opens it
  if (std::filesystem::is_directory(path, error)) return FromFiles(OpenDirectory(path));
  std::vector<std::unique_ptr<EngineFile>> ranks;
  ranks.push_back(OpenRank(path, "pass an engine directory that build-engine wrote"));
  return FromFiles(std::move(ranks));
}

std::shared_ptr<const Engine> Engine::FromFiles(std::vector<std::unique_ptr<EngineFile>> ranks) {
  if (ranks.empty()) throw Error(ENGINERY_INVALID_ARGUMENT, "an engine has at least one rank file");
  const EngineFile& first = *ranks[0];
  if (first.header().tp_size != ranks.size()) {
    throw Error(kStatus,
                StrCat(first.name(), ": tp_size is ", first.header().tp_size, ", but this is ",
                       ranks.size(), " rank file(s); open the engine directory instead"));
  }
  for (size_t rank = 0; rank < ranks.size(); ++rank) CheckRank(first, *ranks[rank], rank);
  return std::shared_ptr<const Engine>(new Engine(std::move(ranks)));
}

const Program& Engine::program(int64_t rank) const { return this->rank(rank).program(); }
const TokenBytes& Engine::token_bytes() const { return rank(0).token_bytes(); }
const ModelConfig& Engine::config() const { return rank(0).config(); }
const std::string& Engine::target() const { return rank(0).header().target; }
const std::string& Engine::sku() const { return rank(0).header().sku; }
std::vector<std::string> Engine::skus() const {
  constexpr std::string_view kPrefix = "sku.";
  std::vector<std::string> skus;
  for (const Section& section : rank(0).sections()) {
    if (section.name.starts_with(kPrefix)) skus.push_back(section.name.substr(kPrefix.size()));
  }
  if (skus.empty()) skus.push_back(sku());
  return skus;
}
const std::string& Engine::variant() const { return rank(0).header().variant; }
const std::string& Engine::builder_version() const { return rank(0).header().builder_version; }

uint64_t Engine::weight_bytes() const {
  uint64_t bytes = 0;
  for (const auto& file : ranks_) bytes += file->weight_bytes();
  return bytes;
}

uint64_t Engine::kv_bytes_per_token() const {
  return KvBytesPerToken(config(), target()) * static_cast<uint64_t>(tp_size());
}

}  // namespace enginery
