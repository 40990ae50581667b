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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.accuracy_report import AccuracyReport, Gate
from enginery.builder.build import PlannedBuild, build, plan_build
from enginery.builder.errors import OptionError, Problem
from enginery.layer_noise import measure_layers
from enginery.llm import LLM
from enginery.reference_model import (
    TOKENIZER_FILE,
    reference_identity,
    reference_request,
)
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
# Each layer alone is measured on one window: its noise hardly differs from text to text.
LAYER_WINDOW = 256
ROWS_AT_ONCE = 64


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
    planned: PlannedBuild,
    text: Path,
    gate: Gate,
    progress: Progress,
    output: Path,
    reference_model: Path | None = None,
) -> AccuracyReport:
    """Measures an engine that was just written and leaves accuracy.json in its directory.

    Args:
        planned: how it was built.
        text: see `held_out_text`.
        gate: what it may lose.
        progress: called with windows done and in all.
        output: its directory.
        reference_model: checkpoint of the unquantised weights; None: the engine's own. See
            `enginery.reference_model.check_reference`.

    Raises:
        AccuracyError: it lost more.
        OptionError: the text is too short.
    """
    with tempfile.TemporaryDirectory(prefix="enginery-reference-") as folder:
        directory = Path(folder) / "engine"
        reference = plan_build(reference_request(planned, reference_model, directory))
        build(reference)
        sku = planned.skus[0].name
        emulated = None if sku == "cpu" else sku
        report = compare(output, directory, text, progress, emulated_sku=emulated)
        token_ids = _token_ids(output, directory, text.read_bytes())
        identity = reference_identity(directory)
    bos = reference.config.bos_token_id
    window = min(report.window, LAYER_WINDOW)
    prompt, _ = next(pieces(token_ids, window, bos if bos >= 0 else None))
    report = dataclasses.replace(
        report,
        reference=report.reference | identity,
        layers=tuple(measure_layers(planned, reference, prompt)),
    )
    gate.check(report)
    (output / ACCURACY_FILE).write_text(
        json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8"
    )
    return report


def compare(
    engine: Path,
    reference: Path,
    text: Path,
    progress: Progress,
    emulated_sku: str | None = None,
) -> AccuracyReport:
    """Runs two engines of one model over a text.

    Args:
        engine: directory of the engine in question.
        reference: directory of the engine that it is compared with.
        text: UTF-8.
        progress: called with windows done and in all.
        emulated_sku: which of the engine's SKUs runs, emulated; None: the engine runs on what it
            was built for, a GPU that is there or the CPU.

    Raises:
        OptionError: the text has fewer than two tokens.
    """
    content = text.read_bytes()
    token_ids = _token_ids(engine, reference, content)
    ours_on = LLM(engine, emulate=emulated_sku is not None, sku=emulated_sku)
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


def _token_ids(engine: Path, reference: Path, content: bytes) -> list[int]:
    has_tokenizer = (reference / TOKENIZER_FILE).exists()
    tokenizer = Tokenizer(reference if has_tokenizer else engine)
    return tokenizer.encode(content.decode("utf-8"), add_special_tokens=False)[:MAX_TOKENS]


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
