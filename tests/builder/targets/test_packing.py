# SPDX-License-Identifier: Apache-2.0
"""Packed rows, unpacked by the format's formula, are the rows of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.errors import CheckpointError
from enginery.builder.network.weight import Blocks, stack, whole
from enginery.builder.targets.cpu.packing import PackedRows, pack_rows
from enginery.quantization import quantize_grouped_int4, quantize_int8
from tests.support.checkpoints import encode_tensor, write_safetensors
from tests.support.reference import round_to_bfloat16

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
LAYOUTS = {
    "f32": ("n16k1", 1, np.float32),
    "bf16": ("n16k2", 2, np.uint16),
    "i8": ("n16k4", 4, np.int8),
}
SHAPES = [(1, 1), (16, 4), (19, 99), (33, 7), (48, 130)]
INT4_SHAPES = [*SHAPES, (16, 8), (17, 128), (40, 300), (5, 1031)]
ALL_LAYOUTS = {dtype: layout for dtype, (layout, _, _) in LAYOUTS.items()} | {"i4": "n16k8"}

BLOCKS = {"i4": Blocks(128, "i8")}

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]


def checkpoint_of(directory: Path, dtype: str, **tensors: FloatArray) -> Checkpoint:
    directory.mkdir(exist_ok=True)
    stored = {name: encode_tensor(values, dtype) for name, values in tensors.items()}
    path = directory / "model.safetensors"
    write_safetensors(path, stored, dict.fromkeys(stored, CODES[dtype]))
    return Checkpoint(directory)


def unpack(
    data: npt.NDArray[np.generic], dtype: str, shape: tuple[int, int]
) -> npt.NDArray[np.generic]:
    """Element by element, in the words of the format."""
    _, group, item = LAYOUTS[dtype]
    flat = data.reshape(-1).view(item)
    num_rows, depth = shape
    assert flat.size == -(-num_rows // 16) * -(-depth // group) * 16 * group
    seen = np.zeros(flat.size, bool)
    out = np.empty(shape, item)
    for n in range(num_rows):
        for k in range(depth):
            at = (((n // 16) * -(-depth // group) + k // group) * 16 + n % 16) * group + k % group
            out[n, k] = flat[at]
            seen[at] = True
    assert not flat[~seen].any(), "padding is zero"
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", CODES)
@pytest.mark.parametrize("dtype", LAYOUTS)
def test_pack_then_unpack(tmp_path: Path, shape: tuple[int, int], stored: str, dtype: str) -> None:
    values = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    with checkpoint_of(tmp_path, stored, w=values) as checkpoint:
        read = checkpoint.read_float32("w").copy()
        weight = whole("w", shape).stored_as(dtype)
        packed = pack_rows(checkpoint, weight, LAYOUTS[dtype][0], 0, shape[0])
    unpacked = unpack(packed.data, dtype, shape)
    if dtype == "i8":
        expected = quantize_int8(read, "w")
        assert np.array_equal(unpacked, expected.q)
        assert packed.scale is not None and np.array_equal(packed.scale, expected.scale)
        assert packed.column_sums is not None and packed.column_sums.dtype == np.int32
        assert np.array_equal(packed.column_sums, expected.q.sum(axis=1, dtype=np.int64))
    elif dtype == "bf16":
        bits = round_to_bfloat16(read).view(np.uint32) >> 16
        assert np.array_equal(unpacked, bits)
    else:
        assert np.array_equal(unpacked, read)


def unpack_int4(packed: PackedRows, shape: tuple[int, int]) -> tuple[Int8Array, Int8Array]:
    """Codes and multipliers, element by element, in the words of the format."""
    num_rows, depth = shape
    num_panels, num_eights, num_groups = -(-num_rows // 16), -(-depth // 8), -(-depth // 128)
    data = packed.data.reshape(-1).view(np.uint8)
    assert packed.group_scales is not None
    scales = packed.group_scales.reshape(-1)
    assert (data.size, scales.size) == (num_panels * num_eights * 64, num_panels * num_groups * 16)
    codes = np.zeros((num_panels * 16, num_eights * 8), np.int8)
    multipliers = np.zeros((num_panels * 16, num_groups), np.int8)
    for n in range(num_panels * 16):
        for k in range(num_eights * 8):
            byte = data[((n // 16 * num_eights + k // 8) * 16 + n % 16) * 4 + k % 4]
            codes[n, k] = int(byte >> 4 if k % 8 >= 4 else byte & 15) - 8
        for group in range(num_groups):
            multipliers[n, group] = scales[(n // 16 * num_groups + group) * 16 + n % 16]
    assert not codes[num_rows:].any() and not codes[:, depth:].any(), "padding is the code 0"
    assert (multipliers[num_rows:] == 1).all()
    return codes[:num_rows, :depth], multipliers[:num_rows]


@pytest.mark.parametrize("shape", INT4_SHAPES)
@pytest.mark.parametrize("stored", CODES)
def test_pack_then_unpack_int4(tmp_path: Path, shape: tuple[int, int], stored: str) -> None:
    values = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    with checkpoint_of(tmp_path, stored, w=values) as checkpoint:
        read = checkpoint.read_float32("w").copy()
        packed = pack_rows(
            checkpoint, whole("w", shape).stored_as("i4", BLOCKS["i4"]), "n16k8", 0, shape[0]
        )
    codes, multipliers = unpack_int4(packed, shape)
    expected = quantize_grouped_int4(read, "w")
    assert np.array_equal(codes, expected.q)
    assert np.array_equal(multipliers, expected.multipliers)
    assert packed.scale is not None and np.array_equal(packed.scale, expected.scale)
    assert packed.column_sums is not None and packed.column_sums.dtype == np.int32
    repeated = np.repeat(multipliers.astype(np.int64), 128, axis=1)[:, : shape[1]]
    assert np.array_equal(packed.column_sums, (repeated * codes).sum(axis=1))


def test_int4_codes_stand_where_the_format_says(tmp_path: Path) -> None:
    """One row by hand: steps of 1, so that q is the value; k and k + 4 share a byte."""
    values = np.array([[-8, 1, 2, 3, 4, 5, 6, 7, 0, -1]], np.float32) * 15
    with checkpoint_of(tmp_path, "float32", w=values) as checkpoint:
        packed = pack_rows(
            checkpoint, whole("w", (1, 10)).stored_as("i4", BLOCKS["i4"]), "n16k8", 0, 1
        )
    data = packed.data.reshape(-1).view(np.uint8)
    assert data[:4].tolist() == [0xC0, 0xD9, 0xEA, 0xFB]
    assert data[4:64].tolist() == [0x88] * 60
    assert data[64:68].tolist() == [0x88, 0x87, 0x88, 0x88]
    assert packed.group_scales is not None
    assert packed.group_scales.reshape(-1).tolist() == [15, *[1] * 15]
    assert packed.scale is not None and packed.scale.tolist() == [1.0]
    assert packed.column_sums is not None and packed.column_sums.tolist() == [15 * 19]


def test_shares_of_the_columns_of_int4_are_those_of_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    tensors = {name: rng.standard_normal((21, 512)).astype(np.float32) for name in ("gate", "up")}
    weight = stack("w", [whole(name, (21, 512)) for name in tensors]).stored_as("i4", BLOCKS["i4"])
    with checkpoint_of(tmp_path, "bfloat16", **tensors) as checkpoint:
        at_once = pack_rows(checkpoint, weight, "n16k8", 0, 42)
        shares = [
            pack_rows(checkpoint, weight.columns(begin, begin + 256), "n16k8", 0, 42)
            for begin in (0, 256)
        ]
    codes, multipliers = unpack_int4(at_once, (42, 512))
    parts = [unpack_int4(share, (42, 256)) for share in shares]
    assert np.array_equal(np.concatenate([part[0] for part in parts], axis=1), codes)
    assert np.array_equal(np.concatenate([part[1] for part in parts], axis=1), multipliers)
    assert at_once.column_sums is not None
    sums = np.zeros(42, np.int64)
    for share in shares:
        assert share.scale is not None and at_once.scale is not None
        assert np.array_equal(share.scale, at_once.scale)
        assert share.column_sums is not None
        sums += share.column_sums
    assert np.array_equal(sums, at_once.column_sums)


@pytest.mark.parametrize("dtype", ALL_LAYOUTS)
def test_pieces_of_stacked_and_sliced_tensors_are_those_of_the_whole(
    tmp_path: Path, dtype: str
) -> None:
    rng = np.random.default_rng(5)
    tensors = {name: rng.standard_normal((23, 40)).astype(np.float32) for name in ("q", "k", "v")}
    layout = ALL_LAYOUTS[dtype]
    with checkpoint_of(tmp_path, "float32", **tensors) as checkpoint:
        parts = [whole(name, (23, 40)).columns(8, 31) for name in tensors]
        weight = stack("qkv", parts).stored_as(dtype, BLOCKS.get(dtype))
        at_once = pack_rows(checkpoint, weight, layout, 0, 69)
        pieces = [pack_rows(checkpoint, weight, layout, b, min(b + 32, 69)) for b in (0, 32, 64)]
    joined = b"".join(piece.data.tobytes() for piece in pieces)
    assert joined == at_once.data.tobytes()
    if at_once.group_scales is not None:
        scales = [piece.group_scales for piece in pieces if piece.group_scales is not None]
        assert np.array_equal(np.concatenate(scales), at_once.group_scales)
    expected = np.concatenate([tensor[:, 8:31] for tensor in tensors.values()])
    if dtype == "f32":
        assert np.array_equal(unpack(at_once.data, dtype, (69, 23)), expected)


def test_a_share_of_the_columns_is_quantised_as_in_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    tensors = {name: rng.standard_normal((21, 48)).astype(np.float32) for name in ("gate", "up")}
    whole_weight = stack("w", [whole(name, (21, 48)) for name in tensors]).stored_as("i8")
    with checkpoint_of(tmp_path, "float32", **tensors) as checkpoint:
        at_once = pack_rows(checkpoint, whole_weight, "rows", 0, 42)
        share = pack_rows(checkpoint, whole_weight.columns(16, 32), "rows", 0, 42)
    assert np.array_equal(share.data, at_once.data[:, 16:32])
    assert share.scale is not None and at_once.scale is not None
    assert np.array_equal(share.scale, at_once.scale)
    assert share.column_sums is not None
    assert np.array_equal(share.column_sums, share.data.sum(axis=1, dtype=np.int64))


@pytest.mark.parametrize("dtype", ALL_LAYOUTS)
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_values_that_are_not_finite_are_named(tmp_path: Path, dtype: str, stored: str) -> None:
    tensors = {name: np.ones((20, 8), np.float32) for name in ("gate", "up")}
    tensors["up"][7, 3] = np.nan
    weight = stack("gate_up", [whole(name, (20, 8)) for name in tensors])
    weight = weight.stored_as(dtype, BLOCKS.get(dtype))
    with (
        checkpoint_of(tmp_path, stored, **tensors) as checkpoint,
        pytest.raises(CheckpointError, match="up: row 7 holds a NaN or an infinity"),
    ):
        pack_rows(checkpoint, weight, ALL_LAYOUTS[dtype], 16, 40)


def test_float32_beyond_the_range_of_bfloat16_is_refused(tmp_path: Path) -> None:
    values = np.full((3, 3), 3.4028235e38, np.float32)
    with (
        checkpoint_of(tmp_path, "float32", w=values) as checkpoint,
        pytest.raises(CheckpointError, match="w: holds values beyond the range of bfloat16"),
    ):
        pack_rows(checkpoint, whole("w", (3, 3)).stored_as("bf16"), "n16k2", 0, 3)
