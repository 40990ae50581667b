# SPDX-License-Identifier: Apache-2.0
"""The biases of a completion: an object whose names are token ids."""

from __future__ import annotations

from typing import Any

from enginery.runtime.sampling_params import token_id_of_name

from .errors import shown

MAX_BIAS = 100

LOGIT_BIAS_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS},
        },
        {"type": "null"},
    ]
}


def read_logit_bias(value: Any) -> dict[int, float] | None:
    """What a client gave for `logit_bias`: token id to what its logit gains; None: nothing.

    Raises:
        ValueError: it is no such object; says where and why.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is no object with token ids for names")
    found: dict[int, float] = {}
    for name, bias in value.items():
        token_id = token_id_of_name(name)
        if token_id is None:
            raise ValueError(f"{shown(name)} is no token id")
        if type(bias) not in (int, float) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise ValueError(f"{token_id}: {shown(bias)} is no number in -{MAX_BIAS}..{MAX_BIAS}")
        found[token_id] = bias
    return found
