# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enginery.builder.checkpoint.config import read_config
from enginery.builder.errors import OptionError
from enginery.builder.options import BuildOptions, BuildRequest, resolve_options
from enginery.builder.sku import load_skus
from tests.support.checkpoints import write_tiny_checkpoint


def resolve(
    tmp_path: Path, checkpoint: dict[str, Any] | None = None, **options: Any
) -> BuildOptions:
    write_tiny_checkpoint(tmp_path, **({"family": "llama"} | (checkpoint or {})))
    request = BuildRequest(tmp_path, **options)
    return resolve_options(request, read_config(tmp_path), load_skus(request.sku))


def test_defaults_come_from_sku_and_model(tmp_path: Path) -> None:
    assert resolve(tmp_path) == BuildOptions(
        sku="cpu",
        dtype="bfloat16",
        qformat="none",
        tp_size=1,
        max_batch_size=64,
        max_num_tokens=2048,
        max_seq_len=512,
        max_input_len=512,
        tokens_per_block=32,
        kv_cache_dtype="bfloat16",
    )


@pytest.mark.parametrize(
    ("stored", "built"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "bfloat16")],
)
def test_dtype_auto_follows_the_checkpoint(tmp_path: Path, stored: str, built: str) -> None:
    options = resolve(tmp_path, {"dtype": stored}, dtype="auto")
    assert (options.dtype, options.kv_cache_dtype) == (built, built)


def test_the_kv_cache_may_have_another_dtype(tmp_path: Path) -> None:
    options = resolve(tmp_path, dtype="float32", kv_cache_dtype="bfloat16")
    assert (options.dtype, options.kv_cache_dtype) == ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [(None, 512), ("linear", 2048), ("yarn", 512), ("llama3", 512)],
)
def test_the_longest_sequence_counts_rope_scaling(
    tmp_path: Path, scaling: str | None, longest: int
) -> None:
    assert resolve(tmp_path, {"rope_scaling": scaling}).max_seq_len == 512
    assert resolve(tmp_path, {"rope_scaling": scaling}, max_seq_len=longest).max_seq_len == longest
    with pytest.raises(OptionError, match=f"what the model was made for, {longest} positions"):
        resolve(tmp_path, {"rope_scaling": scaling}, max_seq_len=longest + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype: 'float16' is not built for SKU cpu; accepted are float32"),
        (
            {"qformat": "awq"},
            "qformat: 'awq' is not built for SKU cpu; accepted are none, int8_wo, int8_dynamic",
        ),
        ({"kv_cache_dtype": "float16"}, "kv_cache_dtype: 'float16' is not built for SKU cpu"),
        ({"qformat": "int4_wo", "dtype": "float32"}, "dtype: 'float32' .*choose bfloat16 or"),
        ({"max_batch_size": 0}, "max_batch_size: 0 is not from 1 to"),
        ({"max_num_tokens": -5}, "max_num_tokens: -5 is not from 1 to"),
        ({"max_seq_len": 0}, "max_seq_len: 0 is not from 1 to"),
        ({"tp_size": 2000}, "tp_size: 2000 is not from 1 to 1024"),
        ({"tokens_per_block": 48}, "tokens_per_block: 48 is not one of 16, 32, 64, 128"),
        ({"max_input_len": 200, "max_seq_len": 100}, "max_input_len: 200 is above max_seq_len 100"),
        (
            {"max_batch_size": 65, "max_num_tokens": 64},
            "max_batch_size: 65 is above max_num_tokens",
        ),
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve(tmp_path, **options)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        resolve(tmp_path, qformat="awq", max_seq_len=513, tokens_per_block=1, max_batch_size=0)
    assert {problem.field for problem in error.value.problems} == {
        "qformat", "max_seq_len", "tokens_per_block", "max_batch_size",
    }  # fmt: skip


def test_several_skus_share_what_all_of_them_take(tmp_path: Path) -> None:
    options = resolve(tmp_path, sku="h200,a100,l40s", qformat="int8_sq", kv_cache_dtype="int8")
    skus = load_skus("h200,a100,l40s")
    assert options.sku == "h200,a100,l40s"
    assert options.max_batch_size == min(sku.max_batch_size for sku in skus)
    assert options.max_num_tokens == min(sku.max_num_tokens for sku in skus)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sku": "h200,a100", "qformat": "fp8"},
            r"SKU a100: FP8 takes .* 8.9 or higher; a100 has 8.0; .* is int8_sq; .*, int8_wo\)",
        ),
        (
            {"sku": "h200", "qformat": "int8_dynamic"},
            r"does not quantise activations per token at run time; .* is int8_sq; .*, int8_wo\)",
        ),
        (
            {"sku": "h100", "qformat": "w4a8_dynamic"},
            r"does not quantise activations per token at run time; .* is built is int4_wo\)",
        ),
        (
            {"sku": "a100", "kv_cache_dtype": "fp8"},
            r"kv_cache_dtype: 'fp8' is not built for SKU a100: FP8 takes .* is built is int8\)",
        ),
        ({"sku": "h200,cpu"}, "cpu has no engine in common with h200"),
        ({"sku": "h200", "dtype": "float32"}, "^options: dtype: 'float32' is not built for .*16$"),
        ({"sku": "h200", "qformat": "awq"}, "qformat: 'awq' is not built for SKU h200; accepted"),
    ],
)
def test_refusals_give_the_reason_and_the_nearest(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        resolve(tmp_path, **options)


def test_dtype_auto_keeps_float16_where_it_is_built(tmp_path: Path) -> None:
    assert resolve(tmp_path, {"dtype": "float16"}, dtype="auto", sku="h100").dtype == "float16"
    assert resolve(tmp_path, {"dtype": "float32"}, dtype="auto", sku="h100").dtype == "bfloat16"
