// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "api/abi_struct.h"
#include "api/engine_handle.h"
#include "api/status.h"
#include "base/str_cat.h"
#include "engine/describe.h"
#include "engine/engine_file.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

const EngineFile& Rank(const enginery_engine* engine, int64_t rank) {
  RequireArgument(engine != nullptr, "engine is NULL; pass what enginery_engine_open gave");
  const int64_t tp_size = engine->engine->tp_size();
  if (rank < 0 || rank >= tp_size) {
    ThrowInvalid(ENGINERY_INVALID_ARGUMENT, "rank", rank, StrCat("0..", tp_size - 1));
  }
  return engine->engine->rank(rank);
}

char* CopyForCaller(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

enginery_engine_info Info(const Engine& engine) {
  const ModelConfig& config = engine.config();
  enginery_engine_info info{};
  info.target = engine.target().c_str();
  info.sku = engine.sku().c_str();
  info.variant = engine.variant().c_str();
  info.builder_version = engine.builder_version().c_str();
  info.architecture = config.architecture.c_str();
  info.dtype = config.dtype.c_str();
  info.qformat = config.qformat.c_str();
  info.kv_cache_dtype = config.kv_cache_dtype.c_str();
  info.tp_size = engine.tp_size();
  info.vocab_size = config.vocab_size;
  info.hidden_size = config.hidden_size;
  info.num_layers = config.num_layers;
  info.num_kv_heads = config.num_kv_heads;
  info.head_dim = config.head_dim;
  info.max_batch_size = config.max_batch_size;
  info.max_num_tokens = config.max_num_tokens;
  info.max_seq_len = config.max_seq_len;
  info.max_input_len = config.max_input_len;
  info.tokens_per_block = config.tokens_per_block;
  info.bos_token_id = config.bos_token_id;
  info.pad_token_id = config.pad_token_id;
  info.eos_token_ids = config.eos_token_ids.data();
  info.num_eos_token_ids = config.eos_token_ids.size();
  info.weight_bytes = engine.weight_bytes();
  info.kv_bytes_per_token = engine.kv_bytes_per_token();
  return info;
}

}  // namespace
}  // namespace enginery

using enginery::Guard;
using enginery::RequireArgument;

enginery_status enginery_engine_open(const char* path, enginery_engine** engine) {
  return Guard([&] {
    RequireArgument(path != nullptr, "path is NULL; pass an engine directory");
    RequireArgument(engine != nullptr, "engine is NULL; pass where to put the handle");
    *engine = new enginery_engine{enginery::Engine::Open(path)};
  });
}

void enginery_engine_close(enginery_engine* engine) { delete engine; }

enginery_status enginery_engine_get_info(const enginery_engine* engine,
                                         enginery_engine_info* info) {
  return Guard([&] {
    RequireArgument(engine != nullptr, "engine is NULL; pass what enginery_engine_open gave");
    RequireArgument(info != nullptr, "info is NULL; pass a struct with abi_size set");
    enginery::WriteAbiStruct(enginery::Info(*engine->engine), info, info->abi_size,
                             "enginery_engine_info");
  });
}

enginery_status enginery_engine_describe_json(const enginery_engine* engine, int64_t rank,
                                              char** json) {
  return Guard([&] {
    RequireArgument(json != nullptr, "json is NULL; pass where to put the string");
    *json = enginery::CopyForCaller(enginery::DescribeJson(enginery::Rank(engine, rank)));
  });
}

void enginery_string_free(char* string) { std::free(string); }

enginery_status enginery_engine_section(const enginery_engine* engine, int64_t rank,
                                        const char* name, const void** data, uint64_t* bytes) {
  return Guard([&] {
    RequireArgument(name != nullptr, "name is NULL; pass a section's name");
    RequireArgument(data != nullptr && bytes != nullptr, "data or bytes is NULL");
    const enginery::EngineFile& file = enginery::Rank(engine, rank);
    const enginery::Section* section = file.FindSection(name);
    if (section == nullptr) {
      std::string names;
      for (const enginery::Section& one : file.sections()) {
        names += (names.empty() ? "" : ", ") + one.name;
      }
      throw enginery::Error(ENGINERY_NOT_FOUND,
                            enginery::StrCat(file.name(), " has no section ",
                                             enginery::Quoted(name), "; it has ", names));
    }
    const enginery::ByteSpan span = file.SectionBytes(*section);
    *data = span.data();
    *bytes = span.size();
  });
}

enginery_status enginery_engine_verify(const enginery_engine* engine,
                                       void (*progress)(void* user, uint64_t done, uint64_t total),
                                       void* user) {
  return Guard([&] {
    RequireArgument(engine != nullptr, "engine is NULL; pass what enginery_engine_open gave");
    uint64_t total = 0;
    for (int64_t r = 0; r < engine->engine->tp_size(); ++r) {
      for (const enginery::Section& section : engine->engine->rank(r).sections()) {
        total += section.bytes;
      }
    }
    uint64_t done = 0;
    for (int64_t r = 0; r < engine->engine->tp_size(); ++r) {
      engine->engine->rank(r).Verify([&](uint64_t bytes) {
        done += bytes;
        if (progress != nullptr) progress(user, done, total);
      });
    }
  });
}
