# SPDX-License-Identifier: Apache-2.0
"""Gives every side the same random checkpoint in its own form."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.run import driver_environment
from benchmarks.peers.sides import (
    GGUF_TYPES,
    QFORMATS,
    ROOT,
    Launch,
    checkpoint_path,
    engine_path,
    gguf_path,
    openvino_path,
    venv_python,
    vllm_path,
)
from benchmarks.peers.workload import MAX_SEQ_LEN
from benchmarks.random_checkpoint import write_random_checkpoint

OPENVINO_WEIGHTS = {
    "bf16": ["--weight-format", "fp16"],
    "int8": ["--weight-format", "int8"],
    "int4": ["--weight-format", "int4", "--sym", "--group-size", "128", "--ratio", "1.0"],
}


def convert(args: argparse.Namespace) -> int:
    """Writes what is missing; 1 when something could not be written, else 0."""
    work_dir = args.work_dir.resolve()
    num_failed = 0
    for shape in args.shape:
        checkpoint = checkpoint_path(shape, work_dir)
        if not (checkpoint / "config.json").is_file():
            write_random_checkpoint(shape, checkpoint)
        for precision in args.precision:
            for name in args.sides:
                path_of, write = CONVERTERS[name]
                output = path_of(shape, precision, work_dir)
                try:
                    if args.overwrite and output != checkpoint:
                        remove(output)
                    if not output.exists():
                        write(shape, precision, work_dir)
                    print(f"{output.name}: ready", flush=True)
                except subprocess.CalledProcessError as error:
                    num_failed += 1
                    print(f"{output.name}: failed: {error}", file=sys.stderr, flush=True)
    return 1 if num_failed else 0


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _enginery(shape: str, precision: str, work_dir: Path) -> None:
    output = engine_path(shape, precision, work_dir)
    command = [
        str(Path(sys.executable).with_name("build-engine")),
        *("--model", str(checkpoint_path(shape, work_dir)), "--output", str(output)),
        *("--qformat", QFORMATS[precision], "--max_seq_len", str(MAX_SEQ_LEN)),
        *("--log_level", "error"),
    ]
    subprocess.run(command, check=True)


def _llama_cpp(shape: str, precision: str, work_dir: Path) -> None:
    unquantized = gguf_path(shape, "bf16", work_dir)
    if not unquantized.is_file():
        checkpoint = checkpoint_path(shape, work_dir)
        _run_module("llama_cpp", "gguf_file", [str(checkpoint), str(unquantized)], work_dir)
    if precision != "bf16":
        output = gguf_path(shape, precision, work_dir)
        part = output.with_suffix(".part")
        quantize = work_dir / "llama_cpp-native" / "bin" / "llama-quantize"
        command = [str(quantize), str(unquantized), str(part), GGUF_TYPES[precision]]
        subprocess.run(command, check=True, capture_output=True)
        part.rename(output)


def _openvino(shape: str, precision: str, work_dir: Path) -> None:
    output = openvino_path(shape, precision, work_dir)
    part = output.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    python = venv_python(work_dir, "openvino_convert")
    command = [
        *(str(python.with_name("optimum-cli")), "export", "openvino"),
        *("--model", str(checkpoint_path(shape, work_dir)), "--task", "text-generation-with-past"),
        *(*OPENVINO_WEIGHTS[precision], str(part)),
    ]
    # It looks for its tokenizer converter beside its interpreter.
    env = {"HF_HUB_OFFLINE": "1"}
    launch = Launch(python, "", output, env=env)
    subprocess.run(command, check=True, env=driver_environment(launch, 2, work_dir), cwd=work_dir)
    part.rename(output)


def _vllm(shape: str, precision: str, work_dir: Path) -> None:
    output = vllm_path(shape, precision, work_dir)
    part = output.with_suffix(".part")
    arguments = [str(checkpoint_path(shape, work_dir)), str(part), precision]
    _run_module("vllm", "compressed", arguments, work_dir)
    part.rename(output)


CONVERTERS: dict[str, tuple[Callable[[str, str, Path], Path], Callable[[str, str, Path], None]]] = {
    "enginery": (engine_path, _enginery),
    "llama.cpp": (gguf_path, _llama_cpp),
    "openvino": (openvino_path, _openvino),
    "vllm": (vllm_path, _vllm),
}


def _run_module(venv: str, module: str, arguments: list[str], work_dir: Path) -> None:
    python = venv_python(work_dir, venv)
    command = [str(python), "-m", f"benchmarks.peers.converters.{module}", *arguments]
    launch = Launch(python, module, ROOT)
    subprocess.run(command, check=True, env=driver_environment(launch, 2, work_dir), cwd=work_dir)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `convert` takes beside what all commands take."""
    parser.add_argument(
        "--sides", nargs="+", choices=[*CONVERTERS], default=[*CONVERTERS], metavar="NAME"
    )
    parser.add_argument("--overwrite", action="store_true", help="write again what is there")
