# SPDX-License-Identifier: Apache-2.0
"""Server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
HEADERS = {
    # Proxies must hand events on as they come.
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
MEDIA_TYPE = "text/event-stream; charset=utf-8"


# Made once: json.dumps would make one for every token.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(data: Any) -> bytes:
    """One event; JSON has no line break of its own, which would end it early."""
    return b"data: " + to_json(data).encode() + b"\n\n"
