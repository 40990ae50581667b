# SPDX-License-Identifier: Apache-2.0
"""What a calibration is asked to do, and what it tells of how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CalibrationState:
    """How far a calibration is.

    Attributes:
        pass_index, num_passes: which reading of the data it is, from 0, and of how many.
        num_samples, all_samples: windows of this pass that are done, and windows of a pass.
        share: of all the work, above 0 and at most 1.
        seconds: since the first pass began.
        tokens_per_second: of this pass so far.
    """

    pass_index: int
    num_passes: int
    num_samples: int
    all_samples: int
    share: float
    seconds: float
    tokens_per_second: float


Progress = Callable[[CalibrationState], None]


def no_progress(state: CalibrationState) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class CalibrationJob:
    """What to do with a checkpoint that has been checked.

    Attributes:
        model: its directory.
        qformat: a key of `CALIBRATION_FORMATS`.
        kv_cache_dtype: one of `KV_CACHE_FORMATS`.
        excluded: names of linear modules that stay as they are.
        stored_dtypes: dtype of each tensor of the checkpoint in safetensors' words; what is not
            quantised keeps it.
        device: "auto", "cpu" or "cuda".
        batch_size: windows in one forward pass.
        seed: of torch; nothing is drawn at present.
        block_size: inputs that share a scale, of formats whose weights are INT4.
    """

    model: Path
    qformat: str
    kv_cache_dtype: str
    excluded: Sequence[str]
    stored_dtypes: Mapping[str, str]
    device: str
    batch_size: int
    seed: int
    block_size: int
