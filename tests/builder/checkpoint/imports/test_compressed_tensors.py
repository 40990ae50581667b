# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of compressed-tensors, packed and unpacked by the library itself."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from compressed_tensors.compressors.naive_quantized import NaiveQuantizationCompressor
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.compressed_tensors import read_compressed_tensors
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.stored_weight import StoredWeight
from enginery.builder.errors import CheckpointError, ConfigError, Problems
from tests.support.quantized_checkpoints import KINDS
from tests.support.quantized_weights import fp8, int8, pack_quantized
from tests.support.raw_tensors import MemoryTensors, Stored, read_weights

MODULE = "model.layers.0.mlp.up_proj"
NUM_ROWS, DEPTH, GROUP = 24, 96, 32
WHOLE = (0, NUM_ROWS), (0, DEPTH)
DTYPES = {
    torch.int32: "I32", torch.int64: "I64", torch.int8: "I8", torch.float32: "F32",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip
INT8_PER_TOKEN = {"num_bits": 8, "dynamic": True, "strategy": "token"}
INT8_STATIC = {"num_bits": 8}
FP8_PER_TOKEN = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}
FP8_STATIC = {"num_bits": 8, "type": "float"}
GROUPED = {"strategy": "group", "group_size": GROUP}


def parse(config: dict[str, Any]) -> tuple[Format, list[str]]:
    problems = Problems("config.json", ConfigError)
    stored_as = read_compressed_tensors(Fields(config, problems, "quantization_config."))
    return stored_as, [str(problem) for problem in problems.found]


def named(tensors: dict[str, Stored]) -> dict[str, Stored]:
    return {f"{MODULE}.{part}": stored for part, stored in tensors.items()}


def drawn() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((NUM_ROWS, DEPTH), np.float32)


def packed(**options: Any) -> dict[str, Stored]:
    return named(pack_quantized(drawn(), GROUP, **options).tensors)


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


