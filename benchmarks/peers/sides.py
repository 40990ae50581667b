# SPDX-License-Identifier: Apache-2.0
"""Which sides are compared, and how each one's driver is started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ("qwen2.5-0.5b", "tinyllama-1.1b")
PRECISIONS = ("int8", "bf16", "int4")
ISAS = ("native", "avx2")
QFORMATS = {"bf16": "none", "int8": "int8_dynamic", "int4": "w4a8_dynamic"}
GGUF_TYPES = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}


@dataclass(frozen=True)
class Case:
    """What one sample is of."""

    shape: str
    precision: str
    num_threads: int
    isa: str
    quick: bool = False
    """A fraction of the work: to see that everything answers."""


@dataclass(frozen=True)
class Launch:
    """A driver's process and what its task says beside the workload."""

    python: Path
    module: str
    model: Path
    extra: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


def _enginery(case: Case, work_dir: Path) -> Launch:
    extra: dict[str, Any] = {
        "lm_head": "bfloat16" if case.precision == "bf16" else "INT8 per channel",
        "probe": str(work_dir / "first_token"),
        "isa": {"native": "auto", "avx2": "avx2"}[case.isa],
    }
    return Launch(
        Path(sys.executable),
        "enginery",
        engine_path(case.shape, case.precision, work_dir),
        extra,
        {"ENGINERY_ISA": extra["isa"]},
    )


def _llama_cpp(case: Case, work_dir: Path) -> Launch:
    lm_head = {"bf16": "BF16", "int8": "Q8_0"}.get(case.precision, "Q6_K, or Q8_0 where it must")
    return Launch(
        venv_python(work_dir, "llama_cpp"),
        "llama_cpp",
        gguf_path(case.shape, case.precision, work_dir),
        {"lm_head": lm_head},
        {"LLAMA_CPP_LIB_PATH": str(work_dir / f"llama_cpp-{case.isa}" / "bin")},
    )


def _openvino(case: Case, work_dir: Path) -> Launch:
    return Launch(
        venv_python(work_dir, "openvino"),
        "openvino",
        openvino_path(case.shape, case.precision, work_dir),
        {"lm_head": "bfloat16" if case.precision == "bf16" else "INT8 per channel"},
    )


def _vllm(case: Case, work_dir: Path) -> Launch:
    venv = work_dir / "venv" / "vllm"
    preload = [*(work_dir / "tcmalloc").rglob("libtcmalloc_minimal.so.4")]
    preload += venv.glob("lib/libiomp5.so")
    return Launch(
        venv_python(work_dir, "vllm"),
        "vllm",
        vllm_path(case.shape, case.precision, work_dir),
        env={
            "HF_HUB_OFFLINE": "1",
            "LD_PRELOAD": ":".join(str(path) for path in preload),
            "VLLM_CACHE_ROOT": str(work_dir / "vllm_cache"),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(i) for i in range(case.num_threads)),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
        },
    )


SIDES: dict[str, Callable[[Case, Path], Launch]] = {
    "enginery": _enginery,
    "llama.cpp": _llama_cpp,
    "openvino": _openvino,
    "vllm": _vllm,
}
"""Ours first; the peers follow."""

AVX2_SIDES = ("enginery", "llama.cpp")
"""Those that can be held to AVX2: the others choose their kernels themselves."""


def venv_python(work_dir: Path, name: str) -> Path:
    """The interpreter of a peer's environment."""
    return work_dir / "venv" / name / "bin" / "python"


def checkpoint_path(shape: str, work_dir: Path) -> Path:
    """The random checkpoint: a folder."""
    return work_dir / "models" / shape


def engine_path(shape: str, precision: str, work_dir: Path) -> Path:
    """Our engine: a folder."""
    return work_dir / "models" / f"{shape}-{precision}.engine"


def gguf_path(shape: str, precision: str, work_dir: Path) -> Path:
    """llama.cpp's file."""
    return work_dir / "models" / f"{shape}-{GGUF_TYPES[precision].lower()}.gguf"


def openvino_path(shape: str, precision: str, work_dir: Path) -> Path:
    """OpenVINO's folder."""
    return work_dir / "models" / f"{shape}-{precision}.openvino"


def vllm_path(shape: str, precision: str, work_dir: Path) -> Path:
    """VLLM's folder: the checkpoint itself for bf16."""
    if precision == "bf16":
        return checkpoint_path(shape, work_dir)
    return work_dir / "models" / f"{shape}-{precision}.vllm"
