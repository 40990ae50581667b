# SPDX-License-Identifier: Apache-2.0
"""The flags of a build's accuracy gate, and the measuring that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enginery.accuracy import examine, held_out_text
from enginery.accuracy_report import AccuracyReport, Gate
from enginery.builder.build import PlannedBuild
from enginery.builder.errors import OptionError, Problems
from enginery.cli.build_progress import BuildProgress
from enginery.reference_model import check_reference

CHECKPOINTS_OWN_TEXT = Path()


def add_accuracy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    group = parser.add_argument_group("accuracy")
    group.add_argument(
        "--accuracy_check",
        nargs="?",
        type=Path,
        const=CHECKPOINTS_OWN_TEXT,
        metavar="FILE",
        help="run the engine and the unquantised model over a held-out text and write "
        "accuracy.json: perplexity, KL divergence, top-1 agreement, noise of each layer (default "
        "text: heldout.txt of the checkpoint; engines for GPUs run emulated, which takes long)",
    )
    group.add_argument(
        "--reference_model",
        type=Path,
        metavar="DIR",
        help="the unquantised checkpoint to compare with, where the model is one that is quantised "
        "already (default: the model itself)",
    )
    group.add_argument(
        "--max_perplexity_increase",
        type=share,
        metavar="SHARE",
        help="write no engine whose perplexity rises by more, e.g. 1%% or 0.01",
    )
    group.add_argument(
        "--min_top1_agreement",
        type=share,
        metavar="SHARE",
        help="write no engine whose likeliest token is the model's less often, e.g. 99%% or 0.99",
    )


def share(text: str) -> float:
    """A share given as a percentage or a number.

    Raises:
        ArgumentTypeError: it is neither, or not from 0 to 1.
    """
    number, percent, rest = text.partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if rest or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 1% or 0.01")
    return value


class Examination:
    """The measuring of one build.

    Attributes:
        report: what was measured, once it was.
    """

    def __init__(self, text: Path, gate: Gate, reference_model: Path | None = None) -> None:
        self.report: AccuracyReport | None = None
        self._text = text
        self._gate = gate
        self._reference_model = reference_model

    @classmethod
    def from_options(cls, options: dict[str, Any], *, is_dry_run: bool) -> Examination | None:
        """Takes the flags out of the options of a build; None where nothing is to be measured.

        Raises:
            OptionError: limits or a reference without a check, or a check of what is not built.
        """
        text: Path | None = options.pop("accuracy_check", None)
        gate = Gate(
            options.pop("max_perplexity_increase", None), options.pop("min_top1_agreement", None)
        )
        reference_model: Path | None = options.pop("reference_model", None)
        problems = Problems("options", OptionError)
        if text is None and reference_model is not None:
            problems.add("accuracy_check", "is not given; reference_model is for it", "give it")
        if text is None and gate != Gate():
            problems.add("accuracy_check", "is not given; limits of accuracy need it", "give it")
        if text is not None and is_dry_run:
            problems.add("accuracy_check", "measures an engine; dry_run builds none", "drop one")
        problems.raise_if_any()
        return None if text is None else cls(text, gate, reference_model)

    def of(self, planned: PlannedBuild, bar: BuildProgress) -> Callable[[Path], None]:
        """What measures the engine in a directory.

        Raises:
            BuildError: there is no text, or no reference.
        """
        given = None if self._text == CHECKPOINTS_OWN_TEXT else self._text
        text = held_out_text(given, planned.request.model)
        check_reference(planned, self._reference_model)

        def watch(done: int, total: int) -> None:
            bar.show("measuring accuracy", done / total, f"{done} of {total} windows")

        def measure(output: Path) -> None:
            self.report = examine(planned, text, self._gate, watch, output, self._reference_model)

        return measure
