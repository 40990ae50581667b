// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_NAMES_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_NAMES_H_

#include <string>

namespace enginery::triton {

// What a Triton server request is called; "" for none. As triton_backend/trtllm/clients.py.
struct RequestNames {
  std::string triton_id;  // what its client chose; several requests may have one
  std::string ticket;     // what `tensorrt_llm_bls` chose, for this one alone

  bool empty() const { return triton_id.empty() && ticket.empty(); }

  // Whether a request to stop what is called `asked` means this one.
  bool AreAskedFor(const RequestNames& asked) const {
    return asked.ticket.empty() ? triton_id == asked.triton_id : ticket == asked.ticket;
  }
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_NAMES_H_
