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
    "prompt_logprobs": None,
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


def golden_event(fields: list[str]) -> Event:
    """An event of a golden file, which tells its times in milliseconds, 0 for none."""
    reason, is_last, status = fields[2:5]
    numbers = [int(field) for field in fields[:2] + fields[5:]]
    times = [ms * 1_000_000 or None for ms in numbers[4:]]
    return event(
        request_id=numbers[0],
        sequence_index=numbers[1],
        finish_reason=None if reason == "NONE" else reason,
        is_last=is_last == "1",
        status=status,
        num_prompt_tokens=numbers[2],
        num_output_tokens=numbers[3],
        arrival_ns=times[0],
        first_scheduled_ns=times[1],
        first_token_ns=times[2],
        last_token_ns=times[3],
    )
