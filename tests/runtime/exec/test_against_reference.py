# SPDX-License-Identifier: Apache-2.0
"""The cpu executor on every instruction set against numpy running the same engine file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.runtime.errors import EngineryError
from enginery.runtime.llm import LLM
from enginery.runtime.sampling_params import SamplingParams
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engine_reader import read_engine
from tests.support.reference import ReferenceSequence
from tests.support.schemes import SCHEMES, build_engine
from tests.support.tolerances import relative_error

# The file is the same, so only roundings differ: of sums in another order, and of the operands that
# those push to the next bfloat16 (8 bits) or int8 step (1/127 of a row's largest). The reference
# does not round queries and probabilities to the cache's bfloat16.
LIMITS = {
    "float32": 1e-5,
    "bfloat16": 0.02,
    "int8_wo": 0.02,
    "int8_dynamic": 0.07,
    "w4a8_dynamic": 0.07,
    # Attention over bfloat16 pushes a few operands to the next code, a large step.
    "int8_sq": 0.13,
    "fp8": 0.13,
    "int8_sq, float32": 1e-5,
    "fp8, float32": 1e-5,
    "int4_wo": 0.02,
    # A key or value on the verge of the next code: 1/127, or a sixteenth of itself.
    "int8_kv": 0.03,
    "fp8_kv": 0.07,
}
VARIANTS: dict[str, dict[str, Any]] = {
    **{scheme: {"scheme": scheme} for scheme in SCHEMES},
    "int8_sq, float32": {"scheme": "int8_sq", "dtype": "float32"},
    "fp8, float32": {"scheme": "fp8", "dtype": "float32"},
    "int8_wo, float32": {"scheme": "int8_wo", "dtype": "float32"},
    "two ranks": {"scheme": "float32", "tp_size": 2},
    "two ranks, int8_dynamic": {"scheme": "int8_dynamic", "tp_size": 2},
}
NUM_TOKENS = 75  # over five blocks


def logits(engine: Path, isa: str, tokens: list[int]) -> npt.NDArray[np.float32]:
    params = SamplingParams(max_tokens=1, return_context_logits=True)
    with LLM(engine, isa=isa, num_threads=2) as llm:
        result = llm.generate(tokens, params).context_logits
    assert result is not None
    return result


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_instruction_set(variant: str, tmp_path: Path) -> None:
    options = dict(VARIANTS[variant])
    # Sizes that no vector width divides; blocks of INT4 are whole.
    sizes: dict[str, Any] = {"head_dim": 24, "hidden_size": 136, "intermediate_size": 328}
    if options["scheme"] == "int4_wo":
        sizes = {"head_dim": 64, "hidden_size": 128, "intermediate_size": 384}
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", "qwen3", **sizes)
    engine = build_engine(
        checkpoint,
        tmp_path / "engine",
        max_batch_size=4,
        max_num_tokens=32,
        tokens_per_block=16,
        **options,
    )
    ranks = [
        read_engine(engine / f"rank{rank}.engine") for rank in range(options.get("tp_size", 1))
    ]
    tokens: list[int] = np.random.default_rng(3).integers(300, size=NUM_TOKENS).tolist()
    expected = ReferenceSequence(*ranks).append(tokens)
    limit = LIMITS.get(variant, LIMITS[options["scheme"]])
    ran = []
    for isa in ("portable", "avx2", "avx512", "amx"):
        try:
            got = logits(engine, isa, tokens)
        except EngineryError as error:
            # This machine lacks it; portable runs anywhere.
            assert isa != "portable"
            assert "isa" in str(error)
            continue
        ran.append(isa)
        assert got.shape == expected.shape
        assert relative_error(got, expected).max() <= limit, isa
    assert "portable" in ran
