// SPDX-License-Identifier: Apache-2.0
#include "api/status.h"

#include <new>
#include <stdexcept>
#include <string>

#include "api/abi_struct.h"
#include "check.h"

namespace enginery::test {
namespace {

TEST(guard_translates_what_is_thrown) {
  CHECK_EQ(Guard([] {}), ENGINERY_OK);
  CHECK_EQ(Guard([] { throw Error(ENGINERY_QUEUE_FULL, "full"); }), ENGINERY_QUEUE_FULL);
  CHECK_EQ(std::string(enginery_last_error()), "full");
  CHECK_EQ(Guard([] { throw std::bad_alloc(); }), ENGINERY_OUT_OF_MEMORY);
  CHECK_EQ(Guard([] { throw std::logic_error("ours"); }), ENGINERY_INTERNAL);
  CHECK_EQ(std::string(enginery_last_error()), "ours");
  CHECK_EQ(Guard([] { throw 5; }), ENGINERY_INTERNAL);
  CHECK_EQ(Guard([] { return Fail(ENGINERY_SHUT_DOWN, "down"); }), ENGINERY_SHUT_DOWN);
  CHECK_EQ(std::string(enginery_last_error()), "down");
  CHECK_EQ(Guard([] {}), ENGINERY_OK);
  CHECK_EQ(std::string(enginery_last_error()), "down");  // until the next failing call
}

struct Options {
  uint64_t abi_size;
  int64_t old_member;
  int64_t new_member;
};
constexpr Options kDefaults = {sizeof(Options), 1, 2};

TEST(an_older_caller_gets_the_defaults_of_newer_members) {
  struct Older {
    uint64_t abi_size;
    int64_t old_member;
  } older = {sizeof older, 10};
  const Options read =
      ReadAbiStruct(reinterpret_cast<const Options*>(&older), kDefaults, "options");
  CHECK_EQ(read.old_member, 10);
  CHECK_EQ(read.new_member, 2);
  CHECK_EQ(read.abi_size, sizeof(Options));
}

TEST(a_newer_caller_is_read_unless_it_asks_for_more) {
  struct Newer {
    Options options;
    int64_t added;
  } newer = {{sizeof newer, 10, 20}, 0};
  CHECK_EQ(ReadAbiStruct(&newer.options, kDefaults, "options").new_member, 20);
  newer.added = 1;
  CHECK_THROWS_WITH(ReadAbiStruct(&newer.options, kDefaults, "options"), Error,
                    "options sets members that this version");
}

TEST(a_size_that_was_never_set_is_refused) {
  Options options = kDefaults;
  for (const uint64_t abi_size : {uint64_t{0}, uint64_t{4}, uint64_t{0x5555555555555555}}) {
    options.abi_size = abi_size;
    CHECK_THROWS_WITH(ReadAbiStruct(&options, kDefaults, "options"), Error, "options.abi_size is");
  }
  const Options* null = nullptr;
  CHECK_THROWS_WITH(ReadAbiStruct(null, kDefaults, "options"), Error, "options is NULL");
}

}  // namespace
}  // namespace enginery::test
