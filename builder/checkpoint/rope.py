# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding: what a checkpoint asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.errors import Problems

DEFAULT_THETA = 10000.0

REFUSED_TYPES = {
    "dynamic": "its frequencies depend on the length at compute time, so that keys in the KV cache "
    "would have to be rotated again",
    "longrope": "it switches between two sets of frequencies by the length at compute time, so "
    "that keys in the KV cache would have to be rotated again",
}


@dataclass(frozen=True)
class Rope:
    """Parameters of the rotary embedding; those that a type does not use keep their defaults.

    Attributes:
        rope_type: "default", "linear", "yarn" or "llama3".
        theta: base of the frequencies.
        factor: by how much the context was stretched.
        original_max_position_embeddings: context length before stretching (yarn, llama3).
        low_freq_factor, high_freq_factor: of llama3.
        beta_fast, beta_slow, truncate: of yarn's ramp.
        attention_factor: by what cos and sin are multiplied (yarn); None derives it.
        mscale, mscale_all_dim: used to derive it; 0 where not given.
    """

    rope_type: str = "default"
    theta: float = DEFAULT_THETA
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0


# Entries read per type, beside rope_type, type and rope_theta.
ACCEPTED_ENTRIES = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "yarn": frozenset(
        {
            "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate",
            "attention_factor", "mscale", "mscale_all_dim",
        }
    ),
    "llama3": frozenset(
        {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}
    ),
}  # fmt: skip


def parse_rope(config: Fields, max_position_embeddings: int) -> Rope:
    """Reads the rotary embedding from a checkpoint's configuration.

    Both spellings are read: `rope_theta` and `rope_scaling` (with `type` or `rope_type`) beside
    each other, and `rope_parameters`, which holds both, as transformers 5 saves it.

    Args:
        config: the entries of `config.json`; problems are noted there.
        max_position_embeddings: the original length where yarn or llama3 give none.

    Returns:
        The parameters; not to be used when a problem was noted.
    """
    both = [name for name in ("rope_parameters", "rope_scaling") if config.given(name)]
    source = both[0] if both else "rope_parameters"
    if len(both) == 2 and config.values["rope_scaling"] != config.values["rope_parameters"]:
        config.problems.add("rope_scaling", "differs from rope_parameters, which is also given")
    entries = config.object(source)
    fields = Fields(entries, config.problems, prefix=f"{source}.")
    theta = (fields if fields.given("rope_theta") else config).number(
        "rope_theta", above=1, default=DEFAULT_THETA
    )
    rope_type = _rope_type(entries, source, config.problems)
    accepted = ACCEPTED_ENTRIES.get(rope_type)
    if accepted is None:
        reason = REFUSED_TYPES.get(rope_type, "it is not known")
        config.problems.add(
            f"{source}.rope_type",
            f"{rope_type!r} is not supported: {reason}",
            f"supported are {', '.join(ACCEPTED_ENTRIES)}",
        )
        return Rope()
    _check_rotary_share(config, fields)
    unknown = sorted(
        set(entries) - accepted - {"type", "rope_type", "rope_theta", "partial_rotary_factor"}
    )
    if unknown:
        config.problems.add(source, f"{rope_type!r} rope has no entry {', '.join(unknown)}")
    if rope_type == "default":
        return Rope(theta=theta)
    factor = fields.number("factor", above=0)
    if factor < 1:
        config.problems.add(f"{source}.factor", f"{factor:g} is below 1")
    if rope_type == "linear":
        return Rope("linear", theta, factor)
    # Where it stands beside the rope entries, transformers lets it win over the one among them.
    original_name = "original_max_position_embeddings"
    original = (config if config.given(original_name) else fields).integer(
        original_name, low=1, high=1 << 31, default=max_position_embeddings
    )
    if rope_type == "llama3":
        low = fields.number("low_freq_factor", above=0)
        high = fields.number("high_freq_factor", above=0)
        if high == low:
            config.problems.add(f"{source}.high_freq_factor", "must differ from low_freq_factor")
        return Rope("llama3", theta, factor, original, low, high)
    return Rope(
        "yarn",
        theta,
        factor,
        original,
        beta_fast=fields.number("beta_fast", above=0, default=32.0),
        beta_slow=fields.number("beta_slow", above=0, default=1.0),
        truncate=fields.boolean("truncate", default=True),
        attention_factor=(
            fields.number("attention_factor", above=0) if fields.given("attention_factor") else None
        ),
        mscale=fields.number("mscale", default=0.0),
        mscale_all_dim=fields.number("mscale_all_dim", default=0.0),
    )


def _rope_type(entries: Mapping[str, Any], source: str, problems: Problems) -> str:
    given = [entries[name] for name in ("rope_type", "type") if entries.get(name) is not None]
    if not given:
        if set(entries) - {"rope_theta", "partial_rotary_factor"}:
            problems.add(f"{source}.rope_type", "is missing")
        return "default"
    if len(given) == 2 and given[0] != given[1]:
        problems.add(f"{source}.type", f"{given[1]!r} contradicts rope_type {given[0]!r}")
    return str(given[0])


def _check_rotary_share(config: Fields, rope: Fields) -> None:
    for fields in (config, rope):
        if fields.number("partial_rotary_factor", above=0, default=1.0) != 1.0:
            config.problems.add(
                f"{fields.prefix}partial_rotary_factor",
                "only 1 is supported: the whole head is rotated",
            )