def by_the_library(
    name: str,
    args: dict[str, Any],
    inputs: dict[str, Any] | None,
    shape: tuple[int, int],
    scale_dtype: torch.dtype,
) -> tuple[dict[str, Stored], dict[str, Any], npt.NDArray[np.float32]]:
    """A random weight's tensors, their configuration and what they stand for in float32."""
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(**args),
        input_activations=None if inputs is None else QuantizationArgs(**inputs),
    )
    is_packed = name == "pack-quantized"
    library = PackedQuantizationCompressor if is_packed else NaiveQuantizationCompressor
    torch.manual_seed(0)
    grid = {
        "tensor": (1,),
        "channel": (shape[0], 1),
        "group": (shape[0], shape[1] // GROUP),
        "block": (-(-shape[0] // 8), -(-shape[1] // 32)),
    }[scheme.weights.strategy]
    scale = (torch.rand(grid) + 0.5).to(scale_dtype)
    state = {"weight": torch.randn(shape) * 4, "weight_scale": scale.float()}
    if not scheme.weights.symmetric:
        half = 1 << (args["num_bits"] - 1)
        state["weight_zero_point"] = torch.randint(-half, half, grid, dtype=torch.int8)
    stored = library.compress(state, scheme)
    values = library.decompress(stored, scheme)["weight"].float().numpy()
    tensors = named(
        {part: from_torch(tensor) for part, tensor in (stored | {"weight_scale": scale}).items()}
    )
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=name,
        quantization_status="compressed",
        ignore=["lm_head"],
    )
    return tensors, json.loads(config.model_dump_json()), values


def from_torch(tensor: torch.Tensor) -> Stored:
    name = DTYPES[tensor.dtype]
    if name == "BF16":
        tensor = tensor.view(torch.uint16)
    return (tensor.view(torch.uint8) if name == "F8_E4M3" else tensor).numpy(), name


# format, weights, activations; dtype of the codes and the scheme that keeps them
Case = tuple[str, dict[str, Any], dict[str, Any] | None, str, str]
CASES: dict[str, Case] = {
    "w4a16": ("pack-quantized", {"num_bits": 4, **GROUPED}, None, "I4", "int4_wo"),
    "w4a16 asymmetric": (
        "pack-quantized",
        {"num_bits": 4, "symmetric": False, **GROUPED},
        None,
        "I4",
        "int4_wo",
    ),
    "w4a16 per row": ("pack-quantized", {"num_bits": 4, "strategy": "channel"}, None, "I4",
                      "int4_wo"),
    "w4a16 asymmetric per row": (
        "pack-quantized",
        {"num_bits": 4, "symmetric": False, "strategy": "channel"},
        None,
        "I4",
        "int4_wo",
    ),
    "w4a16 per tensor": ("pack-quantized", {"num_bits": 4}, None, "I4", "int4_wo"),
    "w4a8": ("pack-quantized", {"num_bits": 4, **GROUPED}, INT8_PER_TOKEN, "I4", "w4a8_dynamic"),
    "w8a16": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}, None, "I8", "int8_wo"),
    "w8a16 in groups": ("pack-quantized", {"num_bits": 8, **GROUPED}, None, "I8", "none"),
    "w8a16 asymmetric": (
        "pack-quantized",
        {"num_bits": 8, "symmetric": False, **GROUPED},
        None,
        "I8",
        "none",
    ),
    "w8a8 dynamic": (
        "int-quantized",
        {"num_bits": 8, "strategy": "channel"},
        INT8_PER_TOKEN,
        "I8",
        "int8_dynamic",
    ),
    "w8a8 static": (
        "int-quantized",
        {"num_bits": 8, "strategy": "channel"},
        INT8_STATIC,
        "I8",
        "int8_sq",
    ),
    "w8a8 per tensor": ("int-quantized", {"num_bits": 8}, INT8_STATIC, "I8", "int8_sq"),
    "w8a8 asymmetric": (
        "int-quantized",
        {"num_bits": 8, "strategy": "channel", "symmetric": False},
        INT8_PER_TOKEN,
        "I8",
        "none",
    ),
    "int8 weights": ("naive-quantized", {"num_bits": 8, "strategy": "channel"}, None, "I8",
                     "int8_wo"),
    "fp8 static": ("float-quantized", FP8_STATIC, FP8_STATIC, "F8_E4M3", "fp8"),
    "fp8 static per row": (
        "float-quantized",
        FP8_STATIC | {"strategy": "channel"},
        FP8_STATIC,
        "F8_E4M3",
        "fp8",
    ),
    "fp8 dynamic": (
        "float-quantized",
        FP8_STATIC | {"strategy": "channel"},
        FP8_PER_TOKEN,
        "F8_E4M3",
        "none",
    ),
    "fp8 weights": ("naive-quantized", FP8_STATIC, None, "F8_E4M3", "none"),
    "fp8 in blocks": (
        "float-quantized",
        FP8_STATIC | {"strategy": "block", "block_structure": [8, 32]},
        {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "group", "group_size": 32},
        "F8_E4M3",
        "none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_library(case: str, scale_dtype: torch.dtype) -> None:
    name, args, inputs, dtype, qformat = CASES[case]
    shape = (NUM_ROWS, DEPTH)
    tensors, config, values = by_the_library(name, args, inputs, shape, scale_dtype)
    weight = only(tensors, config)
    np.testing.assert_array_equal(weight.float32(*WHOLE), values)
    codes = weight.codes(*WHOLE)
    np.testing.assert_array_equal(codes.float32(), values)
    is_asymmetric = args.get("symmetric") is False
    assert (codes.zero_point is not None, weight.has_zero_points) == (is_asymmetric,) * 2
    assert (weight.dtype, weight.shape) == (dtype, shape)
    assert weight.group_size == {"group": 32, "block": 32}.get(args.get("strategy", ""), DEPTH)
    assert weight.is_ordered
    assert set(weight.tensors) == tensors.keys()
    assert parse(config)[0].qformat == qformat


@pytest.mark.parametrize("case", ["w4a16 per row", "w4a16 asymmetric per row", "fp8 in blocks"])
def test_awkward_sizes_are_those_of_the_library(case: str) -> None:
    name, args, inputs, _, _ = CASES[case]
    shape = (19, 43)
    tensors, config, values = by_the_library(name, args, inputs, shape, torch.float32)
    weight = only(tensors, config)
    assert weight.shape == shape
    np.testing.assert_array_equal(weight.float32((0, 19), (0, 43)), values)
    np.testing.assert_array_equal(weight.float32((9, 18), (3, 41)), values[9:18, 3:41])


def test_groups_may_be_of_any_inputs() -> None:
    quantized = pack_quantized(drawn(), GROUP, actorder=True, symmetric=False)
    config: dict[str, Any] = copy.deepcopy(KINDS["w4a16_actorder"].config)
    config["config_groups"]["group_0"]["weights"]["symmetric"] = False
    weight = only(named(quantized.tensors), config)
    assert not weight.is_ordered
    np.testing.assert_array_equal(weight.float32(*WHOLE), quantized.values)
    np.testing.assert_array_equal(weight.float32((3, 9), (5, 70)), quantized.values[3:9, 5:70])


@pytest.mark.parametrize("index", [np.arange(DEPTH) // GROUP, np.full(DEPTH, -1)])
def test_an_order_may_say_that_groups_are_of_consecutive_inputs(index: npt.NDArray[Any]) -> None:
    tensors = packed() | {f"{MODULE}.weight_g_idx": (index.astype(np.int32), "I32")}
    weight = only(tensors, KINDS["w4a16"].config)
    assert weight.is_ordered
    assert set(weight.tensors) == tensors.keys()
    expected = only(packed(), KINDS["w4a16"].config).float32(*WHOLE)
    np.testing.assert_array_equal(weight.float32(*WHOLE), expected)


intervals = st.tuples(
    st.tuples(st.integers(0, NUM_ROWS), st.integers(0, NUM_ROWS)).filter(lambda i: i[0] < i[1]),
    st.tuples(st.integers(0, DEPTH), st.integers(0, DEPTH)).filter(lambda i: i[0] < i[1]),
)


@pytest.mark.parametrize("case", [name for name in CASES if "per tensor" not in name])
@settings(deadline=None, max_examples=25)
@given(intervals)
def test_a_rectangle_is_that_of_the_whole(
    case: str, rectangle: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    rows, columns = rectangle
    name, args, inputs, _, _ = CASES[case]
    tensors, config, whole = by_the_library(name, args, inputs, (NUM_ROWS, DEPTH), torch.float16)
    weight = only(tensors, config)
    part = weight.float32(rows, columns)
    np.testing.assert_array_equal(part, whole[slice(*rows), slice(*columns)])
    aligned = (columns[0] // weight.group_size * weight.group_size, columns[1])
    codes = weight.codes(rows, aligned)
    assert codes.q.shape == (rows[1] - rows[0], aligned[1] - aligned[0])
    np.testing.assert_array_equal(codes.float32(), whole[slice(*rows), slice(*aligned)])


def test_no_more_is_read_than_the_rectangle_needs() -> None:
    stored_as, _ = parse(KINDS["w4a16_asym"].config)
    tensors = packed(symmetric=False)
    raw = MemoryTensors(tensors)
    weight = stored_as.weights(raw, Problems("", CheckpointError))[f"{MODULE}.weight"]
    read = {name.rsplit("_", 1)[-1]: num for name, num in raw.num_read.items()}
    assert read == {"packed": 0, "scale": 0, "shape": 2, "point": 0}
    weight.codes((8, 16), (32, 64))
    read = {name.rsplit("_", 1)[-1]: num for name, num in raw.num_read.items()}
    assert read == {"packed": 32, "scale": 8, "shape": 2, "point": 1}


def test_early_versions_did_not_pack_zero_points() -> None:
    tensors = packed(symmetric=False)
    weight = only(tensors, KINDS["w4a16_asym"].config)
    zero_point = weight.codes(*WHOLE).zero_point
    assert zero_point is not None
    tensors[f"{MODULE}.weight_zero_point"] = (zero_point, "I8")
    plain = only(tensors, KINDS["w4a16_asym"].config)
    np.testing.assert_array_equal(plain.float32((3, 9), (32, 80)), weight.float32((3, 9), (32, 80)))


def test_zero_points_that_the_configuration_denies_are_found_when_they_are_read() -> None:
    tensors = packed(symmetric=False)
    with pytest.raises(CheckpointError, match="weight_zero_point: holds zero points, though"):
        only(tensors, KINDS["w4a16"].config).codes(*WHOLE)
    zeros = np.zeros((NUM_ROWS, 1), np.int8)
    tensors = named(int8(drawn()).tensors) | {f"{MODULE}.weight_zero_point": (zeros, "I8")}
    assert only(tensors, KINDS["w8a8_dynamic"].config).codes(*WHOLE).zero_point is None


def test_the_kv_caches_scales_have_other_names_here() -> None:
    scale = (np.ones(1, np.float32), "F32")
    attention = "model.layers.3.self_attn."
    stored_as, problems = parse(KINDS["w4a16"].config)
    raw = MemoryTensors(
        {f"{attention}k_scale": scale, f"{attention}v_proj.output_scale": scale} | packed()
    )
    assert not problems
    assert stored_as.renamed(raw) == {
        f"{attention}k_proj.k_scale": f"{attention}k_scale",
        f"{attention}v_proj.v_scale": f"{attention}v_proj.output_scale",
    }
    assert stored_as.kv_cache_dtype is None


def test_zero_points_of_zero_for_activations_say_nothing() -> None:
    stored_as, _ = parse(KINDS["w8a8_static"].config)
    raw = MemoryTensors(
        {
            "a.input_zero_point": (np.zeros(1, np.int8), "I8"),
            "b.input_zero_point": (np.ones(1, np.int8), "I8"),
            "c.input_zero_point": (np.zeros(1, np.float32), "F32"),
        }
    )
    assert stored_as.surplus(raw) == {"a.input_zero_point"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["w4a16", "w8a8_dynamic", "fp8_dynamic"])
def test_a_scale_that_is_not_finite_is_found_when_it_is_read(name: str, value: float) -> None:
    way = KINDS[name]
    tensors = named(way.quantize(drawn()).tensors)
    scale, dtype = tensors[f"{MODULE}.weight_scale"]
    stored: Any = 0x7F80 if dtype == "BF16" else value
    scale[20, 0] = stored
    weight = only(tensors, way.config)
    weight.codes((0, 20), (0, DEPTH))
    with pytest.raises(CheckpointError, match="weight_scale: holds a NaN or an infinity"):
        weight.codes((20, 21), (0, 32))


def test_a_code_that_is_a_nan_is_found_when_it_is_read() -> None:
    tensors = named(fp8(drawn(), None).tensors)
    tensors[f"{MODULE}.weight"][0][9, 70] = 0xFF
    weight = only(tensors, KINDS["fp8_static"].config)
    with pytest.raises(CheckpointError, match=r"up_proj\.weight: holds a NaN"):
        weight.codes((9, 10), (0, DEPTH))


@pytest.mark.parametrize(
    ("part", "array", "dtype", "message"),
    [
        ("packed", np.zeros(8, np.int32), "I32", "has shape [8]; a matrix is expected"),
        ("packed", np.zeros((24, 12), np.uint8), "U8", "has dtype U8; I32 is expected"),
        ("scale", None, "", "is missing, and its module's codes mean nothing without it"),
        ("scale", np.ones((24, 4), np.float32), "F32", "has shape [24, 4]; its module's codes"),
        ("scale", np.ones((24, 3), np.int32), "I32", "has dtype I32; F32 or F16 or BF16 is"),
        ("shape", None, "", "is missing, and its module's codes mean nothing without it"),
        ("shape", np.array([24]), "I64", "has shape [1]; its module's codes make it [2]"),
        ("shape", np.array([24, 97]), "I64", "says [24, 97], which 4-bit codes in int32 [24, 12]"),
        ("shape", np.array([24, 88]), "I64", "says [24, 88], which 4-bit codes in int32 [24, 12]"),
        ("shape", np.array([23, 96]), "I64", "says [23, 96], which 4-bit codes in int32 [24, 12]"),
        ("shape", np.array([24, -(1 << 63)]), "I64", "says [24, -9223372036854775808], which"),
        ("zero_point", None, "", "is missing, and its module's codes mean nothing without it"),
        ("zero_point", np.zeros((24, 3), np.int32), "I32", "has shape [24, 3]; its module's"),
        ("zero_point", np.zeros((3, 3), np.int8), "I8", "has shape [3, 3]; its module's codes"),
        ("g_idx", np.zeros(95, np.int32), "I32", "has shape [95]; its module's codes make it"),
        ("g_idx", np.full(96, 3, np.int32), "I32", "names groups from 3 to 3; there are 3"),
    ],
)
def test_packed_tensors_that_do_not_fit_each_other_are_named(
    part: str, array: npt.NDArray[Any] | None, dtype: str, message: str
) -> None:
    tensors = packed(symmetric=False)
    name = f"{MODULE}.weight_{part}"
    if array is None:
        del tensors[name]
    else:
        tensors[name] = (array, dtype)
    read, problems = weights(tensors, KINDS["w4a16_asym"].config)
    assert not read
    (problem,) = problems
    assert problem.startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    ("part", "array", "dtype", "message"),
    [
        ("weight", np.zeros((24, 96), np.uint16), "BF16", "has dtype BF16; I8 is expected"),
        ("weight", np.zeros((24, 0), np.int8), "I8", "has shape [24, 0]; a matrix is expected"),
        ("weight_scale", None, "", "is missing, and its module's codes mean nothing without it"),
        ("weight_scale", np.ones(1, np.float32), "F32", "has shape [1]; its module's codes make"),
        ("weight_zero_point", np.zeros((24, 1), np.int32), "I32", "has dtype I32; I8 is"),
    ],
)
def test_plain_tensors_that_do_not_fit_each_other_are_named(
    part: str, array: npt.NDArray[Any] | None, dtype: str, message: str
) -> None:
    tensors = named(int8(drawn()).tensors)
    name = f"{MODULE}.{part}"
    if array is None:
        del tensors[name]
    else:
        tensors[name] = (array, dtype)
    read, problems = weights(tensors, KINDS["w8a8_dynamic"].config)
    assert not read
    (problem,) = problems
    assert problem.startswith(f"{name}: {message}")


def test_what_is_not_quantised_is_not_read() -> None:
    plain: dict[str, Stored] = {
        "lm_head.weight": (np.ones((8, 8), np.uint16), "BF16"),
        "model.norm.weight": (np.ones(8, np.float32), "F32"),
    }
    read, problems = weights(plain | named(int8(drawn()).tensors), KINDS["w8a8_dynamic"].config)
    assert list(read) == [f"{MODULE}.weight"]
    assert not problems
