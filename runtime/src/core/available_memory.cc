// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <fstream>
#include <string>

#include "core/runtime_config.h"

namespace enginery {
namespace {

// The number a file consists of, or `fallback` ("max", or no such file).
uint64_t ReadNumber(const char* path, uint64_t fallback) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : fallback;
}

}  // namespace

uint64_t AvailableMemoryBytes() {
  uint64_t available = 0;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string name; meminfo >> name;) {
    uint64_t kibibytes = 0;
    if (name == "MemAvailable:" && meminfo >> kibibytes) {
      available = kibibytes * 1024;
      break;
    }
    meminfo.ignore(4096, '\n');
  }
  // In a container the cgroup's limit counts, which /proc/meminfo does not know. What it uses
  // includes page cache that could be dropped, so this errs on the safe side.
  const uint64_t limit = ReadNumber("/sys/fs/cgroup/memory.max", UINT64_MAX);
  if (limit == UINT64_MAX) return available;
  const uint64_t used = ReadNumber("/sys/fs/cgroup/memory.current", 0);
  return std::min(available, limit - std::min(limit, used));
}

}  // namespace enginery
