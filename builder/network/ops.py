# SPDX-License-Identifier: Apache-2.0
"""The operations of a network: for each the rule that gives its output from its inputs.

A rule checks its operands and returns the output's rows, columns and dtype. It raises
`ShapeError`, which is a defect of ours: a checkpoint was checked before it came this far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from enginery.builder.network.network import Attribute, Node, Operand, Value
from enginery.builder.network.weight import Weight

Attributes = Mapping[str, Attribute]

# dtypes of weights that a linear layer takes beside an operand of this dtype.
WEIGHT_DTYPES = {
    "f32": ("f32", "i8"),
    "bf16": ("bf16", "i8", "i4"),
    "f16": ("f16", "i8", "i4"),
    "i8": ("i8", "i4"),
    "f8e4m3": ("f8e4m3", "i4"),
}


class ShapeError(Exception):
    """Operands do not fit the operation."""


class OutputType(NamedTuple):
    """Rows, columns and dtype of a node's output."""

    rows: str
    columns: int
    dtype: str


Rule = Callable[[tuple[Operand, ...], Attributes], OutputType]
RULES: dict[str, Rule] = {}


def node(op: str, name: str, *inputs: Operand, **attributes: Attribute) -> Node:
    """Makes a node, giving its output the name `name` and what the operation's rule says."""
    rows, columns, dtype = RULES[op](inputs, attributes)
    return Node(op, inputs, Value(name, rows, columns, dtype), attributes)


def rule(function: Rule) -> Rule:
    """Enters a rule under its function's name."""
    RULES[function.__name__] = function
    return function


