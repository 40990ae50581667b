// SPDX-License-Identifier: Apache-2.0
#include "engine/sections.h"

#include <algorithm>
#include <bit>

#include "engine/format.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

constexpr enginery_status kStatus = ENGINERY_INVALID_SECTION;

uint64_t TableEnd(const std::vector<Section>& sections) {
  return kHeaderBytes + sections.size() * kSectionEntryBytes;
}

Section ReadEntry(ByteSpan file, const Header& header, uint32_t index) {
  const ByteSpan entry =
      file.subspan(kHeaderBytes + size_t{index} * kSectionEntryBytes, kSectionEntryBytes);
  Section section;
  const std::string where = StrCat("sections[", index, "]");
  section.name = ReadText(entry, 0, 48, kStatus, where + ".name");
  if (section.name.empty()) ThrowInvalid(kStatus, where + ".name", "\"\"", "a name");
  section.offset = Load<uint64_t>(entry, 48);
  section.bytes = Load<uint64_t>(entry, 56);
  section.alignment = Load<uint32_t>(entry, 64);
  section.flags = Load<uint32_t>(entry, 68);
  std::ranges::copy(entry.subspan(96, 32), section.sha256.begin());

  const std::string named = StrCat(where, " ", Quoted(section.name));
  RequireRange(kStatus, named + ": alignment", section.alignment, kMinAlignment, kMaxAlignment);
  if (!std::has_single_bit(section.alignment)) {
    ThrowInvalid(kStatus, named + ": alignment", section.alignment, "a power of two");
  }
  const uint64_t table_end = kHeaderBytes + uint64_t{header.num_sections} * kSectionEntryBytes;
  RequireRange(kStatus, named + ": offset", section.offset, table_end, file.size());
  if (section.offset % section.alignment != 0) {
    ThrowInvalid(kStatus, named + ": offset", section.offset,
                 StrCat("a multiple of its alignment, ", section.alignment));
  }
  RequireRange(kStatus, named + ": bytes", section.bytes, 0, file.size() - section.offset);
  RequireRange(kStatus, named + ": flags", section.flags, 0, kCheckedAtOpen);
  if (!IsZero(entry.subspan(72, 24))) {
    throw Error(kStatus, named + ": the reserved bytes 72..95 of the entry are not zero");
  }
  return section;
}

// The sections that have bytes, in the order of the file.
std::vector<const Section*> InFileOrder(const std::vector<Section>& sections) {
  std::vector<const Section*> order;
  for (const Section& section : sections) {
    if (section.bytes > 0) order.push_back(&section);
  }
  std::ranges::sort(order, {}, [](const Section* section) { return section->offset; });
  return order;
}

void CheckOverlaps(const std::vector<Section>& sections) {
  const std::vector<const Section*> order = InFileOrder(sections);
  for (size_t i = 1; i < order.size(); ++i) {
    const Section& before = *order[i - 1];
    const Section& after = *order[i];
    if (before.offset + before.bytes > after.offset) {
      throw Error(kStatus, StrCat("sections ", Quoted(before.name), " at ", before.offset,
                                  ", bytes ", before.bytes, ", and ", Quoted(after.name), " at ",
                                  after.offset, " overlap"));
    }
  }
}

void CheckRequired(const std::vector<Section>& sections, std::string_view name) {
  const Section* section = FindSection(sections, name);
  if (section == nullptr) {
    throw Error(ENGINERY_MISSING_SECTION, StrCat("there is no section ", Quoted(name)));
  }
  if ((section->flags & kCheckedAtOpen) == 0) {
    ThrowInvalid(kStatus, StrCat("section ", Quoted(name), ": flags"), section->flags,
                 "bit 0 set: it is checked at open");
  }
}

}  // namespace

std::vector<Section> ReadSections(ByteSpan file, const Header& header) {
  std::vector<Section> sections;
  for (uint32_t i = 0; i < header.num_sections; ++i) {
    Section section = ReadEntry(file, header, i);
    if (FindSection(sections, section.name) != nullptr) {
      throw Error(kStatus, StrCat("sections[", i, "].name ", Quoted(section.name),
                                  " stands twice in the section table; accepted: unique names"));
    }
    sections.push_back(std::move(section));
  }
  CheckOverlaps(sections);
  CheckRequired(sections, "program");
  CheckRequired(sections, "token_bytes");
  return sections;
}

const Section* FindSection(const std::vector<Section>& sections, std::string_view name) {
  const auto found = std::ranges::find(sections, name, &Section::name);
  return found == sections.end() ? nullptr : &*found;
}

void CheckGaps(ByteSpan file, const std::vector<Section>& sections) {
  uint64_t end = TableEnd(sections);
  const auto check = [&](uint64_t begin_of_next, std::string_view next) {
    if (!IsZero(file.subspan(end, begin_of_next - end))) {
      throw Error(kStatus, StrCat("bytes ", end, "..", begin_of_next - 1, " before ", next,
                                  " belong to no section and are not zero"));
    }
  };
  for (const Section* section : InFileOrder(sections)) {
    check(section->offset, StrCat("section ", Quoted(section->name)));
    end = section->offset + section->bytes;
  }
  check(file.size(), "the end of the file");
}

}  // namespace enginery
