// SPDX-License-Identifier: Apache-2.0
//
// One rank's engine file, mapped, checked and read. docs/engine-format.md says what it holds. The
// file is read as hostile input: nothing in it is used before it was checked.
#ifndef ENGINERY_SRC_ENGINE_ENGINE_FILE_H_
#define ENGINERY_SRC_ENGINE_ENGINE_FILE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/mapped_file.h"
#include "engine/header.h"
#include "engine/model_config.h"
#include "engine/program.h"
#include "engine/sections.h"
#include "engine/token_bytes.h"

namespace enginery {

class EngineFile {
 public:
  // Maps and reads the file at `path`. Throws Error with the path, the cause and what to do.
  static std::unique_ptr<EngineFile> Open(const std::string& path);

  // The same from memory, which must be aligned to 64 bytes and outlive the object. `name` stands
  // for the path in messages.
  static std::unique_ptr<EngineFile> FromMemory(ByteSpan bytes, const std::string& name);

  const std::string& name() const { return name_; }
  const Header& header() const { return header_; }
  const std::vector<Section>& sections() const { return sections_; }
  // Null when there is none of that name.
  const Section* FindSection(std::string_view name) const {
    return enginery::FindSection(sections_, name);
  }
  ByteSpan SectionBytes(const Section& section) const {
    return bytes_.subspan(section.offset, section.bytes);
  }
  const Program& program() const { return program_; }
  const TokenBytes& token_bytes() const { return token_bytes_; }
  const ModelConfig& config() const { return config_; }

  // Bytes of the sections that tensors stand in.
  uint64_t weight_bytes() const;

  // Hashes every section, and checks that the gaps between them are zero. `on_bytes` is called with
  // the number of bytes hashed since the last call. Throws Error: ENGINERY_CHECKSUM_MISMATCH naming
  // every section that differs, ENGINERY_INVALID_SECTION.
  void Verify(const std::function<void(uint64_t)>& on_bytes) const;

 private:
  EngineFile(std::string name, std::optional<MappedFile> file, ByteSpan bytes);
  void Read();

  std::string name_;
  std::optional<MappedFile> file_;  // none when opened from memory
  ByteSpan bytes_;
  Header header_;
  std::vector<Section> sections_;
  Program program_;
  ModelConfig config_;
  TokenBytes token_bytes_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_ENGINE_FILE_H_
