# SPDX-License-Identifier: Apache-2.0
"""Every scheme, by both providers, against transformers and against the cpu target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.builder.build import build, plan_build
from enginery.builder.errors import OptionError
from enginery.builder.options import BuildRequest
from enginery.runtime.llm import LLM
from enginery.runtime.sampling_params import SamplingParams
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.emulation import (
    EMULATED,
    SAME_STEP,
    build_emulated,
    emulated,
    random_tokens,
    reference_logits,
)
from tests.support.modelopt_checkpoints import store_smoothed
from tests.support.quantized_checkpoints import quantize_checkpoint
from tests.support.scales import add_scales
from tests.support.tolerances import Tolerance, check_logits, relative_error

SCHEMES: dict[str, dict[str, Any]] = {
    "none": {},
    "float16": {"dtype": "float16"},
    "int8_wo": {"qformat": "int8_wo"},
    "int4_wo": {"qformat": "int4_wo"},
    "int8_sq": {"qformat": "int8_sq"},
    "fp8": {"qformat": "fp8"},
    "kv int8": {"kv_cache_dtype": "int8"},
    "kv fp8": {"kv_cache_dtype": "fp8"},
}
WITH_ACTIVATION_CODES = ("int8_sq", "fp8")
TOKENS = random_tokens(5, seed=1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_logits_of_both_providers(scheme: str, tmp_path: Path) -> None:
    options = SCHEMES[scheme]
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", "llama", dtype="bfloat16")
    add_scales(checkpoint, options.get("qformat", "none"), options.get("kv_cache_dtype", "auto"))
    engine = build_emulated(checkpoint, tmp_path / "engine", **options)
    expected = reference_logits(checkpoint, engine, TOKENS)
    got = {}
    for provider in ("onnx", "native"):
        with emulated(engine, provider) as model:
            prefill = model.step({"a": TOKENS[:4]})["a"]
            decode = model.step({"a": TOKENS[4:]})["a"]
        got[provider] = np.concatenate([prefill, decode])
        check_logits(got[provider], expected, EMULATED[scheme])
    if scheme not in WITH_ACTIVATION_CODES:
        # Where nothing falls to another code the two differ by roundings alone.
        assert relative_error(got["native"], got["onnx"]).max() <= SAME_STEP.limit


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "float16"])
def test_an_engine_for_cpu_foretells_the_logits(scheme: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": "bfloat16", "tokens_per_block": 16, **SCHEMES[scheme]}
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", "llama", dtype="bfloat16")
    add_scales(checkpoint, options.get("qformat", "none"), options.get("kv_cache_dtype", "auto"))
    check_foretold(checkpoint, tmp_path, EMULATED[scheme], **options)


def check_foretold(
    checkpoint: Path, folder: Path, tolerance: Tolerance, provider: str = "native", **options: Any
) -> None:
    """Compares the logits of an emulated engine with those of an engine for cpu."""
    gpu = build_emulated(checkpoint, folder / "gpu", **options)
    cpu = folder / "cpu"
    build(plan_build(BuildRequest(checkpoint, cpu, **options)))
    with emulated(gpu, provider) as model:
        expected = model.step({"a": TOKENS})["a"]
    with LLM(cpu) as llm:
        params = SamplingParams(max_tokens=1, return_context_logits=True)
        got = llm.generate(list(TOKENS), params).context_logits
    assert got is not None
    check_logits(got, expected, tolerance)


@pytest.mark.parametrize("provider", ["native", "onnx"])
@pytest.mark.parametrize(
    ("algorithm", "scheme"), [("W8A8_SQ_PER_CHANNEL", "int8_sq"), ("W4A16_AWQ", "int4_wo")]
)
def test_smoothed_checkpoints(algorithm: str, scheme: str, provider: str, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", "qwen2")
    store_smoothed(checkpoint, algorithm)
    options = {"dtype": "bfloat16", "tokens_per_block": 16}
    check_foretold(checkpoint, tmp_path, EMULATED[scheme], provider, **options)


@pytest.mark.parametrize("scheme", ["fp8", "int8_wo"])
def test_excluded_modules_stay_in_the_build_dtype(scheme: str, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", "llama", dtype="bfloat16")
    add_scales(checkpoint, scheme)
    excluded = ("layers.0.mlp.down_proj", "layers.1.self_attn.*", "lm_head")
    check_foretold(
        checkpoint,
        tmp_path,
        EMULATED[scheme],
        dtype="bfloat16",
        tokens_per_block=16,
        qformat=scheme,
        exclude_modules=excluded,
    )


def test_zero_points_are_refused(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", "llama")
    quantize_checkpoint(checkpoint, "awq_g128")
    with pytest.raises(OptionError, match="int4_awq takes symmetric codes"):
        plan_build(BuildRequest(checkpoint, sku="h100"))
    assert plan_build(BuildRequest(checkpoint, sku="h100", qformat="int8_wo"))
