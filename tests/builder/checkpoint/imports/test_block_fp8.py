# SPDX-License-Identifier: Apache-2.0
"""FP8 checkpoints of transformers, AutoFP8 and FBGEMM, against transformers and torch."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.block_fp8 import read_block_fp8
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.stored_weight import StoredWeight
from enginery.builder.errors import CheckpointError, ConfigError, Problems
from tests.support.quantized_checkpoints import fp8_config
from tests.support.quantized_weights import fp8
from tests.support.raw_tensors import MemoryTensors, Stored, assert_is_named, read_weights

MODULE = "model.layers.0.mlp.up_proj"
NUM_ROWS, DEPTH = 24, 96
WHOLE = (0, NUM_ROWS), (0, DEPTH)


def parse(config: dict[str, Any]) -> tuple[Format, list[str]]:
    problems = Problems("config.json", ConfigError)
    stored_as = read_block_fp8(Fields(config, problems, "quantization_config."))
    return stored_as, [str(problem) for problem in problems.found]


def drawn(block: tuple[int, int] | None, **options: Any) -> dict[str, Stored]:
    weight = np.random.default_rng(0).standard_normal((NUM_ROWS, DEPTH), np.float32)
    tensors = fp8(weight, block, **({"scale_name": "weight_scale_inv"} | options)).tensors
    return {f"{MODULE}.{part}": stored for part, stored in tensors.items()}


def weights(
    tensors: dict[str, Stored], config: dict[str, Any]
) -> tuple[dict[str, StoredWeight], list[str]]:
    stored_as, found = parse(config)
    assert not found
    return read_weights(stored_as, tensors)


def only(tensors: dict[str, Stored], config: dict[str, Any]) -> StoredWeight:
    read, problems = weights(tensors, config)
    assert not problems
    return read[f"{MODULE}.weight"]


def as_torch(stored: Stored) -> torch.Tensor:
    array, dtype = stored
    tensor = torch.from_numpy(array.copy())
    if dtype == "F8_E4M3":
        return tensor.view(torch.float8_e4m3fn)
    return tensor.view(torch.bfloat16) if dtype == "BF16" else tensor


@pytest.mark.parametrize("scale_dtype", ["F32", "BF16"])
@pytest.mark.parametrize("block", [(8, 32), (12, 96), (24, 16), (1, 1)])
def test_values_are_those_of_transformers(block: tuple[int, int], scale_dtype: str) -> None:
    tensors = drawn(block, scale_dtype=scale_dtype)
    weight = only(tensors, fp8_config(block))
    expected = Fp8Dequantize(None)._dequantize_one(  # type: ignore[no-untyped-call]
        as_torch(tensors[f"{MODULE}.weight"]),
        as_torch(tensors[f"{MODULE}.weight_scale_inv"]),
        torch.float32,
    )
    np.testing.assert_array_equal(weight.float32(*WHOLE), expected.numpy())
    assert (weight.dtype, weight.shape) == ("F8_E4M3", (NUM_ROWS, DEPTH))
    assert (weight.group_size, weight.has_zero_points) == (block[1], False)
    assert weight.is_ordered
    assert set(weight.tensors) == tensors.keys()


@pytest.mark.parametrize("block", [(10, 40), (128, 128), (24, 100)])
def test_the_last_blocks_may_be_smaller(block: tuple[int, int]) -> None:
    tensors = drawn(block)
    codes = as_torch(tensors[f"{MODULE}.weight"]).float()
    scale = as_torch(tensors[f"{MODULE}.weight_scale_inv"])
    expected = torch.empty(NUM_ROWS, DEPTH)
    for n in range(NUM_ROWS):
        for k in range(DEPTH):
            expected[n, k] = codes[n, k] * scale[n // block[0], k // block[1]]
    weight = only(tensors, fp8_config(block))
    np.testing.assert_array_equal(weight.float32(*WHOLE), expected.numpy())


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (NUM_ROWS, 1)])
@pytest.mark.parametrize("name", ["weight_scale_inv", "weight_scale"])
def test_without_blocks_a_scale_is_of_the_tensor_or_of_a_row(
    name: str, shape: tuple[int, ...]
) -> None:
    scale = np.linspace(0.5, 1.5, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    tensors = drawn(None, scale_name=name) | {f"{MODULE}.{name}": (scale, "F32")}
    weight = only(tensors, fp8_config(None, "static"))
    codes = as_torch(tensors[f"{MODULE}.weight"]).float()
    np.testing.assert_array_equal(weight.float32(*WHOLE), codes * torch.from_numpy(scale))
    assert weight.group_size == DEPTH
    part = weight.codes((3, 7), (0, DEPTH))
    assert part.scale.shape == (4, 1)
    assert part.q.dtype == np.uint8


def test_fbgemm_has_a_scale_per_row() -> None:
    tensors = drawn((1, DEPTH), scale_name="weight_scale")
    config = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}
    stored_as, problems = parse(config)
    assert not problems
    assert stored_as.qformat == "none"
    codes = as_torch(tensors[f"{MODULE}.weight"]).float()
    expected = codes * as_torch(tensors[f"{MODULE}.weight_scale"])
    np.testing.assert_array_equal(only(tensors, config).float32(*WHOLE), expected)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 100)),
    st.tuples(st.integers(0, NUM_ROWS), st.integers(0, NUM_ROWS)).filter(lambda i: i[0] < i[1]),
    st.tuples(st.integers(0, DEPTH), st.integers(0, DEPTH)).filter(lambda i: i[0] < i[1]),
)
def test_a_rectangle_is_that_of_the_whole(
    block: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    weight = only(drawn(block), fp8_config(block))
    whole = weight.float32(*WHOLE)
    part = weight.float32(rows, columns)
    np.testing.assert_array_equal(part, whole[slice(*rows), slice(*columns)])
    aligned = (columns[0] // weight.group_size * weight.group_size, columns[1])
    codes = weight.codes(rows, aligned)
    assert codes.q.shape == (rows[1] - rows[0], aligned[1] - aligned[0])
    assert codes.group_size == weight.group_size
    np.testing.assert_array_equal(codes.float32(), whole[slice(*rows), slice(*aligned)])


def test_no_more_is_read_than_the_rectangle_needs() -> None:
    stored_as, _ = parse(fp8_config((8, 32)))
    raw = MemoryTensors(drawn((8, 32)))
    weight = stored_as.weights(raw, Problems("", CheckpointError))[f"{MODULE}.weight"]
    assert not any(raw.num_read.values())
    weight.codes((7, 9), (32, 40))
    assert list(raw.num_read.values()) == [16, 2]  # weight, weight_scale_inv


def test_static_activations_have_scales_by_two_names() -> None:
    stored_as, _ = parse(fp8_config(None, "static"))
    scale = np.ones((), np.float32)
    raw = MemoryTensors(
        {"a.activation_scale": (scale, "F32"), "b.input_scale": (scale, "F32")} | drawn(None)
    )
    assert stored_as.renamed(raw) == {"a.input_scale": "a.activation_scale"}
    assert stored_as.qformat == "fp8"


@pytest.mark.parametrize("config", [fp8_config((128, 128)), fp8_config(None)])
def test_dynamic_activations_have_no_scheme(config: dict[str, Any]) -> None:
    stored_as, problems = parse(config)
    assert not problems
    assert (stored_as.name, stored_as.qformat) == ("fp8", "none")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_found_when_it_is_read(value: float) -> None:
    tensors = drawn((8, 32))
    tensors[f"{MODULE}.weight_scale_inv"][0][1, 2] = value
    weight = only(tensors, fp8_config((8, 32)))
    weight.codes((0, 8), (0, DEPTH))
    with pytest.raises(CheckpointError, match=r"weight_scale_inv: holds a NaN or an infinity"):
        weight.codes((8, 9), (64, 96))


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_a_code_that_is_a_nan_is_found_when_it_is_read(code: int) -> None:
    tensors = drawn((8, 32))
    tensors[f"{MODULE}.weight"][0][9, 70] = code
    weight = only(tensors, fp8_config((8, 32)))
    weight.codes((0, 9), (0, DEPTH))
    with pytest.raises(CheckpointError, match=r"up_proj\.weight: holds a NaN"):
        weight.codes((9, 10), (64, 96))


@pytest.mark.parametrize(
    ("block", "part", "array", "dtype", "message"),
    [
        ((8, 32), "weight", np.zeros(8, np.uint8), "F8_E4M3", "has shape [8]; a matrix is"),
        ((8, 32), "weight", np.zeros((0, 9), np.uint8), "F8_E4M3", "has shape [0, 9]; a matrix"),
        ((8, 32), "weight_scale_inv", None, "", "is missing, and its module's codes mean nothing"),
        (
            (8, 32),
            "weight_scale_inv",
            np.ones((3, 4), np.float32),
            "F32",
            "has shape [3, 4]; its module's codes make it [3, 3]",
        ),
        ((8, 32), "weight_scale_inv", np.ones((), np.float32), "F32", "has shape []; its module's"),
        ((8, 32), "weight_scale_inv", np.ones((3, 3), np.uint8), "U8", "has dtype U8; F32 or F16"),
        (
            None,
            "weight_scale_inv",
            np.ones((3, 3), np.float32),
            "F32",
            "has shape [3, 3]; its module's codes make it [1, 1] or [] or [1] or [24, 1]",
        ),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_named(
    block: tuple[int, int] | None,
    part: str,
    array: npt.NDArray[Any] | None,
    dtype: str,
    message: str,
) -> None:
    read = functools.partial(weights, config=fp8_config(block))
    assert_is_named(read, drawn(block), f"{MODULE}.{part}", array, dtype, message)


def test_what_is_not_quantised_is_not_read() -> None:
    head = np.ones((8, 8), np.uint16)
    read, problems = weights({"lm_head.weight": (head, "BF16")} | drawn(None), fp8_config(None))
    assert list(read) == [f"{MODULE}.weight"]
    assert not problems


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"activation_scheme": "static"}, "'static' is not supported beside weight_block_size"),
        ({"activation_scheme": "token"}, "activation_scheme: 'token' is not supported"),
        ({"fmt": "e5m2"}, "quantization_config.fmt: 'e5m2' is not supported; supported: e4m3"),
        ({"weight_block_size": 128}, "weight_block_size: 128 is not a list of two sizes"),
        ({"weight_block_size": [128]}, "weight_block_size: [128] is not a list of two sizes"),
        ({"weight_block_size": [128, 0]}, "weight_block_size: [128, 0] is not a list of two"),
        ({"weight_block_size": [128, True]}, "weight_block_size: [128, True] is not a list of"),
        ({"weight_block_size": [1 << 40, 1]}, "[1099511627776, 1] is not a list of two sizes"),
    ],
)
def test_a_configuration_that_is_not_supported_is_named(
    changed: dict[str, Any], message: str
) -> None:
    _, problems = parse(fp8_config((128, 128)) | changed)
    assert len(problems) == 1
    assert message in problems[0]
