// SPDX-License-Identifier: Apache-2.0
//
// This executable has the `send` of http_queue.cc in the place of libc's.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "check.h"

extern "C" uint64_t enginery_num_http_commands();

namespace {

constexpr size_t kCommandBytes = 17;
constexpr int kDeadlineMs = 10'000;

// Neither end blocks, as libevhtp has them.
class Sockets {
 public:
  Sockets() { REQUIRE_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends_.data()), 0); }
  ~Sockets() {
    for (const int end : ends_) ::close(end);
  }

  ssize_t Send(int number, size_t size = kCommandBytes, int flags = 0) const {
    std::vector<char> data(size);
    std::memcpy(data.data(), &number, sizeof number);
    return ::send(ends_[0], data.data(), data.size(), flags);
  }

  // The number of the next command; -1: none comes.
  int Receive() const {
    pollfd readable{ends_[1], POLLIN, 0};
    if (::poll(&readable, 1, kDeadlineMs) != 1) return -1;
    std::array<char, kCommandBytes> data{};
    if (::recv(ends_[1], data.data(), data.size(), 0) != ssize_t{kCommandBytes}) return -1;
    int number = -1;
    std::memcpy(&number, data.data(), sizeof number);
    return number;
  }

  // Sends until there is no room, and returns how many went.
  int Fill() const {
    int count = 0;
    while (Send(count, kCommandBytes, MSG_DONTWAIT) == ssize_t{kCommandBytes}) ++count;
    return count;
  }

  void CloseReader() {
    ::close(ends_[1]);
    ends_[1] = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  }

 private:
  std::array<int, 2> ends_{};
};

}  // namespace

TEST(commands_wait_for_room_and_come_in_order) {
  constexpr int kNumCommands = 20'000;
  const Sockets sockets;
  for (int i = 0; i < kNumCommands; ++i) REQUIRE_EQ(sockets.Send(i), ssize_t{kCommandBytes});
  for (int i = 0; i < kNumCommands; ++i) REQUIRE_EQ(sockets.Receive(), i);
}

TEST(a_thread_counts_its_own_commands) {
  const Sockets sockets;
  const uint64_t before = enginery_num_http_commands();
  sockets.Send(0, kCommandBytes - 1);
  sockets.Send(0);
  std::thread([&] { sockets.Send(0); }).join();
  CHECK_EQ(enginery_num_http_commands() - before, uint64_t{1});
}

TEST(commands_come_in_order_while_they_are_read) {
  constexpr int kNumCommands = 200'000;
  const Sockets sockets;
  int num_refused = 0;
  std::thread sender([&] {
    for (int i = 0; i < kNumCommands; ++i) num_refused += sockets.Send(i) < 0;
  });
  int num_wrong = 0;
  for (int i = 0; i < kNumCommands && num_wrong == 0; ++i) num_wrong += sockets.Receive() != i;
  sender.join();
  CHECK_EQ(num_refused, 0);
  CHECK_EQ(num_wrong, 0);
}

TEST(a_full_socket_holds_up_no_other) {
  const Sockets full;
  const Sockets other;
  const int count = full.Fill();
  REQUIRE_EQ(full.Send(count), ssize_t{kCommandBytes});
  for (int i = 0; i < 1000; ++i) {
    REQUIRE_EQ(other.Send(i), ssize_t{kCommandBytes});
    REQUIRE_EQ(other.Receive(), i);
  }
  for (int i = 0; i <= count; ++i) REQUIRE_EQ(full.Receive(), i);
}

TEST(commands_to_a_reader_that_is_gone_are_given_up) {
  std::signal(SIGPIPE, SIG_IGN);  // as tritonserver has it
  Sockets sockets;
  const int count = sockets.Fill();
  REQUIRE_EQ(sockets.Send(count), ssize_t{kCommandBytes});
  sockets.CloseReader();
  while (sockets.Send(0) >= 0) std::this_thread::yield();  // until it is no longer waited for
  CHECK_EQ(errno, EPIPE);
}

TEST(what_is_no_command_fails_as_ever) {
  const Sockets sockets;
  sockets.Fill();
  for (const size_t size : {kCommandBytes - 1, kCommandBytes + 1}) {
    CHECK_EQ(sockets.Send(0, size), ssize_t{-1});
    CHECK_EQ(errno, EAGAIN);
  }
  CHECK_EQ(sockets.Send(0, kCommandBytes, MSG_DONTWAIT), ssize_t{-1});
  CHECK_EQ(errno, EAGAIN);
  CHECK_EQ(::send(-1, &sockets, kCommandBytes, 0), ssize_t{-1});
  CHECK_EQ(errno, EBADF);
}
