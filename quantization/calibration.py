# SPDX-License-Identifier: Apache-2.0
"""Quantises a Hugging Face checkpoint with ModelOpt by scales measured on text.

Only here torch, transformers and ModelOpt are used, which the extra `calib` installs.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from enginery.quantization.calibration_data import CalibrationData, CalibrationError
from enginery.quantization.calibration_export import export
from enginery.quantization.calibration_formats import CALIBRATION_FORMATS
from enginery.quantization.calibration_job import (
    CalibrationJob,
    CalibrationState,
    Progress,
    no_progress,
)

NEEDED_MODULES = ("torch", "transformers", "modelopt", "requests")
INSTALL = "pip install 'enginery[calib]'"
# Names of ModelOpt's configurations, and its `num_bits` of KV cache dtypes.
CONFIG_NAMES = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
    "int8_wo": "INT8_WEIGHT_ONLY_CFG",
    "int4_wo": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
}
NOTHING_QUANTIZED = {"quant_cfg": [{"quantizer_name": "*", "enable": False}], "algorithm": "max"}
KV_NUM_BITS: dict[str, int | tuple[int, int]] = {"fp8": (4, 3), "int8": 8}


def check_installed() -> None:
    """Checks, without importing them, that the packages that calibrate are there.

    Raises:
        CalibrationError: one is not.
    """
    missing = [name for name in NEEDED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise CalibrationError(
            f"calibration needs {', '.join(missing)}, not installed here (fix: {INSTALL})"
        )


def calibrate(
    job: CalibrationJob,
    data: CalibrationData | None,
    output: Path,
    progress: Progress = no_progress,
    *,
    is_verbose: bool = False,
) -> str:
    """Quantises a checkpoint and writes it in ModelOpt's unified Hugging Face format.

    On a CPU it computes in float32, which holds the weights exactly: matrix products of 16-bit
    floats are several times slower on most CPUs, and no more exact. Tensors that are not quantised
    are written in the dtype that they had.

    Args:
        job: what to do.
        data: what to measure on; None where the format needs none.
        output: an existing folder; gets weights, `config.json` and `hf_quant_config.json`.
        progress: called after each batch.
        is_verbose: let ModelOpt and transformers write to standard error.

    Returns:
        The device that it ran on: "cpu" or "cuda".

    Raises:
        CalibrationError: a package is missing, the device is, or its memory does not suffice.
    """
    check_installed()
    with _chatter(is_verbose):
        import torch

        device = _resolve_device(job.device, torch.cuda.is_available())
        try:
            with torch.inference_mode():
                model = _load(job, device)
                _quantize(model, job, data, device, progress)
                export(model, job, output)
        except torch.OutOfMemoryError as error:
            raise CalibrationError(
                f"device: the memory of {device} does not suffice: {error} (give a smaller "
                "--batch_size or --calib_max_seq_length, or --device cpu)"
            ) from None
    return device


@contextlib.contextmanager
def _chatter(is_verbose: bool) -> Iterator[None]:
    """Keeps what ModelOpt and transformers print off standard output, and off all where quiet."""
    if is_verbose:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _resolve_device(device: str, has_cuda: bool) -> str:
    if device == "cuda" and not has_cuda:
        raise CalibrationError("device: torch finds no CUDA GPU (give --device cpu)")
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    return device


def _load(job: CalibrationJob, device: str) -> Any:
    import torch
    import transformers

    logging: Any = transformers.logging
    verbosity = logging.get_verbosity()
    shows_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(job.seed)
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            job.model,
            dtype=torch.float32 if device == "cpu" else "auto",
            local_files_only=True,
            trust_remote_code=False,
        )
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
    return model.eval().to(device)


def modelopt_config(job: CalibrationJob) -> Any:
    """The configuration that ModelOpt quantises by: a list of entries, of which the last counts."""
    import modelopt.torch.quantization as mtq

    name = CONFIG_NAMES.get(job.qformat)
    config: Any = copy.deepcopy(NOTHING_QUANTIZED if name is None else getattr(mtq, name))
    entries = config["quant_cfg"]
    for entry in entries:
        given = entry.get("cfg") or []
        for attributes in given if isinstance(given, list) else [given]:
            if attributes.get("block_sizes"):
                attributes["block_sizes"][-1] = job.block_size
    entries += [{"quantizer_name": f"{module}.*", "enable": False} for module in job.excluded]
    if job.kv_cache_dtype != "auto":
        bits = {"num_bits": KV_NUM_BITS[job.kv_cache_dtype], "axis": None}
        entries.append({"quantizer_name": "*[kv]_bmm_quantizer", "cfg": bits, "enable": True})
    return config


def _quantize(
    model: Any,
    job: CalibrationJob,
    data: CalibrationData | None,
    device: str,
    progress: Progress,
) -> None:
    import modelopt.torch.quantization as mtq
    import torch

    form = CALIBRATION_FORMATS[job.qformat]
    config = modelopt_config(job)
    if data is None:
        mtq.quantize(model, config)
        _fill_empty_ranges(model)
        return
    costs, total = form.pass_costs, sum(form.pass_costs)
    starts: list[float] = []

    def forward_loop(quantized: Any) -> None:
        starts.append(time.monotonic())
        index = len(starts) - 1
        samples = tokens = 0
        for batch in data.batches(job.batch_size):
            # Logits of one position: the output projection is not quantised.
            quantized(torch.from_numpy(batch).to(device), use_cache=False, logits_to_keep=1)
            samples, tokens = samples + len(batch), tokens + batch.size
            spent = sum(costs[:index]) + costs[index] * tokens / data.num_tokens
            now = time.monotonic()
            progress(
                CalibrationState(
                    pass_index=index,
                    num_passes=len(costs),
                    num_samples=samples,
                    all_samples=len(data.windows),
                    share=spent / total,
                    seconds=now - starts[0],
                    tokens_per_second=tokens / max(now - starts[index], 1e-9),
                )
            )

    mtq.quantize(model, config, forward_loop)
    _fill_empty_ranges(model)


def _fill_empty_ranges(model: Any) -> None:
    """Gives tensors that are zeros a range: a scale of 0 makes codes of them that are NaN."""
    for module in model.modules():
        amax = getattr(module, "_amax", None)
        if amax is not None:
            amax[amax == 0] = 1
