// SPDX-License-Identifier: Apache-2.0
#include "exec/affinity.h"

#include <sched.h>

#include <set>
#include <thread>
#include <vector>

#include "check.h"

namespace enginery::test {
namespace {

TEST(one_cpu_of_each_core_comes_first) {
  CHECK(SpreadOverCores({0, 1, 2, 3}, {0, 0, 2, 2}) == (std::vector<int>{0, 2, 1, 3}));
  CHECK(SpreadOverCores({0, 1, 2, 3}, {0, 1, 0, 1}) == (std::vector<int>{0, 1, 2, 3}));
  CHECK(SpreadOverCores({4, 5, 6, 7, 8}, {4, 4, 4, 7, 8}) == (std::vector<int>{4, 7, 8, 5, 6}));
  CHECK(SpreadOverCores({}, {}).empty());
}

TEST(usable_cpus_are_those_of_the_mask) {
  cpu_set_t mask;
  REQUIRE_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
  const std::vector<int> cpus = UsableCpus();
  CHECK_EQ(cpus.size(), CPU_COUNT(&mask));
  CHECK_EQ(std::set<int>(cpus.begin(), cpus.end()).size(), cpus.size());
  for (const int cpu : cpus) CHECK(CPU_ISSET(cpu, &mask));
}

TEST(a_pinned_thread_has_one_cpu) {
  std::thread([] {
    const int cpu = UsableCpus().back();
    REQUIRE(PinThread(pthread_self(), cpu));
    CHECK(UsableCpus() == std::vector<int>{cpu});
    CHECK_EQ(sched_getcpu(), cpu);
  }).join();
}

}  // namespace
}  // namespace enginery::test
