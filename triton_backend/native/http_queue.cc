// SPDX-License-Identifier: Apache-2.0
//
// libtriton_http_queue.so, for LD_PRELOAD into tritonserver: no answer over HTTP is lost on the way
// to its client's thread.
//
// Triton server's HTTP front end hands each response to the thread that has the connection, as a
// command of libevhtp (evthr_defer) through a socket that does not block, and does not look whether
// it was taken. The socket is full after some 278 commands, which a few streams make while that
// thread loads a model or waits for a CPU. The next are lost: tokens out of the middle of a stream,
// or the one answer for which a client then waits for ever. Here they wait instead.
#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <iterator>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace enginery::triton {
namespace {

// libevhtp 1.2.18's evthr_cmd: a flag and two pointers, packed. What has another size is not ours.
constexpr size_t kCommandBytes = 17;
// Sockets that have filled meanwhile are seen after so long at the latest.
constexpr int kPollMs = 20;

using Command = std::array<std::byte, kCommandBytes>;

thread_local uint64_t num_commands = 0;  // that a thread has sent

ssize_t SendNow(int fd, const void* command) {
  return ::sendto(fd, command, kCommandBytes, 0, nullptr, 0);
}

// Whether a send that failed found no room in a socket between two threads or processes.
bool IsFull(int fd) {
  if (errno != EAGAIN) return false;
  int domain = 0;
  socklen_t size = sizeof domain;
  const bool is_local =
      ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
  errno = EAGAIN;
  return is_local;
}

// Commands that wait for room, those of each socket in order.
class WaitingCommands {
 public:
  // As send(2), except that a command for which there is no room is taken all the same.
  ssize_t Send(int fd, const void* command) {
    if (num_full_.load(std::memory_order_acquire) == 0) {
      const ssize_t sent = SendNow(fd, command);
      if (sent >= 0 || !IsFull(fd)) return sent;
    }
    const std::lock_guard lock(mutex_);
    if (!waiting_.contains(fd)) {
      const ssize_t sent = SendNow(fd, command);
      if (sent >= 0 || !IsFull(fd)) return sent;
    }
    if (!is_started_) std::thread([this] { Run(); }).detach();
    is_started_ = true;
    Command copy;
    std::memcpy(copy.data(), command, kCommandBytes);
    waiting_[fd].push_back(copy);
    num_full_.store(waiting_.size(), std::memory_order_release);
    wake_.notify_one();
    return kCommandBytes;
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return !waiting_.empty(); });
      std::vector<pollfd> sockets;
      for (const auto& [fd, commands] : waiting_) sockets.push_back({fd, POLLOUT, 0});
      lock.unlock();
      ::poll(sockets.data(), sockets.size(), kPollMs);
      lock.lock();
      for (auto entry = waiting_.begin(); entry != waiting_.end();) {
        entry = SendAll(entry->first, entry->second) ? waiting_.erase(entry) : std::next(entry);
      }
      num_full_.store(waiting_.size(), std::memory_order_release);
    }
  }

  // True when none is left, which includes that the socket is gone.
  static bool SendAll(int fd, std::deque<Command>& commands) {
    while (!commands.empty()) {
      if (SendNow(fd, commands.front().data()) < 0) return errno != EAGAIN && errno != EINTR;
      commands.pop_front();
    }
    return true;
  }

  std::atomic<size_t> num_full_ = 0;  // sockets with commands that wait
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<int, std::deque<Command>> waiting_;
  bool is_started_ = false;
};

}  // namespace
}  // namespace enginery::triton

// How many commands the calling thread has sent: who counts them around a response knows whether it
// went to the HTTP front end.
extern "C" __attribute__((visibility("default"))) uint64_t enginery_num_http_commands() {
  return enginery::triton::num_commands;
}

// In the place of libc's.
extern "C" __attribute__((visibility("default"))) ssize_t send(int fd, const void* data,
                                                               size_t size, int flags) {
  using enginery::triton::WaitingCommands;
  if (size != enginery::triton::kCommandBytes || flags != 0) {
    return ::sendto(fd, data, size, flags, nullptr, 0);
  }
  ++enginery::triton::num_commands;
  // Never destroyed: threads may send until the process has ended.
  static WaitingCommands& commands = *new WaitingCommands;
  try {
    return commands.Send(fd, data);
  } catch (const std::exception&) {  // no memory, no thread
    errno = EAGAIN;
    return -1;
  }
}
