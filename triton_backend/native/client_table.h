// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_TABLE_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_TABLE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "client.h"

namespace enginery::triton {

// The requests in flight, by the runtime's id. Everything may be called from any thread.
class ClientTable {
 public:
  using Entry = std::pair<uint64_t, std::shared_ptr<Client>>;

  // Calls `submit`, which gives an id, and enters the client before anyone finds that id missing:
  // the request's first event may come while `submit` returns.
  template <class Submit>
  void Add(std::shared_ptr<Client> client, const Submit& submit) {
    const std::lock_guard lock(mutex_);
    // The place comes first: once submitted, the request must have one.
    clients_.reserve(clients_.size() + 1);
    auto node = Map({{0, std::move(client)}}).extract(0);
    node.key() = submit();
    clients_.insert(std::move(node));
  }

  // NULL when there is none.
  std::shared_ptr<Client> Find(uint64_t id) const {
    const std::lock_guard lock(mutex_);
    const auto found = clients_.find(id);
    return found == clients_.end() ? nullptr : found->second;
  }

  void Remove(uint64_t id) {
    const std::lock_guard lock(mutex_);
    clients_.erase(id);
  }

  std::vector<Entry> Copy() const {
    const std::lock_guard lock(mutex_);
    return {clients_.begin(), clients_.end()};
  }

 private:
  using Map = std::unordered_map<uint64_t, std::shared_ptr<Client>>;

  mutable std::mutex mutex_;
  Map clients_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_TABLE_H_
