// SPDX-License-Identifier: Apache-2.0
//
// What a client that left gets is nothing, and its request ends when that is safe for Triton server
// 2.51 (docs/triton.md). The functions here stand in for Triton server's.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "native/client.h"

namespace {

struct {
  std::vector<std::string> calls;  // what reached it: "response", "final response", "error", "end"
  bool is_cancelled = false;
  bool has_factory = false;
  int num_responses = 0;  // made and neither sent nor deleted
  int num_errors = 0;     // made and not deleted
  uint64_t num_http_commands = 0;
  std::function<void()> while_sending;
} server;

int placeholder;
char buffer[64];

template <class Opaque>
Opaque* Some() {
  return reinterpret_cast<Opaque*>(&placeholder);
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code, const char*) {
  ++server.num_errors;
  return Some<TRITONSERVER_Error>();
}
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error*) { --server.num_errors; }
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error*) { return ""; }
TRITONSERVER_Error* TRITONSERVER_LogMessage(TRITONSERVER_LogLevel, const char*, int, const char*) {
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestId(TRITONBACKEND_Request*, const char** id) {
  *id = "";
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request*, uint32_t* count) {
  *count = 0;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request*, uint32_t,
                                                    const char**) {
  return Some<TRITONSERVER_Error>();
}
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory** factory,
                                                     TRITONBACKEND_Request*) {
  *factory = Some<TRITONBACKEND_ResponseFactory>();
  server.has_factory = true;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory*) {
  server.has_factory = false;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory*,
                                                             bool* is_cancelled) {
  *is_cancelled = server.is_cancelled;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory*,
                                                           uint32_t) {
  server.calls.emplace_back("end");
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response** response,
                                                         TRITONBACKEND_ResponseFactory*) {
  *response = Some<TRITONBACKEND_Response>();
  ++server.num_responses;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseDelete(TRITONBACKEND_Response*) {
  --server.num_responses;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response*, TRITONBACKEND_Output**,
                                                 const char*, TRITONSERVER_DataType, const int64_t*,
                                                 uint32_t) {
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output*, void** at, uint64_t,
                                               TRITONSERVER_MemoryType*, int64_t*) {
  *at = buffer;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseSend(TRITONBACKEND_Response*, uint32_t flags,
                                               TRITONSERVER_Error* error) {
  --server.num_responses;
  server.calls.emplace_back(error != nullptr ? "error"
                            : flags != 0     ? "final response"
                                             : "response");
  if (server.while_sending) server.while_sending();
  return nullptr;
}

uint64_t enginery_num_http_commands() { return server.num_http_commands; }

}  // extern "C"

namespace enginery::triton {
namespace {

using Calls = std::vector<std::string>;

// Writes one output that nobody asked for: a response all the same.
class OneOutput : public EventWriter {
 public:
  std::vector<OutputTensor> Write(Delta) override { return {{&Outputs().front(), {1}, "x"}}; }
};

std::unique_ptr<Client> NewClient() {
  server = {};
  auto client = std::make_unique<Client>(Some<TRITONBACKEND_Request>());
  std::vector<std::unique_ptr<EventWriter>> writers;
  writers.push_back(std::make_unique<OneOutput>());
  client->SetRows({}, std::move(writers));
  return client;
}

Delta NewDelta(bool is_last) {
  enginery_event event{};
  event.is_last = is_last ? 1 : 0;
  event.error = "";
  event.text = "";
  return {event, 1};
}

// How long it takes until the request of a client that left ends.
std::chrono::steady_clock::duration TimeToEnd(Client& client) {
  const auto begin = std::chrono::steady_clock::now();
  while (!client.EndDeparted()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return std::chrono::steady_clock::now() - begin;
}

constexpr std::chrono::milliseconds kSettled(400);

TEST(WhoStaysGetsEverything) {
  const auto client = NewClient();
  client->Send(0, NewDelta(false));
  CHECK(!client->EndDeparted());
  client->Send(0, NewDelta(true));
  CHECK_EQ(server.calls, (Calls{"response", "final response"}));
  CHECK(client->EndDeparted());
  CHECK(!server.has_factory);
}

TEST(WhoLeavesGetsNothingAndEndsLater) {
  const auto client = NewClient();
  client->Send(0, NewDelta(false));
  server.is_cancelled = true;
  client->Send(0, NewDelta(false));
  CHECK(!client->EndDeparted());
  client->Send(0, NewDelta(true));
  CHECK_EQ(server.calls, Calls{"response"});
  CHECK(client->IsGone());
  CHECK(TimeToEnd(*client) > kSettled);
  CHECK_EQ(server.calls, (Calls{"response", "end"}));
  CHECK(!client->IsGone());
  CHECK(!server.has_factory);
}

TEST(WhoLeavesIsNotToldOfErrors) {
  const auto client = NewClient();
  client->Send(0, NewDelta(false));
  server.is_cancelled = true;
  client->Refuse(ENGINERY_SHUT_DOWN, "the model was unloaded");
  CHECK_EQ(server.calls, Calls{"response"});
  CHECK(TimeToEnd(*client) > kSettled);
  CHECK_EQ(server.calls, (Calls{"response", "end"}));
}

TEST(WhoLeavesAsAResponseIsHandedOverGetsNoEnd) {
  const auto client = NewClient();
  server.while_sending = [] { server.is_cancelled = true; };
  client->Send(0, NewDelta(false));
  client->Send(0, NewDelta(false));
  client->Send(0, NewDelta(true));
  TimeToEnd(*client);
  CHECK_EQ(server.calls, Calls{"response"});
  CHECK(!server.has_factory);
}

TEST(WhoLeavesAnHttpStreamGetsItsEnd) {
  const auto client = NewClient();
  server.while_sending = [] {
    ++server.num_http_commands;
    server.is_cancelled = true;
  };
  client->Send(0, NewDelta(false));
  client->Send(0, NewDelta(true));
  CHECK(TimeToEnd(*client) > kSettled);
  CHECK_EQ(server.calls, (Calls{"response", "end"}));
  CHECK(!server.has_factory);
}

TEST(RequestThatIsDroppedAtOnceIsEndedAtOnce) {
  auto client = NewClient();
  server.is_cancelled = true;
  client->Refuse(ENGINERY_QUEUE_FULL, "full");
  client.reset();
  CHECK_EQ(server.calls, Calls{"end"});
  CHECK(!server.has_factory);
}

TEST(RequestThatIsDroppedIsTold) {
  auto client = NewClient();
  client.reset();
  CHECK_EQ(server.calls, Calls{"error"});
  CHECK_EQ(server.num_responses, 0);
  CHECK_EQ(server.num_errors, 0);
}

}  // namespace
}  // namespace enginery::triton
