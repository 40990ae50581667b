# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of AutoGPTQ and GPTQModel, against the layout spelled out code by code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.gptq import read_gptq
from enginery.builder.checkpoint.imports.stored_weight import StoredWeight
from enginery.builder.errors import CheckpointError, ConfigError, Problems
from tests.support.quantized_checkpoints import gptq_config
from tests.support.quantized_weights import gptq, pack
from tests.support.raw_tensors import MemoryTensors, Stored, assert_is_named, read_weights

MODULE = "model.layers.0.mlp.up_proj"
NUM_ROWS, DEPTH, GROUP = 24, 96, 32
WHOLE = (0, NUM_ROWS), (0, DEPTH)


def parse(**changed: Any) -> tuple[Format, list[str]]:
    problems = Problems("config.json", ConfigError)
    stored_as = read_gptq(Fields(gptq_config() | changed, problems, "quantization_config."))
    return stored_as, [str(problem) for problem in problems.found]


def drawn(group_size: int = GROUP, **options: Any) -> dict[str, Stored]:
    weight = np.random.default_rng(0).standard_normal((NUM_ROWS, DEPTH), np.float32)
    tensors = gptq(weight, group_size, **options).tensors
    return {f"{MODULE}.{part}": stored for part, stored in tensors.items() if part != "bias"}


def weights(
    tensors: dict[str, Stored], **changed: Any
) -> tuple[dict[str, StoredWeight], list[str]]:
    stored_as, found = parse(**changed)
    assert not found
    return read_weights(stored_as, tensors)


def only(tensors: dict[str, Stored], **changed: Any) -> StoredWeight:
    read, problems = weights(tensors, **changed)
    assert not problems
    return read[f"{MODULE}.weight"]


