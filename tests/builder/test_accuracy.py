# SPDX-License-Identifier: Apache-2.0
"""What is written in engine files, executed by the numpy reference, against transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from enginery.quantization import (
    dequantize_grouped_int4,
    dequantize_int8,
    quantize_grouped_int4,
    quantize_int8,
)
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engines import build_tiny
from tests.support.reference import ReferenceSequence, relative_error

FloatArray = npt.NDArray[np.float32]

# Largest max |difference| / max |logit| of a row.
TOLERANCES = {
    # Sums in another order.
    ("float32", "none"): 1e-4,
    # Every operand of a GEMM has 8 bits of mantissa; measured 0.013 to 0.022.
    ("bfloat16", "none"): 0.04,
    # Weights have 7 bits and a sign beside it; measured 0.03 to 0.05.
    ("bfloat16", "int8_wo"): 0.1,
    # Activations too; measured 0.06 to 0.09.
    ("bfloat16", "int8_dynamic"): 0.18,
    # Weights have 3 bits and a sign, ten times the steps of INT8; measured 0.50 to 0.56.
    ("bfloat16", "w4a8_dynamic"): 0.75,
}

TOKEN_IDS = np.random.default_rng(0).integers(0, 314, 77).tolist()

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "llama_llama3_rope_v5_config": {
        "family": "llama", "rope_scaling": "llama3", "config_style": "v5",
    },
    "llama_linear_rope_bf16": {"family": "llama", "rope_scaling": "linear", "dtype": "bfloat16"},
    "llama_awkward_sizes": {
        "family": "llama", "hidden_size": 120, "num_kv_heads": 1, "intermediate_size": 250,
        "vocab_size": 321, "num_layers": 1, "dtype": "float16",
    },
    "mistral_window": {"family": "mistral", "sliding_window": 19},
    "mistral_no_window_head_dim": {"family": "mistral", "head_dim": 48},
    "qwen2_tied_yarn_shards": {
        "family": "qwen2", "tie": True, "rope_scaling": "yarn", "num_shards": 3,
    },
    "qwen2_window_in_upper_layers": {
        "family": "qwen2", "sliding_window": 19, "num_layers": 3,
        "config_overrides": {"max_window_layers": 1},
    },
    "qwen2_window_switched_off": {
        "family": "qwen2", "sliding_window": 19,
        "config_overrides": {"use_sliding_window": False},
    },
    "qwen3_tied_head_dim_bf16": {
        "family": "qwen3", "tie": True, "head_dim": 48, "dtype": "bfloat16",
    },
    "qwen3_every_head_its_own": {"family": "qwen3", "num_kv_heads": 4},
}  # fmt: skip


def transformers_logits(model: torch.nn.Module) -> FloatArray:
    with torch.inference_mode():
        logits: FloatArray = model.eval()(torch.tensor(TOKEN_IDS)[None]).logits[0].numpy()
    return logits


def load(directory: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    return model


def engine_logits(model: Path, output: Path, **options: Any) -> FloatArray:
    sequence = ReferenceSequence(*build_tiny(model, output, **options))
    # In two steps, so that the second reads the first's keys and values.
    return np.concatenate([sequence.append(TOKEN_IDS[:50]), sequence.append(TOKEN_IDS[50:])])


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_engines_agree_with_transformers(tmp_path: Path, name: str) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", **VARIANTS[name])
    expected = transformers_logits(load(model))
    got = engine_logits(model, tmp_path / "engine")
    assert relative_error(got, expected) < TOLERANCES["float32", "none"]


def test_llama_with_all_biases_as_transformers_saves_it(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        attention_bias=True, mlp_bias=True, bos_token_id=0, eos_token_id=[1, 2],
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if name.endswith("bias") else 0.1)
    model.save_pretrained(tmp_path / "model")
    expected = transformers_logits(model)
    for tp_size in (1, 2):
        got = engine_logits(
            tmp_path / "model", tmp_path / f"engine{tp_size}", skip_tokenizer=True, tp_size=tp_size
        )
        assert relative_error(got, expected) < TOLERANCES["float32", "none"]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(("dtype", "qformat"), list(TOLERANCES)[1:])
def test_other_schemes_stay_within_their_tolerance(
    tmp_path: Path, family: str, dtype: str, qformat: str
) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", family)
    expected = transformers_logits(load(model))
    got = engine_logits(model, tmp_path / "engine", dtype=dtype, qformat=qformat)
    error = relative_error(got, expected)
    assert error < TOLERANCES[dtype, qformat]
    assert error > 1e-4, "nothing was rounded: this is not the scheme asked for"


def rounded_int8(values: FloatArray, name: str) -> FloatArray:
    return dequantize_int8(quantize_int8(values, name))


def rounded_grouped_int4(values: FloatArray, name: str) -> FloatArray:
    return dequantize_grouped_int4(quantize_grouped_int4(values, name))


def logits_of_rounded_weights(
    directory: Path, rounding: Callable[[str], Callable[[FloatArray, str], FloatArray] | None]
) -> FloatArray:
    """Of transformers, where each matrix is replaced by what its rounding gives; None keeps it."""
    model = load(directory)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rounded = rounding(name) if parameter.ndim == 2 else None
            if rounded is not None:
                parameter.copy_(torch.from_numpy(rounded(parameter.numpy(), name)))
    return transformers_logits(model)


@pytest.mark.parametrize("tie", [False, True])
def test_int8_wo_is_exactly_the_model_with_rounded_weights(tmp_path: Path, tie: bool) -> None:
    """In float32 the only difference is in the weights, and it is the documented one."""
    directory = write_tiny_checkpoint(tmp_path / "model", "qwen3", tie=tie)
    expected = logits_of_rounded_weights(
        directory, lambda name: None if not tie and "embed_tokens" in name else rounded_int8
    )
    got = engine_logits(directory, tmp_path / "engine", qformat="int8_wo")
    assert relative_error(got, expected) < TOLERANCES["float32", "none"]


@pytest.mark.parametrize("tie", [False, True])
def test_w4a8_dynamic_is_the_model_with_rounded_weights(tmp_path: Path, tie: bool) -> None:
    """What is left is the rounding of activations; embedding and lm_head are in INT8."""
    directory = write_tiny_checkpoint(tmp_path / "model", "qwen3", tie=tie)
    expected = logits_of_rounded_weights(
        directory, lambda name: rounded_grouped_int4 if ".layers." in name else rounded_int8
    )
    got = engine_logits(directory, tmp_path / "engine", qformat="w4a8_dynamic")
    assert relative_error(got, expected) < 0.08  # measured: 0.04


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tie", [False, True])
def test_two_ranks_compute_what_one_does(tmp_path: Path, family: str, tie: bool) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", family, tie=tie, num_heads=8, num_kv_heads=4)
    one, two, four = (
        engine_logits(model, tmp_path / f"engine{tp_size}", tp_size=tp_size)
        for tp_size in (1, 2, 4)
    )
    assert relative_error(two, one) < 1e-5
    assert relative_error(four, one) < 1e-5


@dataclass(frozen=True)
class Sharded:
    """A scheme, and how far its ranks may be from the whole: each scales its own half of a row."""

    qformat: str
    tolerance: float


@pytest.mark.parametrize(
    "case", [Sharded("int8_wo", 0.05), Sharded("int8_dynamic", 0.1), Sharded("w4a8_dynamic", 0.1)]
)
def test_two_ranks_of_quantised_engines(tmp_path: Path, case: Sharded) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "qwen2", tie=True, num_heads=8, head_dim=32)
    one, two = (
        engine_logits(model, tmp_path / f"engine{tp_size}", tp_size=tp_size, qformat=case.qformat)
        for tp_size in (1, 2)
    )
    assert 0 < relative_error(two, one) < case.tolerance


def test_the_reference_tells_a_wrong_weight(tmp_path: Path) -> None:
    """The checks above can fail: one weight of ten thousand moved a little is seen."""
    (engine,) = build_tiny(write_tiny_checkpoint(tmp_path / "model", "llama"), tmp_path / "engine")
    weight = engine.tensor("model.layers.0.mlp.down_proj.weight")
    array = weight.array.copy()
    array[5, 5] += 0.2
    changed = dataclasses.replace(weight, array=array)

    steps = [
        dataclasses.replace(step, inputs=tuple(changed if x is weight else x for x in step.inputs))
        for step in engine.steps
    ]
    expected = ReferenceSequence(engine).append(TOKEN_IDS)
    got = ReferenceSequence(dataclasses.replace(engine, steps=steps)).append(TOKEN_IDS)
    assert relative_error(got, expected) > TOLERANCES["float32", "none"]
