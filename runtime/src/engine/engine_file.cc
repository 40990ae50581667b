// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_file.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include "engine/format.h"
#include "engine/invalid.h"
#include "engine/program_reader.h"

namespace enginery {
namespace {

// What to do about a file that is refused, by cause.
std::string_view Fix(enginery_status status) {
  switch (status) {
    case ENGINERY_BAD_MAGIC:
      return "this is no engine file; open a directory that build-engine wrote";
    case ENGINERY_UNSUPPORTED_VERSION:
      return "build the engine again with this version of Enginery, or open it with the version "
             "that built it";
    case ENGINERY_TRUNCATED:
    case ENGINERY_CHECKSUM_MISMATCH:
      return "the file is damaged or cut off; copy it again or build the engine again";
    default:
      return "the file was not written by build-engine, or changed since; build the engine again";
  }
}

// Runs `body`; an Error from it gets the file's name in front and the fix behind.
template <class F>
void WithName(const std::string& name, F&& body) {
  try {
    body();
  } catch (const Error& error) {
    throw Error(error.status(), StrCat(name, ": ", error.what(), " (", Fix(error.status()), ")"));
  }
}

}  // namespace

EngineFile::EngineFile(std::string name, std::optional<MappedFile> file, ByteSpan bytes)
    : name_(std::move(name)), file_(std::move(file)), bytes_(bytes) {}

std::unique_ptr<EngineFile> EngineFile::Open(const std::string& path) {
  MappedFile file(path);
  const ByteSpan bytes = file.bytes();
  std::unique_ptr<EngineFile> engine_file(new EngineFile(path, std::move(file), bytes));
  WithName(path, [&] { engine_file->Read(); });
  return engine_file;
}

std::unique_ptr<EngineFile> EngineFile::FromMemory(ByteSpan bytes, const std::string& name) {
  if (reinterpret_cast<uintptr_t>(bytes.data()) % kMinAlignment != 0) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat(name, ": the memory of an engine must be aligned to 64 bytes"));
  }
  std::unique_ptr<EngineFile> engine_file(new EngineFile(name, std::nullopt, bytes));
  WithName(name, [&] { engine_file->Read(); });
  return engine_file;
}

void EngineFile::Read() {
  header_ = ReadHeader(bytes_);
  sections_ = ReadSections(bytes_, header_);
  for (const Section& section : sections_) {
    if ((section.flags & kCheckedAtOpen) != 0 &&
        Sha256Of(SectionBytes(section)) != section.sha256) {
      throw Error(ENGINERY_CHECKSUM_MISMATCH,
                  StrCat("section ", Quoted(section.name), ": sha256 is ", ToHex(section.sha256),
                         ", but its bytes hash to another value"));
    }
  }
  program_ = ReadProgram(bytes_, sections_, *FindSection("program"));
  config_ = ReadModelConfig(program_.attributes);
  token_bytes_ = ReadTokenBytes(SectionBytes(*FindSection("token_bytes")), config_.vocab_size);
}

uint64_t EngineFile::weight_bytes() const {
  // Sections, not tensors: tensors may share bytes (tied embeddings).
  std::set<uint32_t> indices;
  for (const Tensor& tensor : program_.tensors) indices.insert(tensor.section);
  uint64_t bytes = 0;
  for (const uint32_t index : indices) bytes += sections_[index].bytes;
  return bytes;
}

void EngineFile::Verify(const std::function<void(uint64_t)>& on_bytes) const {
  constexpr size_t kChunkBytes = size_t{16} << 20;
  WithName(name_, [&] {
    CheckGaps(bytes_, sections_);
    std::string differing;
    for (const Section& section : sections_) {
      Sha256 hash;
      for (ByteSpan rest = SectionBytes(section); !rest.empty();) {
        const ByteSpan chunk = rest.first(std::min(kChunkBytes, rest.size()));
        hash.Update(chunk);
        rest = rest.subspan(chunk.size());
        on_bytes(chunk.size());
      }
      if (hash.Finish() != section.sha256) {
        differing += StrCat(differing.empty() ? "" : ", ", Quoted(section.name));
      }
    }
    if (!differing.empty()) {
      throw Error(
          ENGINERY_CHECKSUM_MISMATCH,
          StrCat("the bytes of ", differing, " do not hash to what the section table says"));
    }
  });
}

}  // namespace enginery
