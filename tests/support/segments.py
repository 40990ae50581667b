# SPDX-License-Identifier: Apache-2.0
"""Segments of tiny decoders, random operands for them, and what they must compute, in numpy."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping as Dictionary
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from enginery.builder.build import run_passes
from enginery.builder.checkpoint.config import read_config
from enginery.builder.models.decoder import build_decoder
from enginery.builder.options import BuildRequest, resolve_options
from enginery.builder.sharding.mapping import Mapping
from enginery.builder.sharding.shard import shard
from enginery.builder.sku import load_skus
from enginery.builder.targets.tensorrt.cut import cut
from enginery.builder.targets.tensorrt.segment import (
    SegmentNode,
    SegmentTensor,
    SegmentType,
    SegmentValue,
)
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.extra_nodes import with_factors

# K of every layer is a multiple of 128, the block of INT4, on two ranks too.
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_heads": 8,
    "num_kv_heads": 2,
    "head_dim": 32,
    "vocab_size": 333,
}
CODES = {"fp8": "f8e4m3", "int8_sq": "i8"}
LARGEST = {"fp8": 448.0, "int8_sq": 127.0, "int8_wo": 127.0, "int4_wo": 7.0}
NUMPY: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i8": np.dtype(np.int8),
    "f8e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
}

Array = NDArray[Any]
Reals = NDArray[np.float32]


@functools.cache
def tiny_segments(
    scheme: str, dtype: str, bias: bool, tp_size: int, scales_columns: bool = False
) -> tuple[SegmentType, ...]:
    """The segment types of rank 0 of a tiny Llama, or with `bias` of a Qwen2, as the builder cuts.

    Their widths differ from each other, and the vocabulary is odd. With `scales_columns`, attention
    is multiplied by factors before `o_proj`.
    """
    with tempfile.TemporaryDirectory() as folder:
        family = "qwen2" if bias else "llama"
        checkpoint = write_tiny_checkpoint(Path(folder), family, **SIZES)
        config = read_config(checkpoint)
    name = {"bf16": "bfloat16", "f16": "float16"}[dtype]
    request = BuildRequest(Path(folder), dtype=name, qformat=scheme, tp_size=tp_size, sku="l40s")
    options = resolve_options(request, config, load_skus("l40s"))
    plain = build_decoder(config)
    if scales_columns:
        plain = with_factors(plain)
    network = shard(run_passes(plain, options), Mapping(tp_size, 0))
    return cut(network, options).segments


def random_operands(segment: SegmentType, rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Every input, as stored; `i4` is packed. Values and products have a variance near 1."""
    operands: dict[str, Array] = {}
    schemes = {str(node.inputs[1]): node.scheme for node in segment.nodes if node.op == "linear"}
    for item in segment.inputs:
        if isinstance(item, SegmentValue):
            values = rng.standard_normal((rows, item.columns))
            operands[item.name] = values.astype(NUMPY[item.dtype])
        elif item.role == "norm":
            operands[item.name] = (1 + 0.2 * rng.standard_normal(item.shape)).astype(np.float32)
        elif item.role in ("bias", "factor"):
            operands[item.name] = rng.standard_normal(item.shape).astype(np.float32)
        elif item.role == "weight":
            # Channels of different size, so that a scale in the wrong place shows.
            weight = rng.standard_normal(item.shape) * np.exp2(
                rng.uniform(-2, 1, (item.shape[0], 1))
            )
            weight *= item.shape[1] ** -0.5
            scheme = schemes[item.name]
            scales = {t.name: t.dtype for t in segment.tensors if t.role == "scale"}
            operands |= _stored(item, weight, scheme, scales.get(f"{item.owner}.scale", "f32"))
    return operands


