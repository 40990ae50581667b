# SPDX-License-Identifier: Apache-2.0
"""On what machine, with which versions and which engine a figure was measured."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

import enginery
from enginery.runtime.engine import Engine
from enginery.runtime.library import library_version


def describe_machine() -> dict[str, Any]:
    """The CPU, its cores, the memory and how busy the machine is at this moment."""
    return {
        "name": _cpu_model(),
        "architecture": platform.machine(),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory.total": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "clocks.mem": None,
        "system": f"{platform.system()} {platform.release()}",
        "load_average": list(os.getloadavg()),
    }


def describe_versions() -> dict[str, Any]:
    """What was running; `commit` is None outside a git checkout of the sources."""
    return {
        "enginery": enginery.__version__,
        "libenginery": library_version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": _git_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe_engine(engine: Engine) -> dict[str, Any]:
    """An engine in trtllm-bench's names, and what identifies its bytes."""
    info = engine.info
    directory = Path(engine.path)
    return {
        "model": info.architecture,
        "model_path": None,
        "engine_dir": str(directory.absolute()),
        "version": info.builder_version,
        "backend": info.target,
        "dtype": info.dtype,
        "kv_cache_dtype": info.kv_cache_dtype,
        "quantization": None if info.qformat == "none" else info.qformat,
        "max_input_length": info.max_input_len,
        "max_sequence_length": info.max_seq_len,
        "sku": info.sku,
        "weight_bytes": info.weight_bytes,
        "tp_size": info.tp_size,
        "kv_bytes_per_token": info.kv_bytes_per_token,
        "tokens_per_block": info.tokens_per_block,
        "identity": _identity(engine),
    }


def _identity(engine: Engine) -> str:
    """SHA-256 over the section hashes of all ranks: equal for equal programs and weights."""
    digest = hashlib.sha256()
    for rank in range(engine.info.tp_size):
        for section in engine.describe(rank)["sections"]:
            digest.update(f"{rank} {section['name']} {section['sha256']}\n".encode())
    return digest.hexdigest()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
