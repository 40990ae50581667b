# SPDX-License-Identifier: Apache-2.0
"""What configurations of compressed-tensors say, and those that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from compressed_tensors.quantization import QuantizationArgs

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.compressed_tensors import read_compressed_tensors
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.errors import ConfigError, Problems
from tests.support.quantized_checkpoints import KINDS

INT8_STATIC = {"num_bits": 8}
FP8_PER_TOKEN = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}
GROUP_0 = "quantization_config.config_groups.group_0."


def parse(config: dict[str, Any]) -> tuple[Format, list[str]]:
    problems = Problems("config.json", ConfigError)
    stored_as = read_compressed_tensors(Fields(config, problems, "quantization_config."))
    return stored_as, [str(problem) for problem in problems.found]


def kind(name: str, group: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """The configuration of a kind of tiny checkpoint, with entries of its group changed."""
    config: dict[str, Any] = json.loads(json.dumps(KINDS[name].config)) | changed
    for operand, entries in (group or {}).items():
        given_entries = config["config_groups"]["group_0"].get(operand)
        is_merged = isinstance(entries, dict) and given_entries is not None
        config["config_groups"]["group_0"][operand] = (
            given_entries | entries if is_merged else entries
        )
    return config


@pytest.mark.parametrize(("entry", "dtype"), [("float", "fp8"), ("int", "int8")])
def test_the_configuration_says_what_the_kv_cache_was_calibrated_for(
    entry: str, dtype: str
) -> None:
    scheme = json.loads(QuantizationArgs(num_bits=8, type=entry).model_dump_json())
    stored_as, problems = parse(kind("fp8_static", kv_cache_scheme=scheme))
    assert not problems
    assert stored_as.kv_cache_dtype == dtype


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (kind("w4a16", format="marlin-24"), "quantization_config.format: 'marlin-24' is not"),
        (kind("w4a16", format="nvfp4-pack-quantized"), "format: 'nvfp4-pack-quantized' is not"),
        (kind("w4a16", format="mixed-precision"), "format: 'mixed-precision' is not supported"),
        (kind("w4a16", format="dense"), "quantization_config.format: 'dense' is not supported"),
        (kind("w4a16", {"format": "marlin-24"}), f"{GROUP_0}format: 'marlin-24' is not supported"),
        (kind("w4a16", format=None), "quantization_config.format: is missing"),
        (
            kind("w4a16", sparsity_config={"format": "sparse-24-bitmask"}),
            "quantization_config.sparsity_config: 'sparse-24-bitmask' is not supported",
        ),
        (
            kind("w4a16", transform_config={"config_groups": {"u": {"type": "hadamard"}}}),
            "quantization_config.transform_config: is not supported",
        ),
        (kind("w4a16", config_groups={}), "config_groups: names no group of quantised modules"),
        (
            kind("w4a16", {"weights": {"num_bits": 3}}),
            f"{GROUP_0}weights.num_bits: 3 is not supported; 4 and 8 are",
        ),
        (
            kind("w8a8_dynamic", {"weights": {"num_bits": 4}}),
            f"{GROUP_0}weights.num_bits: 4 is not supported; 8 is",
        ),
        (
            kind("w4a16", {"weights": {"num_bits": "4"}}),
            f"{GROUP_0}weights.num_bits: '4' is not an integer",
        ),
        (
            kind("w4a16", {"weights": {"type": "float", "num_bits": 8}}),
            f"{GROUP_0}weights.type: 'float' does not go with pack-quantized",
        ),
        (kind("w4a16", {"weights": None}), f"{GROUP_0}weights: is missing"),
        (
            kind("w4a16", {"weights": {"strategy": "tensor_group"}}),
            f"{GROUP_0}weights.strategy: 'tensor_group' is not supported",
        ),
        (
            kind("w4a16", {"weights": {"group_size": None}}),
            f"{GROUP_0}weights.group_size: 0 is not above 0",
        ),
        (
            kind("w4a16", {"weights": {"strategy": "tensor", "symmetric": False}}),
            f"{GROUP_0}weights.strategy: 'tensor' is supported without zero points",
        ),
        (
            kind("w8a8_dynamic", {"weights": {"strategy": "block", "block_structure": [8, 8]}}),
            f"{GROUP_0}weights.strategy: 'block' is supported for floats only",
        ),
        (
            kind("fp8_static", {"weights": {"strategy": "block"}}),
            f"{GROUP_0}weights.block_structure: None is not a list of two sizes above 0",
        ),
        (
            kind("fp8_static", {"weights": {"strategy": "block", "block_structure": "128x"}}),
            f"{GROUP_0}weights.block_structure: [128, 0] is not a list of two sizes above 0",
        ),
        (
            kind("fp8_static", {"weights": {"symmetric": False}}),
            f"{GROUP_0}weights.symmetric: false (zero points) is not supported here; true is",
        ),
        (
            kind("w4a16", {"weights": {"actorder": "sideways"}}),
            f"{GROUP_0}weights.actorder: 'sideways' is not supported",
        ),
        (
            kind("w8a8_dynamic", {"input_activations": {"symmetric": False}}),
            f"{GROUP_0}input_activations.symmetric: false (zero points) is not supported",
        ),
        (
            kind("w8a8_dynamic", {"input_activations": {"dynamic": "local"}}),
            f"{GROUP_0}input_activations.dynamic: 'local' is neither true nor false",
        ),
        (
            kind("w8a8_static", {"input_activations": {"strategy": "group", "group_size": 32}}),
            f"{GROUP_0}input_activations.strategy: 'group' is supported for dynamic ones only",
        ),
        (
            kind("w8a8_static", {"input_activations": {"num_bits": 4}}),
            f"{GROUP_0}input_activations.num_bits: 4 is not supported; 8 is",
        ),
        (
            kind("w4a16", {"input_activations": FP8_PER_TOKEN}),
            f"{GROUP_0}input_activations.type: 'float' beside weights of 'int' is not supported",
        ),
        (
            kind("w4a16", {"output_activations": INT8_STATIC}),
            f"{GROUP_0}output_activations: is not supported; null is",
        ),
        (
            kind("w4a16", kv_cache_scheme={"num_bits": 8, "dynamic": True}),
            "quantization_config.kv_cache_scheme.dynamic: true is not supported; false is",
        ),
        (
            kind("w4a16", kv_cache_scheme={"num_bits": 8, "strategy": "attn_head"}),
            "quantization_config.kv_cache_scheme.strategy: 'attn_head' is not supported",
        ),
    ],
)
def test_a_configuration_that_is_not_supported_is_named(
    config: dict[str, Any], message: str
) -> None:
    _, (problem,) = parse(config)
    assert message in problem


def test_groups_must_be_quantised_alike() -> None:
    config = kind("w4a16")
    group = config["config_groups"]["group_0"]
    config["config_groups"]["group_1"] = group | {"targets": ["re:.*down_proj"]}
    _, problems = parse(config)
    assert not problems
    config["config_groups"]["group_1"] = group | {"weights": group["weights"] | {"num_bits": 8}}
    _, (problem,) = parse(config)
    assert problem.startswith(
        "quantization_config.config_groups: has groups that are quantised differently"
    )


def test_entries_that_change_nothing_are_accepted() -> None:
    config = kind(
        "w4a16",
        {"weights": {"actorder": "static", "observer": "mse", "scale_dtype": None}},
        sparsity_config={"format": "dense", "sparsity_structure": "unstructured"},
        transform_config={},
        version="0.12.2",
    )
    assert not parse(config)[1]
    old = kind("fp8_dynamic", {"weights": {"strategy": "block", "block_structure": "128x64"}})
    assert not parse(old)[1]
