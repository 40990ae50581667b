// SPDX-License-Identifier: Apache-2.0
//
// An opened engine: the mapped rank files of one engine directory and what was read from them.
#ifndef ENGINERY_SRC_ENGINE_ENGINE_H_
#define ENGINERY_SRC_ENGINE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/model_config.h"
#include "engine/program.h"
#include "engine/token_bytes.h"

namespace enginery {

class EngineFile;  // engine/engine_file.h: one mapped and checked rank file

// Read-only after Open: may be shared between threads.
class Engine {
 public:
  // `path`: an engine directory or one rank file (then tp_size must be 1). Throws Error: those of
  // EngineFile::Open; ENGINERY_NOT_FOUND naming the rank file that is absent;
  // ENGINERY_RANK_MISMATCH.
  static std::shared_ptr<const Engine> Open(const std::string& path);

  // From rank files already read, in rank order, at least one. Throws
  // Error(ENGINERY_RANK_MISMATCH) unless they are all the ranks of one engine.
  static std::shared_ptr<const Engine> FromFiles(std::vector<std::unique_ptr<EngineFile>> ranks);

  ~Engine();

  int64_t tp_size() const { return static_cast<int64_t>(ranks_.size()); }
  const EngineFile& rank(int64_t r) const { return *ranks_[static_cast<size_t>(r)]; }
  const Program& program(int64_t rank) const;
  const TokenBytes& token_bytes() const;  // of rank 0
  const ModelConfig& config() const;      // the same on every rank
  const std::string& target() const;
  const std::string& sku() const;         // of the header; "several" when built for more than one
  std::vector<std::string> skus() const;  // that it holds a payload for, at least one
  const std::string& variant() const;
  const std::string& builder_version() const;
  uint64_t weight_bytes() const;        // of all ranks
  uint64_t kv_bytes_per_token() const;  // of all ranks

 private:
  explicit Engine(std::vector<std::unique_ptr<EngineFile>> ranks);
  std::vector<std::unique_ptr<EngineFile>> ranks_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_ENGINE_H_
