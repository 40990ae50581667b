# SPDX-License-Identifier: Apache-2.0
"""What the `quantization_config` of compressed-tensors (llm-compressor) says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.block_fp8 import read_block
from enginery.builder.checkpoint.imports.plain_weight import Grid

PACKED = "pack-quantized"
# format -> the kinds of codes that it holds
FORMATS = {
    PACKED: ("int",),
    "int-quantized": ("int",),
    "float-quantized": ("float",),
    "naive-quantized": ("int", "float"),
}
WEIGHT_STRATEGIES = ("tensor", "channel", "group", "block")
ACTIVATION_STRATEGIES = ("tensor", "token", "group")


@dataclass(frozen=True)
class Args:
    """How one operand is quantised: the entries of `weights` or `input_activations`.

    Attributes:
        num_bits: of a code.
        kind: "int" or "float".
        is_symmetric: whether there are no zero points.
        strategy: what shares a scale: "tensor", "channel", "group", "block" or "token".
        group_size: inputs of a group; None for other strategies.
        block: of strategy "block"; None for others.
        is_dynamic: whether scales are taken from the values as they come.
        is_reordered: whether groups may be of any inputs.
    """

    num_bits: int
    kind: str
    is_symmetric: bool
    strategy: str
    group_size: int | None
    block: Grid | None
    is_dynamic: bool
    is_reordered: bool

    def grid(self, shape: tuple[int, int]) -> Grid:
        """The blocks of a matrix that share a scale."""
        if self.block is not None:
            return self.block
        if self.strategy == "tensor":
            return Grid(*shape)
        return Grid(1, shape[1] if self.group_size is None else self.group_size)


@dataclass(frozen=True)
class Scheme:
    """What all quantised modules of a checkpoint have in common.

    Attributes:
        format: one of `FORMATS`.
        weights: of their weights.
        inputs: of their activations; None: these are not quantised.
    """

    format: str
    weights: Args
    inputs: Args | None

    @property
    def qformat(self) -> str:
        """The scheme that keeps the codes and quantises activations as the checkpoint wants it.

        There is none for FP8 weights whose activations are not static, nor for INT8 weights with
        groups or zero points: "none", which keeps the values.
        """
        is_per_row = self.weights.strategy in ("tensor", "channel")
        if self.weights.kind == "float":
            is_static = self.inputs is not None and not self.inputs.is_dynamic
            return "fp8" if is_static and is_per_row else "none"
        if self.weights.num_bits == 4:
            is_dynamic = self.inputs is not None and self.inputs.is_dynamic
            return "w4a8_dynamic" if is_dynamic else "int4_wo"
        if not is_per_row or not self.weights.is_symmetric:
            return "none"
        if self.inputs is None:
            return "int8_wo"
        return "int8_dynamic" if self.inputs.is_dynamic else "int8_sq"


def read_scheme(fields: Fields) -> Scheme | None:
    """The scheme of a `quantization_config`; None after a problem that leaves none.

    Args:
        fields: its entries; what is not supported is noted there.
    """
    name = _format(fields)
    for entry in ("sparsity_config", "transform_config"):
        _refuse_unless_empty(fields, entry)
    groups = fields.object("config_groups")
    prefix = f"{fields.prefix}config_groups"
    if not groups:
        fields.problems.add(prefix, "names no group of quantised modules")
        return None
    found = [
        scheme
        for key in groups
        if (scheme := _group(Fields(groups, fields.problems, f"{prefix}."), key, name)) is not None
    ]
    if any(scheme != found[0] for scheme in found):
        fields.problems.add(prefix, "has groups that are quantised differently; one way is read")
    return found[0] if found else None


def read_kv_cache_dtype(fields: Fields) -> str | None:
    """What `kv_cache_scheme` calibrates the KV cache for, "fp8" or "int8"; None for nothing."""
    if not fields.given("kv_cache_scheme"):
        return None
    inner = _entry(fields, "kv_cache_scheme")
    args = _args(inner, ("tensor",))
    if args.is_dynamic:
        inner.problems.add(f"{inner.prefix}dynamic", "true is not supported; false is")
    _require(inner, "num_bits", args.num_bits, 8)
    _require_symmetric(inner, args)
    return "fp8" if args.kind == "float" else "int8"


def _format(fields: Fields) -> str:
    name = fields.string("format")
    if name and name not in FORMATS:
        fields.problems.add(
            f"{fields.prefix}format",
            f"{name!r} is not supported; supported are {', '.join(FORMATS)}",
            "give the original checkpoint and choose --qformat",
        )
    return name


def _refuse_unless_empty(fields: Fields, name: str) -> None:
    """Refuses sparse weights and rotated ones; an entry that names neither is common."""
    entry = fields.object(name)
    kind = entry.get("format", entry.get("sparsity_structure", "dense"))
    if kind != "dense" or entry.get("config_groups"):
        fields.problems.add(
            f"{fields.prefix}{name}",
            f"{kind!r} is not supported" if kind != "dense" else "is not supported",
            "give the original checkpoint and choose --qformat",
        )


def _entry(fields: Fields, name: str) -> Fields:
    return Fields(fields.object(name), fields.problems, f"{fields.prefix}{name}.")


def _group(groups: Fields, key: str, name: str) -> Scheme | None:
    group = _entry(groups, key)
    name = _format(group) if group.given("format") else name
    if group.given("output_activations"):
        group.problems.add(f"{group.prefix}output_activations", "is not supported; null is")
    if not group.given("weights"):
        group.problems.add(f"{group.prefix}weights", "is missing; only weights are stored")
        return None
    entry = _entry(group, "weights")
    weights = _args(entry, WEIGHT_STRATEGIES)
    if name in FORMATS:
        _require(entry, "num_bits", weights.num_bits, *((4, 8) if name == PACKED else (8,)))
        if weights.kind not in FORMATS[name]:
            entry.problems.add(f"{entry.prefix}type", f"{weights.kind!r} does not go with {name}")
    if weights.kind == "float":
        _require_symmetric(entry, weights)
    if weights.strategy == "block" and weights.kind == "int":
        entry.problems.add(f"{entry.prefix}strategy", "'block' is supported for floats only")
    if name == PACKED and weights.strategy == "tensor" and not weights.is_symmetric:
        entry.problems.add(f"{entry.prefix}strategy", "'tensor' is supported without zero points")
    return Scheme(name, weights, _inputs(group, weights))


def _inputs(group: Fields, weights: Args) -> Args | None:
    if not group.given("input_activations"):
        return None
    entry = _entry(group, "input_activations")
    args = _args(entry, ACTIVATION_STRATEGIES)
    _require_symmetric(entry, args)
    _require(entry, "num_bits", args.num_bits, 8)
    if args.kind != weights.kind:
        entry.problems.add(
            f"{entry.prefix}type",
            f"{args.kind!r} beside weights of {weights.kind!r} is not supported",
        )
    if not args.is_dynamic and args.strategy != "tensor":
        entry.problems.add(
            f"{entry.prefix}strategy", f"{args.strategy!r} is supported for dynamic ones only"
        )
    return args


def _args(fields: Fields, strategies: tuple[str, ...]) -> Args:
    kind = fields.string("type", default="int")
    if kind not in ("int", "float"):
        fields.problems.add(f"{fields.prefix}type", f"{kind!r} is neither 'int' nor 'float'")
    strategy, group_size = _strategy(fields, strategies)
    dynamic = fields.values.get("dynamic", False)
    if not isinstance(dynamic, bool):
        fields.problems.add(f"{fields.prefix}dynamic", f"{dynamic!r} is neither true nor false")
    order = fields.values.get("actorder")
    if order not in (None, False, "weight", "static", "group", "dynamic"):
        fields.problems.add(f"{fields.prefix}actorder", f"{order!r} is not supported")
    return Args(
        num_bits=fields.integer("num_bits", low=1, high=16, default=8),
        kind=kind,
        is_symmetric=fields.boolean("symmetric", default=True),
        strategy=strategy,
        group_size=group_size if strategy == "group" else None,
        block=_block(fields) if strategy == "block" else None,
        is_dynamic=dynamic is not False,
        is_reordered=order in ("group", "dynamic"),
    )


def _strategy(fields: Fields, accepted: tuple[str, ...]) -> tuple[str, int]:
    """The strategy, which follows from the group's size where it is not given."""
    size = fields.integer("group_size", low=-1, high=1 << 24, default=0)
    inferred = {0: "tensor", -1: "channel"}.get(size, "group")
    strategy = fields.string("strategy", default=inferred)
    if strategy not in accepted:
        fields.problems.add(
            f"{fields.prefix}strategy",
            f"{strategy!r} is not supported; supported are {', '.join(accepted)}",
        )
    if strategy == "group" and size < 1:
        fields.problems.add(f"{fields.prefix}group_size", f"{size} is not above 0")
    return strategy, max(size, 1)


def _block(fields: Fields) -> Grid:
    value: Any = fields.values.get("block_structure")
    if isinstance(value, str):  # older versions wrote "128x128"
        sides = value.split("x")
        value = [int(side) if side.isdecimal() and len(side) < 9 else 0 for side in sides]
    return read_block(
        Fields({"block_structure": value}, fields.problems, fields.prefix), "block_structure"
    )


def _require(fields: Fields, name: str, value: int, *accepted: int) -> None:
    is_read = value == fields.values.get(name, value)  # if not, it is a problem already
    if is_read and value not in accepted:
        supported = " and ".join(map(str, accepted))
        verb = "is" if len(accepted) == 1 else "are"
        fields.problems.add(fields.prefix + name, f"{value} is not supported; {supported} {verb}")


def _require_symmetric(fields: Fields, args: Args) -> None:
    if not args.is_symmetric:
        fields.problems.add(
            f"{fields.prefix}symmetric", "false (zero points) is not supported here; true is"
        )
