# SPDX-License-Identifier: Apache-2.0
"""Quantised checkpoints: scales measured on text, weights as codes, for us and for other engines.

Everything that can be refused is refused before torch is loaded, which takes longer than the
checks.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enginery.builder.build import TOKENIZER_FILES
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.config import ModelConfig, read_config
from enginery.builder.checkpoint.expected import check_tensors
from enginery.builder.checkpoint.imports.values import VALUE_DTYPES
from enginery.builder.engine.calibration_record import (
    CALIBRATION_FILE,
    CALIBRATION_KIND,
    is_calibrated_checkpoint,
)
from enginery.builder.engine.description import checkpoint_identity
from enginery.builder.engine.directory import EngineDirectory, OutputKind, check_output
from enginery.builder.errors import CheckpointError, OptionError, Problems
from enginery.builder.exclusion import excluded_weights, linear_nodes
from enginery.builder.models.decoder import EMBEDDING, LM_HEAD, build_decoder
from enginery.builder.packages import package_version
from enginery.missing_calibration import TEXT_FILE, calibration_text
from enginery.quantization import INT4_BLOCK, INT4_BLOCKS
from enginery.quantization.calibration import calibrate, check_installed
from enginery.quantization.calibration_data import CalibrationData, read_calibration_data
from enginery.quantization.calibration_formats import CALIBRATION_FORMATS, KV_CACHE_FORMATS
from enginery.quantization.calibration_job import CalibrationJob, Progress, no_progress

TOKENIZER_EXTRAS = ("tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt")
CALIBRATED_CHECKPOINT = OutputKind("a calibrated checkpoint", is_calibrated_checkpoint)
DEVICES = ("auto", "cpu", "cuda")
PIECE_ITEMS = 4 << 20
MAX_COUNT = (1 << 31) - 1


@dataclass(frozen=True)
class QuantizeRequest:
    """The options as given.

    Attributes:
        model: directory of a checkpoint that is not quantised.
        output: directory of the checkpoint to write.
        qformat: a key of `enginery.quantization.calibration_formats.CALIBRATION_FORMATS`.
        kv_cache_dtype: "fp8" or "int8" adds scales of keys and values, "auto" none.
        calib_dataset: text, JSON lines or a folder; None is `calibration.txt` of the checkpoint.
        calib_size: windows of it; None is the format's default.
        calib_max_seq_length: tokens of a window.
        batch_size: windows in one forward pass.
        seed: of the choice of windows.
        exclude_modules: patterns of linear modules that stay as they are.
        awq_block_size: inputs that share a scale of INT4 weights, one of `INT4_BLOCKS`; None is
            128. For formats of INT4 weights alone.
        device: "auto", "cpu" or "cuda".
        overwrite: whether a calibrated checkpoint that is there may be replaced.
    """

    model: Path
    output: Path
    qformat: str
    kv_cache_dtype: str = "auto"
    calib_dataset: Path | None = None
    calib_size: int | None = None
    calib_max_seq_length: int = 512
    batch_size: int = 8
    seed: int = 0
    exclude_modules: tuple[str, ...] = ()
    awq_block_size: int | None = None
    device: str = "auto"
    overwrite: bool = False

    @property
    def block_size(self) -> int:
        """Inputs that share a scale of INT4 weights."""
        return self.awq_block_size or INT4_BLOCK

    @property
    def reads_data(self) -> bool:
        """Whether anything is measured on text."""
        return CALIBRATION_FORMATS[self.qformat].reads_data or self.kv_cache_dtype != "auto"


@dataclass(frozen=True)
class PlannedQuantization:
    """What is decided and checked before torch is loaded.

    Attributes:
        request: what was asked for.
        data: what is read; None where nothing is measured.
        excluded: names of the modules that stay as they are.
        stored_dtypes: of the checkpoint's tensors.
        weight_files: of the checkpoint.
        notes: for the user.
    """

    request: QuantizeRequest
    data: CalibrationData | None
    excluded: tuple[str, ...]
    stored_dtypes: Mapping[str, str]
    weight_files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class QuantizeSummary:
    """What a calibration gave.

    Attributes:
        output: the directory.
        weight_bytes: of its weight files.
        record: the content of its `calibration.json`.
    """

    output: Path
    weight_bytes: int
    record: Mapping[str, Any]


def plan_quantization(request: QuantizeRequest) -> PlannedQuantization:
    """Checks options, checkpoint, calibration set and output.

    Raises:
        BuildError: one of its subclasses, by what is wrong.
        CalibrationError: likewise of the calibration set, or a package is not installed.
    """
    _check_options(request)
    check_installed()
    config = read_config(request.model)
    if config.stored_as is not None:
        problems = Problems(str(request.model), CheckpointError)
        problems.add("weights", "are quantised already", "give the original checkpoint")
        problems.raise_if_any()
    check_output(request.output, overwrite=request.overwrite, kind=CALIBRATED_CHECKPOINT)
    network = build_decoder(config)
    excluded = excluded_weights(network, request.exclude_modules)
    with Checkpoint(request.model) as checkpoint:
        check_tensors(checkpoint, network)
        names = [node.weight(1).name for node in linear_nodes(network)]
        quantized = [n for n in names if n not in (*excluded, LM_HEAD, EMBEDDING)]
        _check_shapes(checkpoint, quantized, request)
        _check_finite(checkpoint)
        dtypes = {name: info.dtype for name, info in checkpoint.tensors.items()}
        files = tuple(checkpoint.files)
    data, notes = _read_data(request, config)
    modules = tuple(sorted(name.removesuffix(".weight") for name in excluded))
    return PlannedQuantization(request, data, modules, dtypes, files, notes)


def quantize(
    planned: PlannedQuantization, progress: Progress = no_progress, *, is_verbose: bool = False
) -> QuantizeSummary:
    """Calibrates and writes the checkpoint.

    Args:
        planned: from `plan_quantization`.
        progress: called after each batch.
        is_verbose: let ModelOpt and transformers write to standard error.

    Raises:
        CalibrationError: the device is missing, or its memory does not suffice.
        OSError: a file cannot be read or written.
    """
    request = planned.request
    start = time.monotonic()
    job = CalibrationJob(
        model=request.model,
        qformat=request.qformat,
        kv_cache_dtype=request.kv_cache_dtype,
        excluded=planned.excluded,
        stored_dtypes=planned.stored_dtypes,
        device=request.device,
        batch_size=request.batch_size,
        seed=request.seed,
        block_size=request.block_size,
    )
    with EngineDirectory(
        request.output, overwrite=request.overwrite, kind=CALIBRATED_CHECKPOINT
    ) as directory:
        device = calibrate(job, planned.data, directory.path, progress, is_verbose=is_verbose)
        for name in (*TOKENIZER_FILES, *TOKENIZER_EXTRAS):
            if (request.model / name).exists():
                shutil.copyfile(request.model / name, directory.path / name)
        record = _record(planned, device, time.monotonic() - start)
        directory.write_json(CALIBRATION_FILE, record)
        weight_bytes = sum(file.stat().st_size for file in directory.path.glob("*.safetensors"))
        directory.commit()
    return QuantizeSummary(directory.output, weight_bytes, record)


def _check_options(request: QuantizeRequest) -> None:
    problems = Problems("options", OptionError)
    choices = (
        ("qformat", request.qformat, tuple(CALIBRATION_FORMATS)),
        ("kv_cache_dtype", request.kv_cache_dtype, KV_CACHE_FORMATS),
        ("device", request.device, DEVICES),
    )
    for name, given, accepted in choices:
        if given not in accepted:
            problems.add(name, f"{given!r} is not one of {', '.join(accepted)}")
    counts = (
        ("calib_size", request.calib_size, 1),
        ("calib_max_seq_length", request.calib_max_seq_length, 1),
        ("batch_size", request.batch_size, 1),
        ("seed", request.seed, 0),
    )
    for name, value, least in counts:
        if value is not None and not least <= value <= MAX_COUNT:
            problems.add(name, f"{value} is not from {least} to {MAX_COUNT}")
    if (request.qformat, request.kv_cache_dtype) == ("none", "auto"):
        problems.add(
            "qformat", "'none' beside kv_cache_dtype 'auto' leaves nothing to do", "choose one"
        )
    if request.awq_block_size is not None:
        with_blocks = [form.name for form in CALIBRATION_FORMATS.values() if form.has_blocks]
        if request.awq_block_size not in INT4_BLOCKS:
            sizes = ", ".join(map(str, INT4_BLOCKS))
            problems.add("awq_block_size", f"{request.awq_block_size} is not one of {sizes}")
        elif request.qformat not in with_blocks:
            problems.add(
                "awq_block_size",
                f"is given beside qformat {request.qformat}, whose weights have a scale per row or "
                "tensor",
                f"leave it out, or choose --qformat {', '.join(with_blocks)}",
            )
    problems.raise_if_any()


def _check_shapes(checkpoint: Checkpoint, names: list[str], request: QuantizeRequest) -> None:
    """Checks that blocks of weights fit the layers that are quantised."""
    if not CALIBRATION_FORMATS[request.qformat].has_blocks:
        return
    problems = Problems(str(checkpoint.directory), CheckpointError)
    for name in names:
        rows, columns = checkpoint.tensors[name].shape
        if columns % request.block_size or rows % 2:
            problems.add(
                name.removesuffix(".weight"),
                f"is {rows} x {columns}; {request.qformat} takes an even number of rows, and "
                f"blocks of {request.block_size} inputs",
                "give --exclude_modules for it, or another --qformat",
            )
    problems.raise_if_any()


def _check_finite(checkpoint: Checkpoint) -> None:
    """Refuses weights with values that would spoil every statistic after them."""
    problems = Problems(str(checkpoint.directory), CheckpointError)
    for name, info in checkpoint.tensors.items():
        if info.dtype not in VALUE_DTYPES or not info.shape:
            continue
        step = max(1, PIECE_ITEMS // max(1, int(np.prod(info.shape[1:]))))
        pieces = (slice(begin, begin + step) for begin in range(0, info.shape[0], step))
        if not all(np.isfinite(checkpoint.read_float32(name, rows)).all() for rows in pieces):
            problems.add(name, "has values that are NaN or infinite", "give a sound checkpoint")
    problems.raise_if_any()


def _read_data(
    request: QuantizeRequest, config: ModelConfig
) -> tuple[CalibrationData | None, tuple[str, ...]]:
    if not request.reads_data:
        reason = f"qformat {request.qformat} measures nothing"
        unread = (f"the calibration set is not read: {reason}",) if request.calib_dataset else ()
        return None, unread
    path = request.calib_dataset or calibration_text(request.model)
    if path is None:
        problems = Problems("options", OptionError)
        problems.add(
            "calib_dataset",
            f"is not given, and {request.model} has no {TEXT_FILE}",
            "give --calib_dataset a UTF-8 text like what the model will read, JSON lines, or a "
            "folder of such files",
        )
        problems.raise_if_any()
    assert path is not None
    wanted = request.calib_size or CALIBRATION_FORMATS[request.qformat].default_size
    data = read_calibration_data(
        path,
        request.model,
        num_windows=wanted,
        max_seq_length=request.calib_max_seq_length,
        max_position_embeddings=config.max_position_embeddings,
        vocab_size=config.vocab_size,
        seed=request.seed,
    )
    if data.num_available >= wanted:
        return data, ()
    length = request.calib_max_seq_length
    windows = f"{path} has {data.num_available} windows of at most {length} tokens"
    return data, (f"{windows}, fewer than the {wanted} of calib_size: all are taken",)


def _record(planned: PlannedQuantization, device: str, seconds: float) -> dict[str, Any]:
    """The content of `calibration.json`."""
    request, data = planned.request, planned.data
    form = CALIBRATION_FORMATS[request.qformat]
    measured = {
        "dataset": None if data is None else {"name": data.name, "sha256": data.sha256},
        "num_samples": 0 if data is None else len(data.windows),
        "num_tokens": 0 if data is None else data.num_tokens,
    }
    packages = {"modelopt": "nvidia-modelopt", "torch": "torch", "transformers": "transformers"}
    return {
        "kind": CALIBRATION_KIND,
        "qformat": request.qformat,
        "kv_cache_dtype": request.kv_cache_dtype,
        "exclude_modules": list(planned.excluded),
        **({"block_size": request.block_size} if form.has_blocks else {}),
        **measured,
        "max_seq_length": request.calib_max_seq_length,
        "batch_size": request.batch_size,
        "seed": request.seed,
        "device": device,
        "seconds": round(seconds, 3),
        "versions": {
            "enginery": importlib.metadata.version("enginery"),
            **{name: package_version(package) for name, package in packages.items()},
        },
        "source": checkpoint_identity(request.model, list(planned.weight_files)),
    }
