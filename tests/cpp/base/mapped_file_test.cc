// SPDX-License-Identifier: Apache-2.0
#include "base/mapped_file.h"

#include <sys/stat.h>

#include "base/error.h"
#include "check.h"
#include "support/temp_dir.h"

namespace enginery::test {
namespace {

enginery_status OpenStatus(const std::string& path) {
  try {
    MappedFile file(path);
    return ENGINERY_OK;
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find(path) != std::string::npos);
    return error.status();
  }
}

TEST(bytes_are_those_of_the_file) {
  const TempDir dir;
  AlignedBytes bytes;
  for (int i = 0; i < 5000; ++i) bytes.push_back(static_cast<std::byte>(i));
  MappedFile file(dir.Write("f", bytes));
  REQUIRE_EQ(file.bytes().size(), bytes.size());
  CHECK(std::equal(bytes.begin(), bytes.end(), file.bytes().begin()));
  CHECK_EQ(reinterpret_cast<uintptr_t>(file.bytes().data()) % 4096, 0u);
  MappedFile moved(std::move(file));
  CHECK_EQ(moved.bytes().size(), bytes.size());
}

TEST(an_empty_file_has_no_bytes) {
  const TempDir dir;
  CHECK_EQ(MappedFile(dir.Write("f", {})).bytes().size(), 0u);
}

TEST(a_file_replaced_by_rename_stays_as_it_was) {
  const TempDir dir;
  MappedFile file(dir.Write("f", AlignedBytes(4, std::byte{1})));
  std::filesystem::rename(dir.Write("g", AlignedBytes(9, std::byte{2})), dir.file("f"));
  REQUIRE_EQ(file.bytes().size(), 4u);
  CHECK(file.bytes()[3] == std::byte{1});
}

TEST(what_is_no_file_is_refused_without_waiting) {
  const TempDir dir;
  CHECK_EQ(OpenStatus(dir.file("none")), ENGINERY_NOT_FOUND);
  CHECK_EQ(OpenStatus(dir.Write("f", {}) + "/none"), ENGINERY_NOT_FOUND);
  CHECK_EQ(OpenStatus(dir.path()), ENGINERY_INVALID_ARGUMENT);
  REQUIRE_EQ(mkfifo(dir.file("fifo").c_str(), 0600), 0);
  CHECK_EQ(OpenStatus(dir.file("fifo")), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(OpenStatus("/dev/zero"), ENGINERY_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace enginery::test
