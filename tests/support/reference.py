# SPDX-License-Identifier: Apache-2.0
"""Executes an engine's program in numpy float32, one sequence at a time: the reference for cpu.

It runs what is written in the file, operation by operation as docs/engine-format.md defines them,
with a dense KV cache. bf16 operands are rounded where the format has a bf16 value; products are
exact in float32 and sums are float32 in numpy's order, so that results agree with the C++ executor
to rounding, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.quantization import e4m3_to_float32

from .engine_reader import Engine, StepRecord, TensorRecord, ValueRecord

FloatArray = npt.NDArray[np.float32]


class ReferenceSequence:
    """One sequence on all ranks of an engine: `append` tokens, get logits.

    Args:
        engines: the file of every rank, in rank order.
    """

    def __init__(self, *engines: Engine) -> None:
        self._ranks = [_Rank(engine) for engine in engines]
        self.num_tokens = 0

    def append(self, token_ids: Sequence[int]) -> FloatArray:
        """Runs one step over tokens that follow those before; returns float32 `[tokens, vocab]`."""
        positions = np.arange(self.num_tokens, self.num_tokens + len(token_ids))
        runs = [rank.run(np.asarray(token_ids), positions) for rank in self._ranks]
        for rank in self._ranks:
            rank.exchange = None
        while True:
            # All ranks stop at the same collectives, so they advance in lockstep.
            wanted = [next(run, None) for run in runs]
            if wanted[0] is None:
                assert all(collective is None for collective in wanted)
                break
            kinds = {collective[0] for collective in wanted if collective is not None}
            assert len(kinds) == 1 and None not in wanted
            parts = [collective[1] for collective in wanted if collective is not None]
            result = _sum(parts) if kinds == {"all_reduce"} else np.concatenate(parts, axis=1)
            for rank in self._ranks:
                rank.exchange = result
        self.num_tokens += len(token_ids)
        return self._ranks[0].logits


def _sum(parts: list[FloatArray]) -> FloatArray:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


# Versions of ops that come in others than 1.
VERSIONS = {
    "linear": (1, 2, 3),
    "rms_norm": (1, 2),
    "silu_mul": (1, 2),
    "scale_columns": (1, 2),
    "kv_append": (3,),
    "paged_attention": (3,),
}


class _Rank:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.exchange: FloatArray | None = None
        self._weights: dict[str, FloatArray] = {}
        self._values: dict[str, Any] = {}
        self._keys: dict[int, FloatArray] = {}
        self._values_cache: dict[int, FloatArray] = {}
        self._positions = np.empty(0, np.int64)
        self._tokens = np.empty(0, np.int64)

    @property
    def logits(self) -> FloatArray:
        logits: FloatArray = self._values["logits"]
        return logits

    def run(
        self, tokens: npt.NDArray[Any], positions: npt.NDArray[Any]
    ) -> Iterator[tuple[str, FloatArray]]:
        """Executes all steps; yields (op, operand) at each collective, takes `exchange` after."""
        self._tokens, self._positions = tokens, positions
        self._values = {}
        for step in self.engine.steps:
            assert step.version in VERSIONS.get(step.op, (1,))
            if step.op in ("all_reduce", "all_gather"):
                yield step.op, self._float(step.inputs[0])
                assert self.exchange is not None
                self._store(step, self.exchange)
            else:
                getattr(self, f"_{step.op}")(step)

    # ---- operands ----

    def _float(self, value: Any) -> FloatArray:
        """A value as float32: bf16 widened, i8 times its scales."""
        assert isinstance(value, ValueRecord)
        stored = self._values[value.name]
        if value.dtype == "i8":
            q, scale = stored
            stored = q.astype(np.float32) * scale[:, None]
        result: FloatArray = stored
        return result

    def _weight(self, tensor: Any) -> FloatArray:
        """A constant's stored numbers as float32, without its scales."""
        assert isinstance(tensor, TensorRecord)
        if tensor.name not in self._weights:
            array = tensor.array
            if tensor.dtype == "bf16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            if tensor.dtype == "f8e4m3":
                array = e4m3_to_float32(array)
            self._weights[tensor.name] = array.astype(np.float32)
        return self._weights[tensor.name]

    def _store(self, step: StepRecord, result: FloatArray, *inverse: Any) -> None:
        (output,) = step.outputs
        assert result.shape[1] == output.columns, (step.op, result.shape, output)
        assert result.dtype == np.float32
        if inverse and inverse[0] is not None:
            codes = result * self._weight(inverse[0])[0]
            if output.dtype == "i8":
                q = np.clip(np.rint(codes), -128, 127).astype(np.int8)
                self._values[output.name] = (q, np.ones(len(q), np.float32))
            else:
                assert output.dtype == "bf16"
                self._values[output.name] = round_to_e4m3(codes)
            return
        if output.dtype == "bf16":
            result = round_to_bfloat16(result)
        if output.dtype == "i8":
            self._values[output.name] = quantize_rows(result)
        else:
            self._values[output.name] = result

    def _store_product(self, step: StepRecord, result: FloatArray, *inverse: Any) -> None:
        """Rounded to bf16 first where each row gets a scale of its own."""
        if step.outputs[0].dtype == "i8" and not inverse:
            result = round_to_bfloat16(result)
        self._store(step, result, *inverse)

    # ---- operations ----

    def _embed(self, step: StepRecord) -> None:
        weight, scale = step.inputs
        rows = self._weight(weight)[self._tokens]
        if scale is not None:
            rows = rows * self._weight(scale)[self._tokens][:, None]
        self._store(step, rows)

    def _rms_norm(self, step: StepRecord) -> None:
        x, weight, *inverse = step.inputs
        normed = rms_norm(self._float(x), self._weight(weight), step.attributes["epsilon"])
        self._store(step, normed, *inverse)

    def _linear(self, step: StepRecord) -> None:
        x, weight, scale, bias, column_sums, *group_scales = step.inputs
        assert isinstance(x, ValueRecord) and isinstance(weight, TensorRecord)
        is_alone = weight.dtype == "i4" and x.dtype != "i8"
        if not is_alone:  # then it may have a static scale of x
            assert (scale is not None) == (weight.dtype in ("i8", "i4", "f8e4m3"))
        assert (column_sums is not None) == (x.dtype == "i8")
        assert len(group_scales) == (step.version > 1) == (weight.dtype == "i4")
        if x.dtype == "i8":
            q, x_scale = self._values[x.name]
            codes = int8_codes(weight, *group_scales)
            sums = q.astype(np.int64) @ codes.T
            assert np.array_equal(self._weight(column_sums), codes.sum(axis=1))
            y = sums.astype(np.float32) * x_scale[:, None]
        elif is_alone:
            codes = weight.array.astype(np.float32)
            scales = spread(self._weight(group_scales[0]), codes.shape[1])
            rounded = round_to_e4m3 if step.version == 3 else round_to_bfloat16
            y = self._float(x) @ rounded(codes * scales).T
        else:
            y = self._float(x) @ self._weight(weight).T
        if scale is not None:
            y = y * self._weight(scale)
        if bias is not None:
            y = y + self._weight(bias)
        if step.attributes["accumulate"]:
            y = y + self._values[step.outputs[0].name]
        self._store(step, y)

    def _kv_append(self, step: StepRecord) -> None:
        kv, inv_freq, k_norm, *scales = step.inputs
        engine, num_kv_heads = self.engine.attributes, self.engine.attributes["num_kv_heads"]
        assert step.inputs[0] == step.outputs[0]
        heads = self._float(kv).reshape(len(self._tokens), -1, engine["head_dim"])
        assert heads.shape[1] in (2 * num_kv_heads, engine["num_heads"] + 2 * num_kv_heads)
        q, k, v = np.split(heads, [-2 * num_kv_heads, -num_kv_heads], axis=1)
        k = self._rotated(step, k, inv_freq, k_norm)
        rotated = np.concatenate([q, k, v], axis=1).reshape(len(self._tokens), -1)
        if engine["kv_cache_dtype"] == "bfloat16":
            k, v = round_to_bfloat16(k), round_to_bfloat16(v)
        if self._has_kv_scales(scales):
            k, v = (
                round_to_codes(x, self._weight(scale)[0], engine["kv_cache_dtype"])
                for x, scale in zip((k, v), scales, strict=True)
            )
        layer = step.attributes["layer"]
        none = np.empty((0, *k.shape[1:]), np.float32)
        self._keys[layer] = np.concatenate([self._keys.get(layer, none), k])
        self._values_cache[layer] = np.concatenate([self._values_cache.get(layer, none), v])
        self._store(step, rotated)

    def _rotated(self, step: StepRecord, heads: FloatArray, inv_freq: Any, norm: Any) -> FloatArray:
        """Heads `[tokens, heads, head_dim]`, normed where there is a norm, then rotated."""
        if norm is not None:
            heads = rms_norm(heads, self._weight(norm), step.attributes["epsilon"])
        angles = self._positions[:, None].astype(np.float32) * self._weight(inv_freq)
        scale = np.float32(step.attributes["rope_scale"])
        return rotate(heads, np.cos(angles)[:, None] * scale, np.sin(angles)[:, None] * scale)

    def _has_kv_scales(self, scales: Sequence[Any]) -> bool:
        has_scales = self.engine.attributes["kv_cache_dtype"] in ("int8", "fp8")
        assert len(scales) == 2 and all((scale is not None) == has_scales for scale in scales)
        return has_scales

    def _paged_attention(self, step: StepRecord) -> None:
        attributes, engine = step.attributes, self.engine.attributes
        q_value, inv_freq, q_norm, *scales, inverse = step.inputs
        self._has_kv_scales(scales)
        num_heads, group = engine["num_heads"], engine["num_heads"] // engine["num_kv_heads"]
        heads = self._float(q_value).reshape(len(self._tokens), -1, engine["head_dim"])
        assert heads.shape[1] in (num_heads, num_heads + 2 * engine["num_kv_heads"])
        q = self._rotated(step, heads[:, :num_heads], inv_freq, q_norm)
        q = q.transpose(1, 0, 2)  # [num_heads, tokens, head_dim]
        layer = attributes["layer"]
        # [num_heads, context, head_dim]
        k = np.repeat(self._keys[layer], group, axis=1).transpose(1, 0, 2)
        v = np.repeat(self._values_cache[layer], group, axis=1).transpose(1, 0, 2)
        scores = (q @ k.transpose(0, 2, 1)) * np.float32(attributes["scale"])
        context = np.arange(k.shape[1])
        hidden = context[None] > self._positions[:, None]
        if attributes["sliding_window"]:
            hidden |= context[None] <= self._positions[:, None] - attributes["sliding_window"]
        scores = np.where(hidden, np.float32(-np.inf), scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended = (weights @ v).transpose(1, 0, 2)
        self._store(step, attended.reshape(len(self._tokens), -1), inverse)

    def _silu_mul(self, step: StepRecord) -> None:
        gate, up = np.split(self._float(step.inputs[0]), 2, axis=1)
        self._store_product(step, gate / (1 + np.exp(-gate)) * up, *step.inputs[1:])

    def _scale_columns(self, step: StepRecord) -> None:
        x, factor, *inverse = step.inputs
        assert isinstance(x, ValueRecord) and x.dtype == "f32"
        self._store_product(step, self._float(x) * self._weight(factor), *inverse)

    def _group_sums(self, step: StepRecord) -> None:
        (x,) = step.inputs
        assert isinstance(x, ValueRecord)
        begins = np.arange(0, x.columns, step.attributes["group"])
        if x.dtype == "i8":
            q, scale = self._values[x.name]
            sums = np.add.reduceat(q, begins, axis=1, dtype=np.int64)
            self._store(step, sums.astype(np.float32) * scale[:, None])
        else:
            self._store(step, np.add.reduceat(self._float(x), begins, axis=1))

    def _gather_rows(self, step: StepRecord) -> None:
        (x,), (y,) = step.inputs, step.outputs
        assert isinstance(x, ValueRecord) and x.dtype == y.dtype
        self._values[y.name] = self._values[x.name]  # all rows want logits here

    def _add(self, step: StepRecord) -> None:
        self._store(step, self._values[step.outputs[0].name] + self._float(step.inputs[0]))


def int8_codes(weight: TensorRecord, group_scales: Any = None) -> npt.NDArray[np.int64]:
    """The integers that a weight of a quantised operand stands for, in the range of i8."""
    codes = weight.array.astype(np.int64)
    if group_scales is not None:
        assert isinstance(group_scales, TensorRecord) and group_scales.dtype == "i8"
        magnitudes = np.abs(group_scales.array)
        assert magnitudes.min() >= 1 and magnitudes.max() <= 15
        codes *= spread(group_scales.array, codes.shape[1])
    assert np.abs(codes).max() <= 127
    return codes


def spread(group_scales: npt.NDArray[Any], depth: int) -> npt.NDArray[Any]:
    """`[N, groups]` to `[N, depth]`; how many columns a group has follows from how many there are.

    Of group sizes that make as many groups any will do: then there is one.
    """
    num_groups = group_scales.shape[1]
    size = next(size for size in (128, 64, 32) if -(-depth // size) == num_groups)
    return np.repeat(group_scales, size, axis=1)[:, :depth]


def rms_norm(x: FloatArray, weight: FloatArray, epsilon: float) -> FloatArray:
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    normed: FloatArray = x * (1 / np.sqrt(mean + np.float32(epsilon))) * weight
    return normed


def rotate(x: FloatArray, cos: FloatArray, sin: FloatArray) -> FloatArray:
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def round_to_bfloat16(x: FloatArray) -> FloatArray:
    """Float32 values rounded to bfloat16, half to even, and widened again."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    kept = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return (kept << np.uint32(16)).view(np.float32)


def round_to_codes(x: FloatArray, scale: np.float32, dtype: str) -> FloatArray:
    """Values rounded to codes of int8 or fp8, saturated, times the scale."""
    codes = x * (np.float32(1) / scale)
    if dtype == "int8":
        codes = np.clip(np.rint(codes), -128, 127).astype(np.float32)
    else:
        codes = round_to_e4m3(codes)
    result: FloatArray = codes * scale
    return result


def round_to_e4m3(x: FloatArray) -> FloatArray:
    """The nearest values of E4M3, of two the even one, within +-448."""
    clamped = np.clip(x, -448, 448)
    exponent = np.maximum(np.frexp(np.abs(clamped))[1] - 1, -6)  # below lie subnormal numbers
    unit = np.ldexp(np.float32(1), exponent - 3)
    rounded: FloatArray = (np.rint(clamped / unit) * unit).astype(np.float32)
    return rounded


def quantize_rows(x: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Symmetric INT8 per row: amax / 127, rounded half to even; a row of zeros has scale 1."""
    scale = np.abs(x).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    q = np.clip(np.rint(x / scale[:, None]), -127, 127).astype(np.int8)
    return q, scale


def relative_error(got: FloatArray, expected: FloatArray) -> float:
    """The largest over rows of max |difference| / max |expected|."""
    error = np.abs(got - expected).max(axis=-1) / np.abs(expected).max(axis=-1)
    return float(error.max())
