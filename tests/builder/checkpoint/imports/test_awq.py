# SPDX-License-Identifier: Apache-2.0
"""AutoAWQ checkpoints, against the layout spelled out code by code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.awq import read_awq
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.stored_weight import StoredWeight
from enginery.builder.errors import CheckpointError, ConfigError, Problems
from tests.support.quantized_checkpoints import awq_config
from tests.support.quantized_weights import awq
from tests.support.raw_tensors import MemoryTensors, Stored, assert_is_named, read_weights

MODULE = "model.layers.0.mlp.up_proj"
NUM_ROWS, DEPTH, GROUP = 24, 96, 32


def parse(config: dict[str, Any]) -> tuple[Format, list[str]]:
    problems = Problems("config.json", ConfigError)
    stored_as = read_awq(Fields(config, problems, "quantization_config."))
    return stored_as, [str(problem) for problem in problems.found]


def drawn(group_size: int = GROUP, *, zero_point: bool = True) -> dict[str, Stored]:
    weight = np.random.default_rng(0).standard_normal((NUM_ROWS, DEPTH), np.float32)
    tensors = awq(weight, group_size, zero_point=zero_point).tensors
    return {f"{MODULE}.{part}": stored for part, stored in tensors.items()}


def weights(
    tensors: dict[str, Stored], config: dict[str, Any] | None = None
) -> tuple[dict[str, StoredWeight], list[str]]:
    stored_as, found = parse(awq_config() if config is None else config)
    assert not found
    return read_weights(stored_as, tensors)


def only(tensors: dict[str, Stored], config: dict[str, Any] | None = None) -> StoredWeight:
    read, problems = weights(tensors, config)
    assert not problems
    return read[f"{MODULE}.weight"]


def by_the_book(tensors: dict[str, Stored], group_size: int) -> npt.NDArray[np.float32]:
    """real = (code - zero point) * scale, a code at a time, as AutoAWQ documents its layout."""
    qweight, qzeros, scales = (
        tensors[f"{MODULE}.{part}"][0] for part in ("qweight", "qzeros", "scales")
    )
    output_of_nibble = (0, 2, 4, 6, 1, 3, 5, 7)
    values = np.zeros((NUM_ROWS, DEPTH), np.float32)
    for k in range(DEPTH):
        for word in range(NUM_ROWS // 8):
            for nibble, output in enumerate(output_of_nibble):
                n = 8 * word + output
                code = (int(qweight[k, word]) & 0xFFFFFFFF) >> (4 * nibble) & 15
                packed_zero = int(qzeros[k // group_size, word]) & 0xFFFFFFFF
                zero = packed_zero >> (4 * nibble) & 15
                values[n, k] = (code - zero) * float(scales[k // group_size, n])
    return values


@pytest.mark.parametrize("zero_point", [True, False])
@pytest.mark.parametrize("group_size", [32, 64, -1])
def test_values_are_those_of_the_layout(group_size: int, zero_point: bool) -> None:
    tensors = drawn(group_size, zero_point=zero_point)
    weight = only(tensors, awq_config(group_size, zero_point=zero_point))
    size = DEPTH if group_size == -1 else group_size
    whole = weight.float32((0, NUM_ROWS), (0, DEPTH))
    np.testing.assert_array_equal(whole, by_the_book(tensors, size))
    assert (weight.dtype, weight.shape) == ("I4", (NUM_ROWS, DEPTH))
    assert (weight.group_size, weight.has_zero_points) == (size, zero_point)
    assert weight.is_ordered
    assert set(weight.tensors) == tensors.keys()
    assert (weight.codes((0, NUM_ROWS), (0, DEPTH)).zero_point is not None) == zero_point


def test_random_bits_are_read_as_the_layout_has_them() -> None:
    rng = np.random.default_rng(1)
    tensors = drawn()
    for part in ("qweight", "qzeros"):
        shape = tensors[f"{MODULE}.{part}"][0].shape
        bits = rng.integers(-(1 << 31), 1 << 31, shape, np.int64).astype(np.int32)
        tensors[f"{MODULE}.{part}"] = (bits, "I32")
    whole = only(tensors).float32((0, NUM_ROWS), (0, DEPTH))
    np.testing.assert_array_equal(whole, by_the_book(tensors, GROUP))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(0, NUM_ROWS), st.integers(0, NUM_ROWS)).filter(lambda i: i[0] < i[1]),
    st.tuples(st.integers(0, DEPTH), st.integers(0, DEPTH)).filter(lambda i: i[0] < i[1]),
)
def test_a_rectangle_is_that_of_the_whole(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    weight = only(drawn())
    whole = weight.float32((0, NUM_ROWS), (0, DEPTH))
    part = weight.float32(rows, columns)
    np.testing.assert_array_equal(part, whole[slice(*rows), slice(*columns)])
    aligned = (columns[0] // GROUP * GROUP, columns[1])
    codes = weight.codes(rows, aligned)
    assert codes.q.shape == (rows[1] - rows[0], aligned[1] - aligned[0])
    np.testing.assert_array_equal(codes.float32(), whole[slice(*rows), slice(*aligned)])


def test_no_more_is_read_than_the_rectangle_needs() -> None:
    stored_as, _ = parse(awq_config())
    raw = MemoryTensors(drawn())
    weight = stored_as.weights(raw, Problems("", CheckpointError))[f"{MODULE}.weight"]
    assert not any(raw.num_read.values())
    weight.codes((8, 16), (32, 64))
    assert list(raw.num_read.values()) == [32, 1, 8]  # qweight, qzeros, scales


def test_zero_points_may_be_missing_where_there_are_none() -> None:
    tensors = drawn(zero_point=False)
    expected = by_the_book(tensors, GROUP)
    del tensors[f"{MODULE}.qzeros"]
    weight = only(tensors, awq_config(zero_point=False))
    assert not weight.has_zero_points
    np.testing.assert_array_equal(weight.float32((0, NUM_ROWS), (0, DEPTH)), expected)


def test_zero_points_that_the_configuration_denies_are_found_when_they_are_read() -> None:
    weight = only(drawn(), awq_config(zero_point=False))
    with pytest.raises(CheckpointError, match=r"up_proj\.qzeros: holds zero points, though"):
        weight.codes((0, NUM_ROWS), (0, DEPTH))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_found_when_it_is_read(value: float) -> None:
    tensors = drawn()
    tensors[f"{MODULE}.scales"][0][1, 20] = value
    weight = only(tensors)
    weight.codes((0, 20), (0, DEPTH))
    with pytest.raises(CheckpointError, match=r"up_proj\.scales: holds a NaN or an infinity"):
        weight.codes((20, 21), (32, 64))


@pytest.mark.parametrize(
    ("part", "array", "dtype", "message"),
    [
        ("qweight", np.zeros(8, np.int32), "I32", "has shape [8]; a matrix is expected"),
        ("qweight", np.zeros((0, 3), np.int32), "I32", "has shape [0, 3]; a matrix is expected"),
        ("qweight", np.zeros((96, 3), np.float32), "F32", "has dtype F32; I32 is expected"),
        ("qzeros", None, "", "is missing, and its module's codes mean nothing without it"),
        (
            "qzeros",
            np.zeros((3, 4), np.int32),
            "I32",
            "has shape [3, 4]; its module's codes make it [3, 3]",
        ),
        ("scales", None, "", "is missing, and its module's codes mean nothing without it"),
        (
            "scales",
            np.zeros((4, 24), np.float16),
            "F16",
            "has shape [4, 24]; its module's codes make it [3, 24]",
        ),
        (
            "scales",
            np.zeros((3, 24), np.int32),
            "I32",
            "has dtype I32; F32 or F16 or BF16 is expected",
        ),
        ("weight", np.zeros((24, 96), np.float16), "F16", f"stands beside {MODULE}.qweight"),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_named(
    part: str, array: npt.NDArray[Any] | None, dtype: str, message: str
) -> None:
    assert_is_named(weights, drawn(), f"{MODULE}.{part}", array, dtype, message)


def test_what_is_not_quantised_is_not_read() -> None:
    norm = np.ones(8, np.float16)
    read, problems = weights({"model.norm.weight": (norm, "F16")} | drawn())
    assert list(read) == [f"{MODULE}.weight"]
    assert not problems


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits": 3}, "quantization_config.bits: 3 is not supported; 4 is"),
        ({"version": "gemv"}, "quantization_config.version: 'gemv' is not supported; 'gemm' is"),
        ({"version": "marlin"}, "quantization_config.version: 'marlin' is not supported"),
        ({"checkpoint_format": "gemv_fast"}, "checkpoint_format: 'gemv_fast' is not supported"),
        ({"backend": "llm-awq"}, "quantization_config.backend: 'llm-awq' is not supported"),
        ({"group_size": 48}, "group_size: 48 is not supported; 128, 64, 32, -1 are"),
        ({"group_size": "128"}, "quantization_config.group_size: '128' is not an integer"),
        ({"zero_point": 1}, "quantization_config.zero_point: 1 is neither true nor false"),
    ],
)
def test_a_configuration_that_is_not_supported_is_named(
    changed: dict[str, Any], message: str
) -> None:
    _, problems = parse(awq_config() | changed)
    assert len(problems) == 1
    assert message in problems[0]


def test_the_format_says_which_scheme_keeps_its_codes() -> None:
    stored_as, problems = parse({"quant_method": "awq", "bits": 4, "version": "GEMM"})
    assert not problems
    assert (stored_as.name, stored_as.qformat) == ("awq", "int4_awq")
    assert stored_as.kv_cache_dtype is None
