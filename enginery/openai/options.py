# SPDX-License-Identifier: Apache-2.0
"""What `enginery serve` tells the front end's process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

DEFAULT_PORT = 9000
DEFAULT_MAX_BODY_BYTES = 4 << 20
OTLP_SCHEMES = ("http", "https", "grpc", "grpcs")


@dataclass(frozen=True)
class FrontEndOptions:
    """How the front end listens, what it serves and what it refuses.

    Attributes:
        engine_dir: for limits and the text of tokens.
        tokenizer_dir: empty: the engine directory.
        model_name: of the model in Triton server, and the one that clients ask for.
        grpc_url: host and port of Triton server.
        metrics_url: host and port of Triton server's `/metrics`.
        max_batch_size: sequences in a step, the most that a request may draw.
        host: address to listen on; loopback unless told.
        port: 0 chooses a free one.
        api_keys: any of them is accepted; none: no key is asked for.
        allow_origins: origins whose pages may call from a browser; none: no page but ours may.
        max_body_bytes: of a request.
        otlp_traces_endpoint: URL of a collector of traces; empty: there are none.
        exit_timeout_s: how long requests in flight may go on when told to end.
    """

    engine_dir: str
    model_name: str
    grpc_url: str
    metrics_url: str
    max_batch_size: int
    tokenizer_dir: str = ""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    api_keys: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    otlp_traces_endpoint: str = ""
    exit_timeout_s: float = 30

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        for name in ("api_keys", "allow_origins"):
            values[name] = tuple(values[name])
        return cls(**values)
