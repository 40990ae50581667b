// SPDX-License-Identifier: Apache-2.0
#include "exec/affinity.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <string>
#include <utility>

namespace enginery {
namespace {

// The lowest CPU of the core that `cpu` belongs to; `cpu` itself where the system does not tell.
int CoreOf(int cpu) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                     "/topology/thread_siblings_list");
  int first = 0;
  return file >> first ? first : cpu;
}

}  // namespace

std::vector<int> UsableCpus() {
  cpu_set_t affinity;
  if (sched_getaffinity(0, sizeof affinity, &affinity) != 0) return {};
  std::vector<int> cpus;
  std::vector<int> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &affinity)) continue;
    cpus.push_back(cpu);
    cores.push_back(CoreOf(cpu));
  }
  return SpreadOverCores(cpus, cores);
}

std::vector<int> SpreadOverCores(const std::vector<int>& cpus, const std::vector<int>& cores) {
  std::map<int, int> num_seen;                // of each core
  std::vector<std::pair<int, int>> by_round;  // how many of its core came before, the CPU
  for (size_t i = 0; i < cpus.size(); ++i) by_round.push_back({num_seen[cores[i]]++, cpus[i]});
  std::ranges::stable_sort(by_round, {}, &std::pair<int, int>::first);
  std::vector<int> order;
  for (const auto& [round, cpu] : by_round) order.push_back(cpu);
  return order;
}

bool PinThread(pthread_t thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return pthread_setaffinity_np(thread, sizeof set, &set) == 0;
}

}  // namespace enginery
