# SPDX-License-Identifier: Apache-2.0
"""The demo checkpoint as a tensorrt engine: compiled for several GPUs, run with none.

Kernels and plans are compiled here as for a user, and the engine runs emulated through the same
scheduler, KV manager and executor as on a GPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery import LLM, SamplingParams
from enginery.cli.main import main
from enginery.runtime.outputs import RequestOutput
from enginery.runtime.tokenizer import Tokenizer
from tests.e2e.conftest import Reference
from tests.support.checkpoints import write_safetensors
from tests.support.scales import LARGEST, read_tensors
from tests.support.schemes import build_engine
from tests.support.tolerances import DEMO, Tolerance, check_logits

LIMITS: dict[str, Any] = {
    "dtype": "bfloat16", "max_batch_size": 4, "max_num_tokens": 64, "max_seq_len": 256,
    "tokens_per_block": 16,
}  # fmt: skip
PROMPT_LEN = 70  # two chunks
OUTPUT_LEN = 6

# By qformat: the emulated engine against transformers in float32.
EMULATED = {
    "none": Tolerance(0.008, "GEMM results too are bfloat16 (measured: 0.0055)"),
    "fp8": Tolerance(0.055, "E4M3 keeps 4 bits of mantissa (measured: 0.040)"),
}
SAME_NUMERICS = Tolerance(0.009, "the cpu engine keeps GEMM results in float32 (measured: 0.0061)")


def run(engine: Path, prompt: Sequence[int], **options: Any) -> RequestOutput:
    params = SamplingParams(
        temperature=0.0, max_tokens=OUTPUT_LEN, ignore_eos=True, return_context_logits=True
    )
    with LLM(engine, **options) as llm:
        return llm.generate(list(prompt), params)


def context_logits(output: RequestOutput) -> npt.NDArray[np.float32]:
    assert output.context_logits is not None
    return output.context_logits


@pytest.fixture(scope="module")
def prompt(demo: Path) -> list[int]:
    text = (demo / "heldout.txt").read_text(encoding="utf-8")
    return Tokenizer(demo).encode(text[:2000])[:PROMPT_LEN]


@pytest.fixture(scope="module")
def logits(demo: Path, prompt: list[int], reference: Reference) -> npt.NDArray[np.float32]:
    return reference(demo, prompt)


@pytest.fixture(scope="module")
def calibrated(demo: Path, prompt: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint with FP8 scales of its linear layers' inputs on the prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    largest: dict[str, float] = {}
    model = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32)

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            largest[name] = float(inputs[0].abs().max())

        return hook

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(watch(name))
    with torch.inference_mode():
        model(torch.tensor([prompt]))

    directory = tmp_path_factory.mktemp("calibrated") / "demo"
    shutil.copytree(demo, directory)
    tensors, dtypes = read_tensors(directory / "model.safetensors")
    for name, amax in largest.items():
        tensors[f"{name}.input_scale"] = np.array(amax / LARGEST["fp8"], np.float32)
        dtypes[f"{name}.input_scale"] = "F32"
    write_safetensors(directory / "model.safetensors", tensors, dtypes)
    return directory


@pytest.fixture(scope="module")
def engine(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tensorrt") / "engine"
    return build_engine(demo, output, "bfloat16", sku="h200,a100,rtx4090", **LIMITS)


@pytest.fixture(scope="module")
def fp8_engine(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tensorrt") / "engine"
    return build_engine(calibrated, output, "bfloat16", sku="rtx4090", qformat="fp8", **LIMITS)


def inspect(engine: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["inspect", str(engine), "--json"]) == 0
    described: dict[str, Any] = json.loads(capsys.readouterr().out)["ranks"][0]
    return described


def test_tokens_and_logits_are_those_of_the_cpu_engine(
    engine: Path, demo: Path, prompt: list[int], logits: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    cpu = run(build_engine(demo, tmp_path / "cpu", "bfloat16", **LIMITS), prompt)
    emulated = run(engine, prompt, emulate=True, sku="h200")
    check_logits(context_logits(emulated), logits, EMULATED["none"])
    check_logits(context_logits(cpu), logits, DEMO["bfloat16"])
    check_logits(context_logits(emulated), context_logits(cpu), SAME_NUMERICS)
    assert emulated.outputs[0].token_ids == cpu.outputs[0].token_ids


def test_fp8(fp8_engine: Path, prompt: list[int], logits: npt.NDArray[np.float32]) -> None:
    emulated = run(fp8_engine, prompt, emulate=True)
    check_logits(context_logits(emulated), logits, EMULATED["fp8"])


@pytest.mark.parametrize(
    ("which", "sku", "operands"),
    [
        ("engine", "rtx4090", "bf16 x bf16"),
        ("engine", "a100", "bf16 x bf16"),
        ("fp8_engine", "rtx4090", "fp8_e4m3 x fp8_e4m3"),
    ],
)
def test_plans_multiply_what_was_asked(
    which: str, sku: str, operands: str,
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    described = inspect(request.getfixturevalue(which), capsys)
    segments = described["skus"][sku]["segments"]
    for name in ("first", "middle", "last"):
        found = segments[name]["plan"]["gemm_operands"]
        assert found and all(operand.startswith(operands) for operand in found), name
    assert segments["head"]["plan"]["gemm_operands"]


def test_kernels_do_not_spill(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sku in inspect(engine, capsys)["skus"].values():
        for name, kernel in sku["kernels"].items():
            if kernel["spec"] in ("gemm", "gemm_swiglu", "paged_attention"):
                assert kernel["spill_bytes"] == 0, name
