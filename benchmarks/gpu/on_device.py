# SPDX-License-Identifier: Apache-2.0
"""On the GPU machine: unpacks what `pack` made and runs stages on it, each in its own process.

    python -m benchmarks.gpu.on_device PAYLOAD STAGE... [--root FOLDER]

Stages, in any order and number:

    limits                what the card itself does (the others report shares of it)
    gpu_tests             tests marked gpu, the demo's tokens and logits among them
    accuracy              the demo's engines on the held-out text, beside the CPU's
    calibrate             calibrates the demo on the GPU and on the CPU; needs ModelOpt
    throughput:ENGINE     fills the engine with random weights and measures it
    throughput:ENGINE+compare   and again without programmatic launch
    profile:ENGINE        times of every kernel of its steps
    transformers:SHAPE    the same loads in transformers
    drop:ENGINE           removes an engine, to make room

ENGINE and SHAPE may be `all`. A stage that fails or outlasts its limit does not stop the next.
$OUT (the current folder unless set) gets outcomes.jsonl and on_device.log.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_S = {
    "limits": 60,
    "gpu_tests": 150,
    "accuracy": 120,
    "calibrate": 200,
    "throughput": 90,
    "profile": 50,
    "transformers": 90,
}
MODULES = {"throughput": "throughput", "profile": "kernel_times"}
SHAPES = ("llama-3.1-8b", "tinyllama-1.1b", "qwen3-0.6b")
LINE_LENGTH = 600
ROOM_BYTES = 40 << 30


def unpack(payload: Path, root: Path) -> None:
    """Unpacks every archive of the payload that is not unpacked yet."""
    root.mkdir(parents=True, exist_ok=True)
    for archive in sorted(payload.glob("*.tar.xz")):
        done = root / f".{archive.name}.done"
        if not done.exists():
            subprocess.run(["tar", "-C", root, "-xJf", archive], check=True)
            done.touch()


def default_root() -> Path:
    """A folder in memory if the weights fit there, else on the disk."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free >= ROOM_BYTES
    return (memory if has_room else Path("/var/tmp")) / "enginery"


def environment(root: Path) -> dict[str, str]:
    """The environment of the stages: this source tree as the package `enginery`."""
    folders = [root / "site", REPOSITORY / "typings", REPOSITORY]
    path = ":".join(map(str, folders))
    if os.environ.get("PYTHONPATH"):
        path += ":" + os.environ["PYTHONPATH"]
    return os.environ | {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",  # the current folder has an `enginery` without its sub-packages
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ENGINERY_LIBRARY": str(root / "libenginery.so"),
        "ENGINERY_GPU_ENGINES": str(root / "demo"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def engines(root: Path, name: str) -> list[Path]:
    """The packed engines of that name, smallest first."""
    found = sorted((root / "engines").glob("*" if name == "all" else name))
    if not found:
        raise SystemExit(f"{root / 'engines'} has no engine {name!r}")
    return sorted(found, key=lambda path: (path / "rank0.engine").stat().st_size)


def commands(stage: str, root: Path) -> Iterator[tuple[str, list[str]]]:
    """(label, arguments of Python) of each process of a stage."""
    kind, _, name = stage.partition(":")
    compare, name = name.endswith("+compare"), name.removesuffix("+compare")
    if kind == "limits":
        yield stage, ["-m", "benchmarks.gpu.limits"]
    elif kind == "gpu_tests":
        options = ["-m", "gpu", "-p", "no:cacheprovider", "-q", "--tb=short", "-rA"]
        options += ["-o", f"pythonpath={REPOSITORY / 'typings'} {REPOSITORY}"]
        yield stage, ["-m", "pytest", *options, "tests/runtime/executors", "tests/plugins"]
    elif kind == "accuracy":
        yield stage, ["-m", "benchmarks.gpu.accuracy", str(root / "demo")]
    elif kind == "calibrate":
        yield stage, ["-m", "benchmarks.gpu.calibrate", str(root / "calibrated")]
    elif kind in ("throughput", "profile"):
        for engine in engines(root, name):
            filled = engine / ".filled"
            if not filled.exists():
                yield f"fill:{engine.name}", ["-m", "benchmarks.gpu.fill", str(engine)]
            yield f"{kind}:{engine.name}", ["-m", f"benchmarks.gpu.{MODULES[kind]}", str(engine)]
            if kind == "throughput" and compare:
                options = [str(engine), "--no_programmatic_launch", "--loads", "1,64"]
                yield f"{kind}:{engine.name}", ["-m", "benchmarks.gpu.throughput", *options]
    elif kind == "drop":
        for engine in engines(root, name):
            shutil.rmtree(engine)
    elif kind == "transformers":
        for shape in SHAPES if name == "all" else [name]:
            yield f"{kind}:{shape}", ["-m", "benchmarks.gpu.baseline", shape]
    else:
        raise SystemExit(f"unknown stage {stage!r}: take one of {', '.join(LIMIT_S)}")


def run(label: str, arguments: list[str], root: Path, log: Path, *, dry: bool) -> None:
    """Runs one process, with its output on the screen and in the log, for at most its limit."""
    limit = LIMIT_S.get(label.partition(":")[0], 60)
    print(f"== {label}", flush=True)
    if dry:
        print("   python", *arguments, flush=True)
        return
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=REPOSITORY, env=environment(root), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        errors="replace",
    )  # fmt: skip
    timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    assert process.stdout is not None
    with log.open("a") as file:
        file.write(f"== {label}\n")
        for line in process.stdout:
            file.write(line)
            file.flush()
            print(line.rstrip()[:LINE_LENGTH], flush=True)
    process.wait()
    timer.cancel()
    print(
        f"== {label}: exit {process.returncode} after {time.monotonic() - begin:.1f} s", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Run stages on a GPU machine")
    parser.add_argument("payload", type=Path)
    parser.add_argument("stages", nargs="+")
    parser.add_argument("--root", type=Path, help="where to unpack; memory if it has the room")
    parser.add_argument("--dry", action="store_true", help="print the commands and run none")
    args = parser.parse_args()
    out = Path(os.environ.get("OUT", "."))
    root = args.root or default_root()
    begin = time.monotonic()
    unpack(args.payload, root)
    free = shutil.disk_usage(root).free >> 30
    print(f"== unpacked in {root} after {time.monotonic() - begin:.1f} s; {free} GiB free there")
    for stage in args.stages:
        try:
            for label, arguments in commands(stage, root):
                run(label, arguments, root, out / "on_device.log", dry=args.dry)
        except (SystemExit, OSError) as error:
            print(f"== {stage}: {error}", flush=True)
        print(f"== {time.monotonic() - begin:.1f} s in all", flush=True)


if __name__ == "__main__":
    main()
