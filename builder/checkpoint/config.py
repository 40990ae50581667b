# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's `config.json`, validated in full."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.builder.checkpoint.fields import Fields, read_json_object
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.registry import read_format
from enginery.builder.checkpoint.rope import Rope, parse_rope
from enginery.builder.errors import ConfigError, Problems
from enginery.builder.models.family import Bias, Family, Window
from enginery.builder.models.registry import FAMILIES

MAX_SIZE = 1 << 24  # of one dimension; the engine format's limit on columns
MAX_HEADS = 1 << 16
MAX_POSITIONS = (1 << 31) - 1
CHECKPOINT_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ModelConfig:
    """What the builder needs to know of a model; every entry is validated.

    Attributes:
        family: the decoder family.
        dtype: "float32", "float16", "bfloat16", or None where the checkpoint does not say.
        vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim:
            sizes.
        max_position_embeddings: the longest sequence that it was made for, after any stretching
            that the checkpoint's authors counted in.
        norm_epsilon: of all RMS norms.
        rope: the rotary embedding.
        sliding_windows: per layer, how many positions a query sees, itself included; 0 is all.
        qkv_bias, output_bias, mlp_bias: which linear layers have biases.
        tie_word_embeddings: the output projection is the embedding.
        eos_token_ids: tokens that end a sequence; may be empty.
        bos_token_id, pad_token_id: -1 where there is none.
        stored_as: how the weights are stored where they are quantised already; None: they are not.
        raw: `config.json` as it was read.
    """

    family: Family
    dtype: str | None
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    norm_epsilon: float
    rope: Rope
    sliding_windows: tuple[int, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]
    bos_token_id: int
    pad_token_id: int
    stored_as: Format | None
    raw: dict[str, Any]


def read_config(directory: Path) -> ModelConfig:
    """Reads `config.json` and, for the ids of special tokens, `generation_config.json`.

    Raises:
        ConfigError: with every problem found.
    """
    raw = read_json_object(directory / "config.json", ConfigError)
    problems = Problems(f"{directory}/config.json", ConfigError)
    fields = Fields(raw, problems)
    family = _family(raw, problems)

    vocab_size = fields.integer("vocab_size", low=1, high=MAX_SIZE)
    hidden_size = fields.integer("hidden_size", low=1, high=MAX_SIZE)
    num_layers = fields.integer("num_hidden_layers", low=1, high=4096)
    num_heads = fields.integer("num_attention_heads", low=1, high=MAX_HEADS)
    num_kv_heads = fields.integer(
        "num_key_value_heads",
        low=1,
        high=MAX_HEADS,
        default=None if family.num_kv_heads_required else num_heads,
    )
    head_dim = _head_dim(fields, family, hidden_size, num_heads)
    max_position_embeddings = fields.integer("max_position_embeddings", low=1, high=MAX_POSITIONS)
    if num_heads % num_kv_heads:
        problems.add("num_key_value_heads", f"{num_kv_heads} does not divide {num_heads} heads")
    width = (num_heads + 2 * num_kv_heads) * head_dim
    if width > MAX_SIZE:
        problems.add("head_dim", f"{head_dim} makes query, key and value {width} wide in all")
    if fields.string("hidden_act", default="silu") != "silu":
        problems.add("hidden_act", f"{raw['hidden_act']!r} is not supported; 'silu' is")
    config = ModelConfig(
        family=family,
        dtype=_dtype(fields),
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", low=1, high=MAX_SIZE // 2),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        norm_epsilon=fields.number("rms_norm_eps", above=0),
        rope=parse_rope(fields, max_position_embeddings),
        sliding_windows=_sliding_windows(fields, family, num_layers),
        qkv_bias=_has_bias(fields, family.qkv_bias, "attention_bias"),
        output_bias=_has_bias(fields, family.output_bias, "attention_bias"),
        mlp_bias=_has_bias(fields, family.mlp_bias, "mlp_bias"),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        eos_token_ids=fields.token_ids("eos_token_id", vocab_size),
        bos_token_id=_one_token_id(fields, "bos_token_id", vocab_size),
        pad_token_id=_one_token_id(fields, "pad_token_id", vocab_size),
        stored_as=read_format(directory, fields),
        raw=raw,
    )
    _check_bias_entries(fields, family)
    problems.raise_if_any()
    return _with_generation_config(config, directory)


def _family(raw: dict[str, Any], problems: Problems) -> Family:
    architectures = raw.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    for architecture in named:
        if isinstance(architecture, str) and architecture in FAMILIES:
            return FAMILIES[architecture]
    problems.add(
        "architectures",
        f"{architectures!r} is not supported; supported are {', '.join(FAMILIES)}",
    )
    return next(iter(FAMILIES.values()))