def _stored(
    item: SegmentTensor, weight: NDArray[np.float64], scheme: str, scale_dtype: str
) -> dict[str, Array]:
    """A weight `[N, K]` of a scheme, with its scale and its layer's inverse."""
    if scheme == "none":
        return {item.name: weight.astype(NUMPY[item.dtype])}
    (n, k), largest, owner = item.shape, LARGEST[scheme], item.owner
    blocks = weight.reshape(n, k // 128 if scheme == "int4_wo" else 1, -1)
    scale = (np.abs(blocks).max(2) / largest).astype(NUMPY[scale_dtype])
    codes = np.clip(blocks / scale.astype(np.float64)[:, :, None], -largest, largest)
    codes = codes.reshape(n, k)
    if scheme in CODES:
        input_scale = np.float32(3.0 / largest)  # clips a few values in a thousand
        return {
            item.name: (codes if scheme == "fp8" else np.rint(codes)).astype(NUMPY[item.dtype]),
            f"{owner}.inverse": np.array([1 / input_scale], np.float32),
            f"{owner}.scale": scale[:, 0] * input_scale,
        }
    integers = np.rint(codes).astype(np.int8)
    if scheme == "int8_wo":
        return {item.name: integers, f"{owner}.scale": scale[:, 0]}
    nibbles = (integers.reshape(-1) & 15).astype(np.uint8)
    return {item.name: nibbles[0::2] | (nibbles[1::2] << 4), f"{owner}.scale": scale}


def reference(
    segment: SegmentType, operands: Dictionary[str, Array], gemm_dtype: str = "f32"
) -> dict[str, Reals]:
    """Outputs in float32: rounded and quantised where the segment says, and nowhere else.

    With a 16-bit `gemm_dtype`, results of GEMMs and dequantised weights are rounded to it too, as
    in the segment's ONNX.
    """
    tensors: dict[str, Reals] = {}
    for item in segment.inputs:
        array = operands[item.name]
        if item.dtype == "i4":
            assert isinstance(item, SegmentTensor)
            packed = array.astype(np.int16)
            codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(item.shape)
            tensors[item.name] = np.where(codes > 7, codes - 16, codes).astype(np.float32)
        else:
            tensors[item.name] = array.astype(np.float32)
    for node in segment.nodes:
        read = [tensors[name] if name else None for name in node.inputs]
        tensors[node.output.name] = _node_reference(node, read, gemm_dtype)
    return {item.name: tensors[item.name] for item in segment.outputs}


def _node_reference(node: SegmentNode, read: list[Reals | None], gemm_dtype: str) -> Reals:
    x, *rest = read
    assert x is not None
    inverse = None
    if node.op == "linear":
        weight, scale, bias, residual = rest
        assert weight is not None
        if node.scheme == "int4_wo" and scale is not None:
            weight, scale = _rounded(weight * np.repeat(scale, 128, axis=1), gemm_dtype), None
        elif node.scheme == "int8_wo" and scale is not None and gemm_dtype != "f32":
            weight, scale = _rounded(weight * scale[:, None], gemm_dtype), None
        # Codes stand for values up to 1: a power of two, which matters only to float16's range.
        shrink = {"fp8": np.float32(2**-18), "int8_sq": np.float32(2**-14)}.get(node.scheme, 1)
        y = _rounded(x @ weight.T * shrink, gemm_dtype) / shrink
        y = y if scale is None else y * scale
        for term in (bias, residual):
            y = y if term is None else y + term
    elif node.op == "add":
        assert rest[0] is not None
        y = x + rest[0]
    elif node.op == "rms_norm":
        weight, inverse = (*rest, None)[:2]
        assert weight is not None
        mean = np.mean(np.square(x), axis=1, keepdims=True, dtype=np.float32)
        y = x / np.sqrt(mean + np.float32(node.epsilon)) * weight
    elif node.op == "scale_columns":
        factor, inverse = (*rest, None)[:2]
        assert factor is not None
        y = x * factor
    elif node.op == "silu_mul":
        gate, up = np.split(x, 2, axis=1)
        y, inverse = gate / (1 + np.exp(-gate)) * up, (*rest, None)[0]
    else:
        assert node.op == "quantize"
        y, inverse = x, rest[0]
    return _rounded(y if inverse is None else y * inverse, node.output.dtype)


def _rounded(values: Reals, dtype: str) -> Reals:
    if dtype == "i8":
        return np.rint(np.clip(values, -128, 127)).astype(np.float32)
    if dtype == "f8e4m3":
        values = np.clip(values, -448, 448)
    rounded: Reals = values.astype(NUMPY[dtype]).astype(np.float32)
    return rounded
