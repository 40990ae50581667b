# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak_s", type=float, default=180, help="of test_triton_soak (180)")
    parser.addoption("--soak_record", type=Path, help="file for its counts and memory")


DEMO = Path(__file__).parents[2] / "examples" / "demo"

Reference = Callable[[Path, Sequence[int]], npt.NDArray[np.float32]]


@pytest.fixture(scope="session")
def demo() -> Path:
    """The demo checkpoint."""
    return DEMO


@pytest.fixture(scope="session")
def reference() -> Reference:
    """Logits of transformers in float32 for (checkpoint, token ids); float32 [tokens, vocab]."""
    import torch
    from transformers import AutoModelForCausalLM

    def logits(checkpoint: Path, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        model = AutoModelForCausalLM.from_pretrained(  # in evaluation mode
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.inference_mode():
            result: npt.NDArray[np.float32] = (
                model(torch.tensor([list(token_ids)])).logits[0].numpy()
            )
        return result

    return logits
