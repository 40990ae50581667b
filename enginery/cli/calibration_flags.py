# SPDX-License-Identifier: Apache-2.0
"""The flags of calibration: what `enginery quantize` and `build-engine` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TextIO

from enginery.cli.progress import Progress
from enginery.quantization.calibration_formats import AWQ_SIZE, DEFAULT_SIZE
from enginery.quantization.calibration_job import CalibrationState


def add_calibration_arguments(parser: argparse.ArgumentParser, *, prefix: str) -> None:
    """Declares the flags; what is not given is None.

    Args:
        parser: of the command.
        prefix: before the names of flags that would be ambiguous beside a build's.
    """
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--calib_dataset",
        type=Path,
        metavar="FILE|DIR",
        help='text to measure activations on: UTF-8 text, JSON lines with "text" or "prompt" (and '
        '"completion"), or a folder of *.txt and *.jsonl (default: calibration.txt of the '
        "checkpoint). Take what the model will read in use",
    )
    group.add_argument(
        "--calib_size",
        type=int,
        metavar="N",
        help=f"windows of it, chosen by the seed (default: {DEFAULT_SIZE}; of the AWQ formats "
        f"{AWQ_SIZE}, as AWQ's authors take, for their search computes each a dozen times)",
    )
    group.add_argument(
        "--calib_max_seq_length",
        type=int,
        metavar="N",
        help="tokens of a window at most (default: 512)",
    )
    group.add_argument(
        f"--{prefix}batch_size",
        dest=f"{prefix}batch_size",
        type=int,
        metavar="N",
        help="windows in one forward pass, which takes memory for them all (default: 8)",
    )
    group.add_argument(
        f"--{prefix}seed", type=int, metavar="N", help="of the choice of windows (default: 0)"
    )


class CalibrationProgress(Progress):
    """A bar over the passes of a calibration.

    Args:
        stream: where to; a bar is drawn when it is a terminal.
        is_silent: show nothing.
    """

    def __init__(self, stream: TextIO, *, is_silent: bool = False) -> None:
        super().__init__(stream, verb="calibrating", is_silent=is_silent)

    def __call__(self, state: CalibrationState) -> None:
        """Tells how far it is."""
        left = state.seconds * (1 - state.share) / state.share
        parts = [
            f"{state.num_samples} of {state.all_samples} samples",
            f"{state.tokens_per_second:.0f} tokens/s",
            f"{left:.0f} s left",
        ]
        if state.num_passes > 1:
            parts.insert(0, f"pass {state.pass_index + 1} of {state.num_passes}")
        self.show("calibrating", state.share, ", ".join(parts))
