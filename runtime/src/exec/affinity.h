// SPDX-License-Identifier: Apache-2.0
//
// The CPUs of this process and where its threads are held.
#ifndef ENGINERY_SRC_EXEC_AFFINITY_H_
#define ENGINERY_SRC_EXEC_AFFINITY_H_

#include <pthread.h>

#include <vector>

namespace enginery {

// The CPUs of the calling thread's affinity mask, in the order in which threads are to be held on
// them: first one of each core, then the cores' second hardware threads, and so on. Empty when the
// system does not tell.
std::vector<int> UsableCpus();

// The same order for any CPUs: `cores[i]` is the core that cpus[i] belongs to.
std::vector<int> SpreadOverCores(const std::vector<int>& cpus, const std::vector<int>& cores);

// Holds the thread on one CPU. False when the system refuses.
bool PinThread(pthread_t thread, int cpu);

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_AFFINITY_H_