def by_the_book(tensors: dict[str, Stored], *, is_v2: bool = False) -> npt.NDArray[np.float32]:
    """real = (code - zero point) * scale, a code at a time, as AutoGPTQ's QuantLinear unpacks it.

    Version 1 adds 1 to a stored zero point and keeps 4 bits of the sum.
    """
    qweight, qzeros, scales, g_idx = (
        tensors[f"{MODULE}.{part}"][0] for part in ("qweight", "qzeros", "scales", "g_idx")
    )
    values = np.zeros((NUM_ROWS, DEPTH), np.float32)
    for n in range(NUM_ROWS):
        for k in range(DEPTH):
            group = int(g_idx[k])
            code = (int(qweight[k // 8, n]) & 0xFFFFFFFF) >> (4 * (k % 8)) & 15
            zero = (int(qzeros[group, n // 8]) & 0xFFFFFFFF) >> (4 * (n % 8)) & 15
            zero = zero if is_v2 else (zero + 1) & 15
            values[n, k] = (code - zero) * float(scales[group, n])
    return values


@pytest.mark.parametrize("checkpoint_format", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("desc_act", [True, False])
@pytest.mark.parametrize("group_size", [32, 40, -1])
def test_values_are_those_of_the_layout(
    group_size: int, desc_act: bool, sym: bool, checkpoint_format: str
) -> None:
    is_v2 = checkpoint_format == "gptq_v2"
    tensors = drawn(group_size, sym=sym, desc_act=desc_act, is_v2=is_v2)
    weight = only(
        tensors,
        group_size=group_size,
        sym=sym,
        desc_act=desc_act,
        checkpoint_format=checkpoint_format,
    )
    np.testing.assert_array_equal(weight.float32(*WHOLE), by_the_book(tensors, is_v2=is_v2))
    assert (weight.dtype, weight.shape) == ("I4", (NUM_ROWS, DEPTH))
    assert weight.group_size == (DEPTH if group_size == -1 else group_size)
    assert weight.has_zero_points == (not sym)
    assert weight.is_ordered == (not desc_act or group_size == -1)
    assert set(weight.tensors) == tensors.keys()
    if weight.is_ordered:
        codes = weight.codes(*WHOLE)
        assert (codes.zero_point is None) == sym
        np.testing.assert_array_equal(codes.float32(), weight.float32(*WHOLE))


def test_random_bits_are_read_as_the_layout_has_them() -> None:
    rng = np.random.default_rng(1)
    tensors = drawn()
    for part in ("qweight", "qzeros"):
        shape = tensors[f"{MODULE}.{part}"][0].shape
        bits = rng.integers(-(1 << 31), 1 << 31, shape, np.int64).astype(np.int32)
        tensors[f"{MODULE}.{part}"] = (bits, "I32")
    tensors[f"{MODULE}.g_idx"] = (rng.integers(0, 3, DEPTH).astype(np.int32), "I32")
    weight = only(tensors, sym=False, checkpoint_format="gptq_v2", desc_act=True)
    np.testing.assert_array_equal(weight.float32(*WHOLE), by_the_book(tensors, is_v2=True))


intervals = st.tuples(
    st.tuples(st.integers(0, NUM_ROWS), st.integers(0, NUM_ROWS)).filter(lambda i: i[0] < i[1]),
    st.tuples(st.integers(0, DEPTH), st.integers(0, DEPTH)).filter(lambda i: i[0] < i[1]),
)


@pytest.mark.parametrize("desc_act", [True, False])
@settings(deadline=None, max_examples=60)
@given(intervals)
def test_a_rectangle_is_that_of_the_whole(
    desc_act: bool, rectangle: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    rows, columns = rectangle
    options = {"sym": False, "desc_act": desc_act}
    weight = only(drawn(is_v2=True, **options), checkpoint_format="gptq_v2", **options)
    whole = weight.float32(*WHOLE)
    part = weight.float32(rows, columns)
    np.testing.assert_array_equal(part, whole[slice(*rows), slice(*columns)])
    if not desc_act:
        aligned = (columns[0] // GROUP * GROUP, columns[1])
        codes = weight.codes(rows, aligned)
        assert codes.q.shape == (rows[1] - rows[0], aligned[1] - aligned[0])
        np.testing.assert_array_equal(codes.float32(), whole[slice(*rows), slice(*aligned)])


def test_no_more_is_read_than_the_rectangle_needs() -> None:
    stored_as, _ = parse()
    raw = MemoryTensors(drawn())
    weight = stored_as.weights(raw, Problems("", CheckpointError))[f"{MODULE}.weight"]
    assert list(raw.num_read.values()) == [0, 0, 0, DEPTH]  # g_idx
    weight.codes((8, 16), (32, 64))
    assert list(raw.num_read.values()) == [32, 1, 8, DEPTH]  # qweight, qzeros, scales


@pytest.mark.parametrize("fill", [None, 0])
def test_without_an_order_groups_are_of_consecutive_inputs(fill: int | None) -> None:
    tensors = drawn()
    expected = by_the_book(tensors)
    if fill is None:
        del tensors[f"{MODULE}.g_idx"]
    else:
        tensors[f"{MODULE}.g_idx"] = (np.full(DEPTH, fill, np.int32), "I32")
    weight = only(tensors)
    assert weight.is_ordered
    np.testing.assert_array_equal(weight.float32(*WHOLE), expected)


def test_an_order_that_the_configuration_denies_is_believed_all_the_same() -> None:
    tensors = drawn(desc_act=True)
    weight = only(tensors, desc_act=False)
    assert not weight.is_ordered
    np.testing.assert_array_equal(weight.float32(*WHOLE), by_the_book(tensors))


def test_zero_points_that_the_configuration_denies_are_found_when_they_are_read() -> None:
    weight = only(drawn(sym=False, is_v2=True), sym=True, checkpoint_format="gptq_v2")
    with pytest.raises(CheckpointError, match=r"up_proj\.qzeros: holds zero points, though"):
        weight.codes(*WHOLE)


def with_zero_points(zero_point: int, neighbour: int, *, borrows: bool) -> dict[str, Stored]:
    """One zero point among equal neighbours, stored as version 1 of one library or the other."""
    tensors = drawn()
    zeros = np.full((3, NUM_ROWS), neighbour)
    zeros[1, 10] = zero_point
    if borrows:
        words = pack(zeros, 4).view(np.uint32) - np.uint32(0x11111111)
        tensors[f"{MODULE}.qzeros"] = (words.view(np.int32), "I32")
    else:
        tensors[f"{MODULE}.qzeros"] = (pack(zeros - 1 & 15, 4), "I32")
    return tensors


@pytest.mark.parametrize("borrows", [True, False])
def test_a_zero_point_of_0_is_refused_where_readers_disagree_about_it(borrows: bool) -> None:
    weight = only(with_zero_points(0, 5, borrows=borrows), sym=False)
    with pytest.raises(CheckpointError, match="holds a zero point of 0, of which") as error:
        weight.codes(*WHOLE)
    (problem,) = error.value.problems
    assert problem.field == f"{MODULE}.qzeros"
    assert problem.fix == "save the checkpoint again with checkpoint_format 'gptq_v2'"


@pytest.mark.parametrize("quantizer", ["gptqmodel:5.6.0", ["optimum:2.0", "gptqmodel:1.4"]])
def test_a_zero_point_of_0_is_read_where_gptqmodel_wrote_it(quantizer: Any) -> None:
    tensors = with_zero_points(0, 5, borrows=True)
    weight = only(tensors, sym=False, meta={"quantizer": quantizer})
    zero_point = weight.codes(*WHOLE).zero_point
    assert zero_point is not None
    expected = np.full((NUM_ROWS, 3), 5 - 8)
    expected[10, 1] = 0 - 8
    np.testing.assert_array_equal(zero_point, expected)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_scale_that_is_not_finite_is_found_when_it_is_read(value: float) -> None:
    for desc_act in (True, False):
        tensors = drawn(desc_act=desc_act)
        tensors[f"{MODULE}.scales"][0][1, 20] = value
        weight = only(tensors, desc_act=desc_act)
        weight.float32((0, 20), (0, DEPTH))
        with pytest.raises(CheckpointError, match=r"up_proj\.scales: holds a NaN or an infinity"):
            weight.float32((20, 21), (32, 64))


@pytest.mark.parametrize(
    ("part", "array", "dtype", "message"),
    [
        ("qweight", np.zeros(8, np.int32), "I32", "has shape [8]; a matrix is expected"),
        ("qweight", np.zeros((12, 0), np.int32), "I32", "has shape [12, 0]; a matrix is"),
        ("qweight", np.zeros((12, 24), np.int64), "I64", "has dtype I64; I32 is expected"),
        ("qzeros", None, "", "is missing, and its module's codes mean nothing without it"),
        ("qzeros", np.zeros((3, 4), np.int32), "I32", "has shape [3, 4]; its module's codes make"),
        ("scales", None, "", "is missing, and its module's codes mean nothing without it"),
        ("scales", np.zeros((3, 8), np.float16), "F16", "has shape [3, 8]; its module's codes"),
        ("scales", np.zeros((3, 24), np.int8), "I8", "has dtype I8; F32 or F16 or BF16 is"),
        ("g_idx", np.zeros(95, np.int32), "I32", "has shape [95]; its module's codes make it [96]"),
        ("g_idx", np.zeros(96, np.float32), "F32", "has dtype F32; I32 or I64 is expected"),
        ("g_idx", np.full(96, 3, np.int32), "I32", "names groups from 3 to 3; there are 3"),
        ("g_idx", np.full(96, -1, np.int32), "I32", "names groups from -1 to -1; there are 3"),
        ("weight", np.zeros((24, 96), np.float16), "F16", f"stands beside {MODULE}.qweight"),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_named(
    part: str, array: npt.NDArray[Any] | None, dtype: str, message: str
) -> None:
    assert_is_named(weights, drawn(), f"{MODULE}.{part}", array, dtype, message)


def test_an_order_is_missing_where_the_configuration_promises_one() -> None:
    tensors = drawn(desc_act=True)
    del tensors[f"{MODULE}.g_idx"]
    _, (problem,) = weights(tensors, desc_act=True)
    assert problem.startswith(f"{MODULE}.g_idx: is missing")


def test_biases_of_zeros_say_nothing() -> None:
    stored_as, _ = parse()
    bias = np.zeros(NUM_ROWS, np.float16)
    one = bias.copy()
    one[-1] = 2**-24
    raw = MemoryTensors(
        drawn()
        | {
            f"{MODULE}.bias": (-bias, "F16"),
            "other.qweight": (np.zeros((1, NUM_ROWS), np.int32), "I32"),
            "other.bias": (one, "F16"),
            "codes.qweight": (np.zeros((1, NUM_ROWS), np.int32), "I32"),
            "codes.bias": (np.zeros(NUM_ROWS, np.int32), "I32"),
            "model.norm.bias": (bias, "F16"),
        }
    )
    assert stored_as.surplus(raw) == {f"{MODULE}.bias"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits": 8}, "quantization_config.bits: 8 is not supported; 4 is"),
        ({"bits": None}, "quantization_config.bits: is missing"),
        ({"group_size": 0}, "group_size: 0 is not supported; -1 or a number above 0 is"),
        ({"group_size": -2}, "group_size: -2 is not an integer from -1 to"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format: 'marlin' is not supported"),
        ({"checkpoint_format": "bitblas"}, "checkpoint_format: 'bitblas' is not supported"),
        ({"format": "gptq_p"}, "quantization_config.format: 'gptq_p' is not supported"),
        ({"is_marlin_format": True}, "quantization_config.is_marlin_format: is not supported"),
        ({"rotation": "hadamard"}, "quantization_config.rotation: 'hadamard' is not supported"),
        (
            {"dynamic": {"-:.*lm_head": {}, "+:.*down_proj": {"bits": 8}}},
            "quantization_config.dynamic: '+:.*down_proj' quantises some modules otherwise",
        ),
        ({"sym": "yes"}, "quantization_config.sym: 'yes' is neither true nor false"),
        ({"desc_act": 1}, "quantization_config.desc_act: 1 is neither true nor false"),
    ],
)
def test_a_configuration_that_is_not_supported_is_named(
    changed: dict[str, Any], message: str
) -> None:
    _, problems = parse(**changed)
    assert len(problems) == 1
    assert message in problems[0]


def test_the_format_says_which_scheme_keeps_its_codes() -> None:
    stored_as, problems = parse(format="gptq_v2", checkpoint_format=None)
    assert not problems
    assert (stored_as.name, stored_as.qformat) == ("gptq", "int4_wo")
