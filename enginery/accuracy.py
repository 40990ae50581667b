# SPDX-License-Identifier: Apache-2.0
"""What quantisation costs, measured before an engine is served: the accuracy gate of a build.

The new engine and the unquantised reference, an engine for cpu of the same checkpoint, read the
same held-out text teacher-forced: each position predicts the text's next token, whatever either
would have said before. An engine for GPUs runs emulated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.build import PlannedBuild, build, plan_build
from enginery.builder.errors import OptionError, Problem
from enginery.builder.options import BuildRequest
from enginery.llm import LLM
from enginery.runtime.sampling_params import SamplingParams
from enginery.runtime.tokenizer import Tokenizer

FloatArray = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

ACCURACY_FILE = "accuracy.json"
TEXT_FILE = "heldout.txt"
WINDOW = 512
MAX_TOKENS = 8192
# Logits of a window are there twice; a large vocabulary gets a shorter one.
WINDOW_BYTES = 128 << 20
ROWS_AT_ONCE = 64


class AccuracyError(Exception):
    """The engine is further from its reference than the build allows.

    Attributes:
        report: what was measured.
    """

    def __init__(self, message: str, report: AccuracyReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class AccuracyReport:
    """An engine beside its reference on one text.

    Attributes:
        perplexity, reference_perplexity: exp of the mean negative log-likelihood of the text.
        perplexity_increase: the first over the second, less 1.
        kl_divergence_mean, kl_divergence_p99: of the engine's next-token distribution from the
            reference's, in nats, over positions: mean and 99th percentile.
        top1_agreement: share of positions at which both would say the same token.
        num_tokens: predicted tokens.
        window: tokens of a piece of the text; each piece is read after a begin-of-text token alone.
        text: name and SHA-256 of the text.
        engine, reference: what they are: target, dtype, qformat and kv_cache_dtype.
    """

    perplexity: float
    reference_perplexity: float
    perplexity_increase: float
    kl_divergence_mean: float
    kl_divergence_p99: float
    top1_agreement: float
    num_tokens: int
    window: int
    text: dict[str, str]
    engine: dict[str, str]
    reference: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The attributes by name."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """The figures as lines for a person."""
        return "\n".join(
            [
                f"Accuracy on {self.text['name']} ({self.num_tokens} tokens)",
                (
                    f"  perplexity      {self.perplexity:.4f}, of the reference "
                    f"({self.reference['dtype']}) {self.reference_perplexity:.4f}: "
                    f"{self.perplexity_increase:+.2%}"
                ),
                (
                    f"  KL divergence   mean {self.kl_divergence_mean:.5f} nats, "
                    f"99th percentile {self.kl_divergence_p99:.5f}"
                ),
                f"  top-1 agreement {self.top1_agreement:.2%}",
            ]
        )


@dataclass(frozen=True)
class Gate:
    """What a build may lose; None: whatever it is.

    Attributes:
        max_perplexity_increase: 0.01 is one percent.
        min_top1_agreement: 0.99 is 99 percent.
    """

    max_perplexity_increase: float | None = None
    min_top1_agreement: float | None = None

    def check(self, report: AccuracyReport) -> None:
        """Raises AccuracyError with everything that is missed."""
        missed = []
        limit = self.max_perplexity_increase
        if limit is not None and not report.perplexity_increase <= limit:
            missed.append(
                f"perplexity rose by {report.perplexity_increase:.2%}; {limit:.2%} is allowed"
            )
        limit = self.min_top1_agreement
        if limit is not None and not report.top1_agreement >= limit:
            missed.append(
                f"top-1 agreement is {report.top1_agreement:.2%}; {limit:.2%} is the least"
            )
        if missed:
            raise AccuracyError("; ".join(missed), report)


def held_out_text(given: Path | None, model: Path) -> Path:
    """The text to measure on: the one that was given, or the checkpoint's own.

    Raises:
        OptionError: there is none.
    """
    path = given or model / TEXT_FILE
    if path.is_file():
        return path
    reason = "is not a file" if given else f"takes a text; {model} has no {TEXT_FILE}"
    fix = "give a UTF-8 text that the model was not trained on"
    raise OptionError("options", [Problem("accuracy_check", f"{path}: {reason}", fix)])


def examine(
    planned: PlannedBuild, text: Path, gate: Gate, progress: Progress, output: Path
) -> AccuracyReport:
    """Measures an engine that was just written and leaves accuracy.json in its directory.

    Args:
        planned: how it was built.
        text: see `held_out_text`.
        gate: what it may lose.
        progress: called with windows done and in all.
        output: its directory.

    Raises:
        AccuracyError: it lost more.
        OptionError: the text is too short.
    """
    with tempfile.TemporaryDirectory(prefix="enginery-reference-") as folder:
        reference = Path(folder) / "engine"
        build(plan_build(_reference_request(planned, reference)))
        report = compare(output, reference, text, progress, sku=planned.skus[0].name)
    gate.check(report)
    (output / ACCURACY_FILE).write_text(
        json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8"
    )
    return report


def check_reference(planned: PlannedBuild) -> None:
    """Checks, before anything is built, that the checkpoint can be built unquantised too.

    Raises:
        CheckpointError: its weights are quantised already.
    """
    plan_build(_reference_request(planned))


def _reference_request(planned: PlannedBuild, output: Path | None = None) -> BuildRequest:
    """The same checkpoint, nothing quantised."""
    dtype = planned.options.dtype
    return BuildRequest(
        model=planned.request.model,
        output=output,
        dtype="float32" if dtype == "float16" else dtype,
        max_seq_len=planned.options.max_seq_len,
        max_batch_size=1,
    )


def compare(
    engine: Path, reference: Path, text: Path, progress: Progress, sku: str = "cpu"
) -> AccuracyReport:
    """Runs two engines of one model over a text.

    Args:
        engine: directory of the engine in question.
        reference: directory of the engine that it is compared with.
        text: UTF-8.
        progress: called with windows done and in all.
        sku: which of the engine's SKUs runs, emulated where it is a GPU.

    Raises:
        OptionError: the text has fewer than two tokens.
    """
    content = text.read_bytes()
    token_ids = Tokenizer(reference).encode(content.decode("utf-8"), add_special_tokens=False)
    token_ids = token_ids[:MAX_TOKENS]
    is_emulated = sku != "cpu"
    ours_on = LLM(engine, emulate=is_emulated, sku=sku if is_emulated else None)
    with ours_on as ours, LLM(reference) as theirs:
        info = theirs.engine.info
        of_memory = WINDOW_BYTES // (4 * info.vocab_size)
        window = max(1, min(WINDOW, of_memory, info.max_input_len - 1, info.max_seq_len - 2))
        windows = list(pieces(token_ids, window, info.bos_token_id))
        if not windows:
            problem = Problem("accuracy_check", f"{text}: has {len(token_ids)} tokens; give more")
            raise OptionError("options", [problem])
        rows = []
        for done, (prompt, targets) in enumerate(windows):
            progress(done, len(windows))
            got, expected = (_logits(llm, prompt, len(targets)) for llm in (ours, theirs))
            rows.append(_compare_rows(got, expected, np.asarray(targets)))
        progress(len(windows), len(windows))
        engines = [_describe_engine(llm) for llm in (ours, theirs)]
    nll, reference_nll, divergence, agrees = map(np.concatenate, zip(*rows, strict=True))
    perplexity, reference_perplexity = math.exp(nll.mean()), math.exp(reference_nll.mean())
    return AccuracyReport(
        perplexity=perplexity,
        reference_perplexity=reference_perplexity,
        perplexity_increase=perplexity / reference_perplexity - 1,
        kl_divergence_mean=float(divergence.mean()),
        kl_divergence_p99=float(np.percentile(divergence, 99)),
        top1_agreement=float(agrees.mean()),
        num_tokens=len(nll),
        window=window,
        text={"name": text.name, "sha256": hashlib.sha256(content).hexdigest()},
        engine=engines[0],
        reference=engines[1],
    )


def pieces(
    token_ids: Sequence[int], window: int, bos: int | None
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and what each of their positions should predict."""
    for begin in range(0, len(token_ids), window):
        piece = list(token_ids[begin : begin + window])
        prompt = piece[:-1] if bos is None else [bos, *piece[:-1]]
        targets = piece[len(piece) - len(prompt) :]
        if prompt:
            yield prompt, targets


def _logits(llm: LLM, prompt: list[int], num_rows: int) -> FloatArray:
    params = SamplingParams(max_tokens=1, ignore_eos=True, return_context_logits=True)
    logits = llm.generate(prompt, params).context_logits
    assert logits is not None and len(logits) == num_rows
    return logits


def _compare_rows(
    got: FloatArray, expected: FloatArray, targets: npt.NDArray[np.int_]
) -> tuple[npt.NDArray[Any], ...]:
    """Negative log-likelihoods of both, the divergence and whether they agree, `[rows]` each."""
    parts = []
    for begin in range(0, len(targets), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        ours, theirs = log_softmax(got[rows]), log_softmax(expected[rows])
        divergence = np.sum(np.exp(theirs) * (theirs - ours), axis=1)
        at = np.arange(len(ours)), targets[rows]
        agrees = ours.argmax(axis=1) == theirs.argmax(axis=1)
        parts.append((-ours[at], -theirs[at], divergence, agrees))
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Log-probabilities of rows of logits."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _describe_engine(llm: LLM) -> dict[str, str]:
    info = llm.engine.info
    return {
        "target": info.target,
        "dtype": info.dtype,
        "qformat": info.qformat,
        "kv_cache_dtype": info.kv_cache_dtype,
    }