@rule
def embed(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(weight `[vocab, hidden]`) -> `[tokens, hidden]`: the row of each token id."""
    (weight,) = inputs
    return OutputType("tokens", _weight(weight, 2).shape[1], "f32")


@rule
def rms_norm(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(x, weight `[columns]`; epsilon, dtype) -> x normalised, in the dtype of its reader."""
    x, weight = inputs
    x = _value(x, "f32")
    _expect(_weight(weight, 1).shape == (x.columns,), "weight does not fit x")
    _expect("epsilon" in attributes, "epsilon is missing")
    return OutputType(x.rows, x.columns, _operand_dtype(attributes))


@rule
def linear(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(x `[rows, K]`, weight `[N, K]`, bias `[N]` or None, residual or None) -> x W^T + bias.

    With a residual `[rows, N]` the result is added to it, in its place.
    """
    x, weight, bias, residual = inputs
    x, weight = _value(x), _weight(weight, 2)
    num_outputs, depth = weight.shape
    _expect(x.columns == depth, f"x has {x.columns} columns, the weight takes {depth}")
    _expect(weight.dtype in WEIGHT_DTYPES[x.dtype], f"{weight.dtype} weight with {x.dtype} operand")
    if bias is not None:
        _expect(_weight(bias, 1).shape == (num_outputs,), "bias does not fit the weight")
    if residual is not None:
        residual = _value(residual, "f32")
        _expect((residual.rows, residual.columns) == (x.rows, num_outputs), "residual does not fit")
    return OutputType(x.rows, num_outputs, "f32")


@rule
def attention(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(q, k, v, q_norm or None, k_norm or None; layer, head_dim, sliding_window, ...).

    Rotary attention over the KV cache, before query, key and value are packed into one value.
    """
    q, k, v, q_norm, k_norm = inputs
    q, k, v = _value(q, "f32"), _value(k, "f32"), _value(v, "f32")
    head_dim = _integer(attributes, "head_dim")
    _expect(q.rows == k.rows == v.rows == "tokens", "q, k and v are not packed tokens")
    _expect(k.columns == v.columns and q.columns % k.columns == 0, "q, k and v do not fit")
    _expect(k.columns % head_dim == 0, "head_dim does not divide k")
    _expect((q_norm is None) == (k_norm is None), "one of q_norm and k_norm is missing")
    _check_head_norm(q_norm, head_dim)
    _check_head_norm(k_norm, head_dim)
    return OutputType("tokens", q.columns, _operand_dtype(attributes))


@rule
def kv_append(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(qkv or kv, k_norm or None; layer, num_heads, num_kv_heads, head_dim, epsilon).

    Normalises and rotates key heads, writes keys and values to the KV cache. The output is the
    input with its key heads rotated, in its place.
    """
    kv, k_norm = inputs
    kv = _value(kv, "f32")
    _expect(kv.rows == "tokens", "keys and values are not packed tokens")
    q_columns, kv_columns = _head_columns(attributes)
    _expect(kv.columns in (kv_columns, q_columns + kv_columns), "kv does not fit the heads")
    _expect("layer" in attributes and "epsilon" in attributes, "layer or epsilon is missing")
    _check_head_norm(k_norm, _integer(attributes, "head_dim"))
    return OutputType("tokens", kv.columns, "f32")


@rule
def paged_attention(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(qkv or q, kv, q_norm or None; layer, num_heads, ...) -> `[rows of q, q columns]`.

    Normalises and rotates query heads, which attend to the KV cache; `kv` is what the layer's
    `kv_append` gave, after which it runs. Attributes are layer, num_heads, num_kv_heads, head_dim,
    epsilon and sliding_window.
    """
    q, kv, q_norm = inputs
    q, kv = _value(q, "f32"), _value(kv, "f32")
    q_columns, kv_columns = _head_columns(attributes)
    _expect(q.columns in (q_columns, q_columns + kv_columns), "q does not fit the heads")
    _expect(kv.columns in (kv_columns, q_columns + kv_columns), "kv does not fit the heads")
    for name in ("layer", "epsilon", "sliding_window"):
        _expect(name in attributes, f"{name} is missing")
    _check_head_norm(q_norm, _integer(attributes, "head_dim"))
    return OutputType(q.rows, q_columns, _operand_dtype(attributes))


@rule
def swiglu(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(gate, up) -> silu(gate) * up, before gate and up are packed into one value."""
    gate, up = inputs
    gate, up = _value(gate, "f32"), _value(up, "f32")
    _expect((gate.rows, gate.columns) == (up.rows, up.columns), "gate and up differ")
    return OutputType(gate.rows, gate.columns, _operand_dtype(attributes))


@rule
def silu_mul(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(gate_up `[rows, 2 F]`) -> silu(gate) * up, gate in the first F columns."""
    (gate_up,) = inputs
    gate_up = _value(gate_up, "f32")
    _expect(gate_up.columns % 2 == 0, "gate_up has an odd width")
    return OutputType(gate_up.rows, gate_up.columns // 2, _operand_dtype(attributes))


@rule
def scale_columns(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(x, factor `[columns]`; dtype) -> x times a factor of each column, for its reader."""
    x, factor = inputs
    x = _value(x, "f32")
    _expect(_weight(factor, 1).shape == (x.columns,), "factor does not fit x")
    return OutputType(x.rows, x.columns, _operand_dtype(attributes))


@rule
def group_sums(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(x f32, bf16 or i8 `[rows, K]`; group) -> `[rows, ceil(K / group)]`: sums of groups.

    A group is `group` consecutive columns, the last one what is left.
    """
    (x,) = inputs
    x = _value(x)
    _expect(x.dtype in ("f32", "bf16", "i8"), f"{x.name} is {x.dtype}, not f32, bf16 or i8")
    group = _integer(attributes, "group")
    _expect(group >= 1, "group is below 1")
    return OutputType(x.rows, -(-x.columns // group), "f32")


@rule
def add(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(residual, x) -> their sum, in the residual's place."""
    residual, x = inputs
    residual, x = _value(residual, "f32"), _value(x, "f32")
    _expect((residual.rows, residual.columns) == (x.rows, x.columns), "operands differ")
    return OutputType(residual.rows, residual.columns, "f32")


@rule
def gather_rows(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(x `[tokens, n]`) -> `[logits, n]`: the rows that want logits."""
    (x,) = inputs
    x = _value(x)
    _expect(x.rows == "tokens", "x is not packed tokens")
    return OutputType("logits", x.columns, x.dtype)


@rule
def all_reduce(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(x) -> the sum over ranks, in rank order, in its place."""
    (x,) = inputs
    x = _value(x, "f32")
    return OutputType(x.rows, x.columns, "f32")


@rule
def all_gather(inputs: tuple[Operand, ...], attributes: Attributes) -> OutputType:
    """(x `[logits, n]`; tp_size) -> `[logits, n tp_size]`: columns of every rank in order."""
    (x,) = inputs
    x = _value(x, "f32")
    _expect(x.rows == "logits", "only logits are gathered")
    return OutputType("logits", x.columns * _integer(attributes, "tp_size"), "f32")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ShapeError(message)


def _value(operand: Operand, dtype: str | None = None) -> Value:
    if not isinstance(operand, Value):
        raise ShapeError("a value is expected")
    _expect(dtype is None or operand.dtype == dtype, f"{operand.name} is not {dtype}")
    return operand


def _weight(operand: Operand, rank: int) -> Weight:
    if not isinstance(operand, Weight):
        raise ShapeError("a weight is expected")
    _expect(len(operand.shape) == rank, f"{operand.name} is not of rank {rank}")
    return operand


def _integer(attributes: Attributes, name: str) -> int:
    value = attributes.get(name)
    if not isinstance(value, int):
        raise ShapeError(f"{name} is not an integer")
    return value


def _operand_dtype(attributes: Attributes) -> str:
    dtype = attributes.get("dtype", "f32")
    _expect(dtype in WEIGHT_DTYPES, f"{dtype!r} is not a dtype of values")
    return str(dtype)


def _head_columns(attributes: Attributes) -> tuple[int, int]:
    """Columns of queries, and of keys and values."""
    head_dim = _integer(attributes, "head_dim")
    num_kv_heads = _integer(attributes, "num_kv_heads")
    return _integer(attributes, "num_heads") * head_dim, 2 * num_kv_heads * head_dim


def _check_head_norm(norm: Operand, head_dim: int) -> None:
    if norm is not None:
        _expect(_weight(norm, 1).shape == (head_dim,), "a head norm does not fit head_dim")
