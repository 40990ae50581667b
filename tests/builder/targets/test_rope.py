# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies against those that transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from enginery.builder.checkpoint.config import read_config
from enginery.builder.targets.rope import inverse_frequencies, rope_scale
from tests.support.checkpoints import write_tiny_checkpoint

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
SCALINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3.1": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "llama3.2": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": YARN,
    "yarn_betas": YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
    "yarn_not_truncated": YARN | {"truncate": False},
    "yarn_attention_factor": YARN | {"attention_factor": 0.75},
    "yarn_mscale": YARN | {"mscale": 0.707, "mscale_all_dim": 1.2},
    "yarn_mscale_alone": YARN | {"mscale": 0.707},
    "yarn_qwen": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
}


@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1e6])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies(tmp_path: Path, name: str, head_dim: int, theta: float) -> None:
    write_tiny_checkpoint(
        tmp_path, "llama", rope_scaling=SCALINGS[name], rope_theta=theta, head_dim=head_dim
    )
    expected = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    rope = read_config(tmp_path).rope
    frequencies = inverse_frequencies(rope, head_dim)
    assert frequencies.dtype == np.float32 and frequencies.shape == (head_dim // 2,)
    # The two libraries' float32 powers differ in the last place (6e-8), which blending doubles
    # a few times.
    np.testing.assert_allclose(frequencies, expected.inv_freq.numpy(), rtol=1.5e-6)
    assert rope_scale(rope) == pytest.approx(expected.attention_scaling, rel=1e-12)
