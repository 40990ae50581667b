# SPDX-License-Identifier: Apache-2.0
"""Engines of checkpoints that were quantised before, against transformers and each other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.builder.build import build, plan_build
from enginery.builder.options import BuildRequest
from enginery.runtime.llm import LLM
from enginery.runtime.sampling_params import SamplingParams
from tests.e2e.conftest import Reference
from tests.support.checkpoints import ARCHITECTURES, write_safetensors, write_tiny_checkpoint
from tests.support.modelopt_checkpoints import store_smoothed
from tests.support.quantized_checkpoints import KINDS, quantize_checkpoint
from tests.support.scales import read_tensors
from tests.support.tolerances import RANDOM_WEIGHTS, Tolerance, check_logits

LIMITS = {"max_batch_size": 4, "max_num_tokens": 48, "tokens_per_block": 16}
ALGORITHMS = {
    "W8A8_SQ_PER_CHANNEL": "int8_sq", "W4A16_AWQ": "int4_awq", "W4A8_AWQ": "w4a8_awq",
}  # fmt: skip
# Against the values that the codes stand for: what rounding activations costs.
OF_CODES = {
    "int8_wo": Tolerance(0.03, "operands and the KV cache as bfloat16"),
    "int8_dynamic": Tolerance(0.085, "activations in 255 steps, per token"),
    "int4_wo": Tolerance(0.03, "operands, scales of blocks and the KV cache as bfloat16"),
    "fp8": Tolerance(0.25, "activations keep 4 bits of mantissa"),
    "int8_sq": Tolerance(0.3, "activations in 255 steps of one scale that was not calibrated"),
    "int4_awq": Tolerance(0.03, "operands, scales of blocks and the KV cache as bfloat16"),
    "w4a8_awq": Tolerance(0.25, "as fp8"),
    "w4a8_dynamic": Tolerance(
        0.15, "as int8_dynamic, lm_head too, and scales of groups in fifteenths of a row's largest"
    ),
}
# The scheme that keeps the codes of each kind; None: there is none.
KEPT = {
    "awq": "int4_awq", "awq_sym": "int4_awq", "awq_g64": "int4_awq", "awq_g128": "int4_awq",
    "gptq_sym": "int4_wo", "gptq_sym_g128": "int4_wo", "gptq_asym": "int4_wo",
    "gptq_desc_act": None,
    "w4a16": "int4_wo", "w4a16_asym": "int4_wo", "w4a16_actorder": None,
    "w8a16": "int8_wo", "w8a8_dynamic": "int8_dynamic", "w8a8_static": "int8_sq",
    "fp8_static": "fp8", "fp8_dynamic": None, "block_fp8": None, "tensor_fp8": "fp8",
}  # fmt: skip


def logits(
    model: Path, output: Path, prompt: Sequence[int], **options: Any
) -> npt.NDArray[np.float32]:
    """Builds a checkpoint and returns the logits of every position of a prompt."""
    build(plan_build(BuildRequest(model=model, output=output, **{**LIMITS, **options})))
    params = SamplingParams(max_tokens=1, ignore_eos=True, return_context_logits=True)
    with LLM(output) as llm:
        found = llm.generate(list(prompt), params).context_logits
    assert found is not None
    return found


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    drawn: list[int] = np.random.default_rng(5).integers(320, size=75).tolist()
    return drawn


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_smoothing_is_undone_by_what_computes_the_input(
    family: str, algorithm: str, reference: Reference, prompt: list[int], tmp_path: Path
) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", family)
    plain = shutil.copytree(model, tmp_path / "plain")
    meant = store_smoothed(model, algorithm)
    tensors, dtypes = read_tensors(plain / "model.safetensors")
    write_safetensors(plain / "model.safetensors", tensors | meant, dtypes)
    expected = reference(plain, prompt)
    exact = logits(model, tmp_path / "exact", prompt, dtype="float32", qformat="none")
    check_logits(exact, expected, RANDOM_WEIGHTS["float32"])
    qformat = ALGORITHMS[algorithm]
    for tp_size in (1, 2):
        if tp_size == 2 and qformat.endswith("_awq"):
            continue  # a rank's share of these widths is not whole blocks
        kept = logits(model, tmp_path / f"kept{tp_size}", prompt, tp_size=tp_size)
        check_logits(kept, expected, OF_CODES[qformat])


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_codes_of_every_format(kind: str, prompt: list[int], tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "qwen2")
    twin = tmp_path / "twin"
    quantize_checkpoint(model, kind, twin=twin)
    expected = logits(twin, tmp_path / "reference", prompt, dtype="float32")
    exact = logits(model, tmp_path / "exact", prompt, dtype="float32", qformat="none")
    assert np.array_equal(exact, expected)
    qformat = KEPT[kind]
    if qformat is None:
        return
    planned = plan_build(BuildRequest(model=model))
    assert planned.options.qformat == qformat
    assert not any("stored" in note for note in planned.notes)
    # One token takes other kernels than many; both must read the codes alike.
    kept = logits(model, tmp_path / "kept", prompt)
    check_logits(kept, expected, OF_CODES[qformat])
    first = logits(model, tmp_path / "first", prompt[:3])
    check_logits(first, expected[:3], OF_CODES[qformat])


@pytest.mark.parametrize("kind", [kind for kind, name in KEPT.items() if "int4" in str(name)])
def test_int4_codes_are_kept_beside_int8_activations(
    kind: str, prompt: list[int], tmp_path: Path
) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "qwen2")
    twin = tmp_path / "twin"
    quantize_checkpoint(model, kind, twin=twin)
    expected = logits(twin, tmp_path / "reference", prompt, dtype="float32")
    planned = plan_build(BuildRequest(model=model, qformat="w4a8_dynamic"))
    assert planned.notes == ()
    kept = logits(model, tmp_path / "kept", prompt, qformat="w4a8_dynamic")
    check_logits(kept, expected, OF_CODES["w4a8_dynamic"])
    # One token takes other kernels than many; sums are exact in both.
    first = logits(model, tmp_path / "first", prompt[:3], qformat="w4a8_dynamic")
    assert np.array_equal(first, kept[:3])


def test_every_format_is_decided() -> None:
    assert KEPT.keys() == KINDS.keys()
