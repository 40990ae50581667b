// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_TABLE_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_TABLE_H_

#include <cstddef>
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
  // Of whose responses a request of the runtime gives those to one row.
  struct Recipient {
    std::shared_ptr<Client> client;  // NULL: there is none
    size_t row = 0;
  };
  using Entry = std::pair<uint64_t, Recipient>;

  // Calls `submit`, which gives an id, and enters the recipient before anyone finds that id
  // missing: the request's first event may come while `submit` returns.
  template <class Submit>
  void Add(Recipient recipient, const Submit& submit) {
    const std::lock_guard lock(mutex_);
    // The place comes first: once submitted, the request must have one.
    clients_.reserve(clients_.size() + 1);
    auto node = Map({{0, std::move(recipient)}}).extract(0);
    node.key() = submit();
    clients_.insert(std::move(node));
  }

  Recipient Find(uint64_t id) const {
    const std::lock_guard lock(mutex_);
    const auto found = clients_.find(id);
    return found == clients_.end() ? Recipient() : found->second;
  }

  // Of the requests of those clients for which `predicate` is true.
  template <class Predicate>
  std::vector<uint64_t> IdsOf(const Predicate& predicate) const {
    const std::lock_guard lock(mutex_);
    std::vector<uint64_t> ids;
    for (const auto& [id, recipient] : clients_) {
      if (predicate(*recipient.client)) ids.push_back(id);
    }
    return ids;
  }

  void Remove(uint64_t id) {
    const std::lock_guard lock(mutex_);
    clients_.erase(id);
  }

  bool IsEmpty() const {
    const std::lock_guard lock(mutex_);
    return clients_.empty();
  }

  std::vector<Entry> Copy() const {
    const std::lock_guard lock(mutex_);
    return {clients_.begin(), clients_.end()};
  }

 private:
  using Map = std::unordered_map<uint64_t, Recipient>;

  mutable std::mutex mutex_;
  Map clients_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_TABLE_H_
