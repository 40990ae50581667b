# SPDX-License-Identifier: Apache-2.0
"""Events as the runtime gives them."""

from __future__ import annotations

from typing import Any

from enginery.runtime.event import Event

_DEFAULTS: dict[str, Any] = {
    "request_id": 1,
    "sequence_index": 0,
    "finish_reason": None,
    "is_last": False,
    "status": "OK",
    "error": "",
    "token_ids": [],
    "text": "",
    "logprobs": None,
    "context_logits": None,
    "generation_logits": None,
    "stop_string": None,
    "stop_token_id": None,
    "num_preemptions": 0,
    "num_prompt_tokens": 3,
    "num_reused_tokens": 0,
    "num_output_tokens": 0,
    "arrival_ns": 10,
    "first_scheduled_ns": 20,
    "first_token_ns": None,
    "last_token_ns": None,
}


def event(**fields: Any) -> Event:
    """An event that says nothing but what `fields` say."""
    return Event(**{**_DEFAULTS, **fields})