def _dtype(fields: Fields) -> str | None:
    name = "dtype" if fields.given("dtype") else "torch_dtype"
    if not fields.given(name):
        return None
    dtype = fields.string(name, default="float32").removeprefix("torch.")
    if dtype not in CHECKPOINT_DTYPES:
        fields.problems.add(
            name, f"{dtype!r} is not supported; supported are {', '.join(CHECKPOINT_DTYPES)}"
        )
    return dtype


def _head_dim(fields: Fields, family: Family, hidden_size: int, num_heads: int) -> int:
    default = family.default_head_dim
    if default is None and hidden_size % num_heads == 0:
        default = hidden_size // num_heads
    if not fields.given("head_dim") and default is None:
        fields.problems.add(
            "head_dim",
            f"is missing, and {num_heads} heads do not divide hidden_size {hidden_size}",
        )
        return 2
    head_dim = fields.integer("head_dim", low=1, high=1024, default=default)
    if head_dim % 2:
        fields.problems.add("head_dim", f"{head_dim} is odd; the rotation works on two halves")
    return head_dim


def _has_bias(fields: Fields, bias: Bias, name: str) -> bool:
    if bias is Bias.BY_CONFIG:
        return fields.boolean(name, default=False)
    return bias is Bias.ALWAYS


def _check_bias_entries(fields: Fields, family: Family) -> None:
    """Refuses an entry that asks for biases which the family does not have."""
    for name, bias in (("attention_bias", family.output_bias), ("mlp_bias", family.mlp_bias)):
        if bias is not Bias.BY_CONFIG and fields.boolean(name, default=False):
            fields.problems.add(name, f"{family.architecture} has no such biases")


def _one_token_id(fields: Fields, name: str, vocab_size: int) -> int:
    ids = fields.token_ids(name, vocab_size)
    if len(ids) > 1:
        fields.problems.add(name, f"{list(ids)} is more than one token id")
    return ids[0] if ids else -1


def _sliding_windows(fields: Fields, family: Family, num_layers: int) -> tuple[int, ...]:
    full = (0,) * num_layers
    is_on = family.window is not Window.NONE
    if family.window is Window.UPPER_LAYERS:
        is_on = fields.boolean("use_sliding_window", default=False)
    window = 0
    if fields.given("sliding_window"):
        window = fields.integer("sliding_window", low=1, high=1 << 31)
        if family.window is Window.NONE:
            fields.problems.add(
                "sliding_window", f"{family.architecture} has none; null is accepted"
            )
    elif family.window is Window.ALL_LAYERS and "sliding_window" not in fields.values:
        fields.problems.add("sliding_window", "is missing; null says that there is none")
    elif is_on and family.window is Window.UPPER_LAYERS:
        fields.problems.add("sliding_window", "is missing, though use_sliding_window is true")
    kinds = _layer_types(fields, num_layers)
    if family.window is Window.NONE or not window:
        is_on = False
    if kinds is None:
        if not is_on:
            return full
        first = 0
        if family.window is Window.UPPER_LAYERS:
            first = fields.integer("max_window_layers", low=0, high=1 << 31, default=28)
        return tuple(window if layer >= first else 0 for layer in range(num_layers))
    if family.window is not Window.UPPER_LAYERS:
        if len(set(kinds)) > 1 or (kinds[0] == "sliding_attention") != is_on:
            fields.problems.add("layer_types", "contradicts sliding_window for this architecture")
        return (window if is_on else 0,) * num_layers
    if "sliding_attention" in kinds and not is_on:
        fields.problems.add(
            "layer_types", "names sliding_attention, but use_sliding_window is not true"
        )
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _layer_types(fields: Fields, num_layers: int) -> list[str] | None:
    """`layer_types`, one name per layer; None where it is missing or wrong."""
    if not fields.given("layer_types"):
        return None
    kinds = fields.values["layer_types"]
    accepted = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        fields.problems.add(
            "layer_types", f"is not a list with an entry for each {num_layers} layers"
        )
        return None
    unknown = sorted({repr(kind) for kind in kinds if kind not in accepted})
    if unknown:
        fields.problems.add(
            "layer_types", f"{', '.join(unknown)} is not supported; supported are {accepted}"
        )
        return None
    return kinds


def _with_generation_config(config: ModelConfig, directory: Path) -> ModelConfig:
    """Takes the special tokens of `generation_config.json`, which come first where they differ."""
    path = directory / "generation_config.json"
    if not path.exists():
        return config
    raw = read_json_object(path, ConfigError)
    problems = Problems(str(path), ConfigError)
    fields = Fields(raw, problems)
    eos = fields.token_ids("eos_token_id", config.vocab_size)
    bos = _one_token_id(fields, "bos_token_id", config.vocab_size)
    pad = _one_token_id(fields, "pad_token_id", config.vocab_size)
    problems.raise_if_any()
    return dataclasses.replace(
        config,
        eos_token_ids=eos or config.eos_token_ids,
        bos_token_id=bos if bos >= 0 else config.bos_token_id,
        pad_token_id=pad if pad >= 0 else config.pad_token_id,
    )
