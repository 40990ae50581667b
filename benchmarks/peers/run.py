# SPDX-License-Identifier: Apache-2.0
"""Runs the sides in turn and keeps every sample as a line of JSON."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.peers.drivers.measure import MEASUREMENTS
from benchmarks.peers.limits import limits_of_machine
from benchmarks.peers.sides import AVX2_SIDES, ROOT, SIDES, Case, Launch, checkpoint_path
from benchmarks.peers.workload import make_workload

Item = TypeVar("Item")

KEY_FIELDS = ("round", "side", "shape", "precision", "num_threads", "isa", "quick")


def run(args: argparse.Namespace) -> int:
    """Measures all rounds; 1 when a side failed, else 0.

    A round is: what the machine can do, then every side once per shape and precision, the sides
    next to each other and beginning with another one each round. Memory, which virtual machines
    share, is measured before and after each side too. Samples that the file already holds are not
    measured again; a side that failed is left out of the later rounds of this run.
    """
    work_dir = args.work_dir.resolve()
    measure = tuple(name for name in MEASUREMENTS if name not in args.skip)
    cases = [
        Case(shape, precision, args.threads, args.isa, args.quick)
        for shape in args.shape
        for precision in args.precision
    ]
    sides = [name for name in args.peers if args.isa == "native" or name in AVX2_SIDES]
    samples = read_samples(args.output)
    failed: set[tuple[str, Case]] = set()
    for round_index in range(args.rounds):
        limits = {"round": round_index, "num_threads": args.threads, "kind": "limits"}
        if not any(limits.items() <= sample.items() for sample in samples):
            keep(args.output, samples, limits | limits_of_machine(args.threads))
        for case in cases:
            for side in rotated(sides, round_index):
                key = {"round": round_index, "side": side, **vars(case)}
                if (side, case) in failed or is_measured(samples, key, measure):
                    continue
                sample = measure_side(side, case, round_index, measure, work_dir, args.timeout)
                keep(args.output, samples, key | {"kind": "sample"} | sample)
                if "error" in sample:
                    failed.add((side, case))
    return 1 if failed else 0


def rotated(items: list[Item], count: int) -> list[Item]:
    """The items beginning with another one each time, so that none is always first."""
    count %= len(items)
    return items[count:] + items[:count]


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of a samples file; none when there is no file.

    A last line that was cut off, by a run that was killed, is left out.
    """
    if not path.is_file():
        return []
    samples: list[dict[str, Any]] = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            samples.append(json.loads(line))
        except json.JSONDecodeError:
            if number != len(lines):
                raise
    return samples


def is_measured(
    samples: Iterable[dict[str, Any]], key: dict[str, Any], measure: Iterable[str]
) -> bool:
    """Whether a sample without error has this key and all of these measurements."""
    return any(
        "error" not in sample
        and all(sample.get(name) == key[name] for name in KEY_FIELDS)
        and set(measure) <= set(sample["measured"])
        for sample in samples
        if sample.get("kind") == "sample"
    )


def keep(path: Path, samples: list[dict[str, Any]], sample: dict[str, Any]) -> None:
    """Appends a sample to the file, with what it was measured on, and to `samples`."""
    sample = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")} | sample
    sample |= {"machine": machine_name(), "commit": commit()}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.is_file() else ""
    if not text.endswith("\n"):  # a run was killed in the middle of a line
        path.write_text(text[: text.rfind("\n") + 1])
    with path.open("a") as file:
        file.write(json.dumps(sample) + "\n")
    samples.append(sample)
    shown = {name: value for name, value in sample.items() if not isinstance(value, list | dict)}
    print(json.dumps(shown), flush=True)


def measure_side(
    side: str,
    case: Case,
    round_index: int,
    measure: tuple[str, ...],
    work_dir: Path,
    timeout_s: float,
) -> dict[str, Any]:
    """One fresh process of a side's driver: its sample, or {"error": why there is none}."""
    launch = SIDES[side](case, work_dir)
    sample: dict[str, Any] = {"measured": list(measure), "load_average": os.getloadavg()[0]}
    config = json.loads((checkpoint_path(case.shape, work_dir) / "config.json").read_text())
    task = {
        "model": str(launch.model),
        "precision": case.precision,
        "num_threads": case.num_threads,
        "measure": measure,
        "extra": launch.extra,
        **make_workload(config["vocab_size"], round_index, quick=case.quick),
    }
    try:
        warm_page_cache(launch.model)
        limits = [limits_of_machine(case.num_threads)]
        before = cpu_seconds()
        sample |= run_driver(launch, case.num_threads, json.dumps(task), work_dir, timeout_s)
        sample["disturbance"] = disturbance(before, cpu_seconds())
        limits.append(limits_of_machine(case.num_threads))
        sample["bandwidth_gb_s"] = max(measured["bandwidth_gb_s"] for measured in limits)
    except (OSError, ValueError, RuntimeError, subprocess.TimeoutExpired) as error:
        sample["error"] = str(error)[-2000:].replace(str(work_dir), "").replace(str(ROOT), "")
    return sample


def run_driver(
    launch: Launch, num_threads: int, task: str, work_dir: Path, timeout_s: float
) -> dict[str, Any]:
    """Starts a driver and reads the sample that it prints last.

    Raises:
        RuntimeError: it failed; holds the end of its stderr.
        subprocess.TimeoutExpired: it took too long; all its processes were ended.
    """
    command = [str(launch.python), "-m", f"benchmarks.peers.drivers.{launch.module}"]
    cpus = sorted(os.sched_getaffinity(0))[:num_threads]
    process = subprocess.Popen(
        ["taskset", "-c", ",".join(map(str, cpus)), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=work_dir,
        env=driver_environment(launch, num_threads, work_dir),
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(task, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"exit status {process.returncode}: {errors[-1500:]}")
    sample: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return sample


def driver_environment(launch: Launch, num_threads: int, work_dir: Path) -> dict[str, str]:
    """The environment of a driver: nothing of Python's from here, and `benchmarks` importable.

    The repository's root itself must not be on the path: its folders would hide packages.
    """
    path = work_dir / "path"
    path.mkdir(parents=True, exist_ok=True)
    if not (path / "benchmarks").exists():
        (path / "benchmarks").symlink_to(ROOT / "benchmarks")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_", "OMP_"))}
    threads = {name: str(num_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return kept | threads | {"PYTHONPATH": str(path)} | launch.env


def cpu_seconds() -> tuple[float, float, float]:
    """Seconds since some moment: the clock's, all processors' busy ones, those of our children."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    idle = fields[3] + fields[4]
    busy_s = (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")  # steal included
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), busy_s, ours.ru_utime + ours.ru_stime


def disturbance(before: Sequence[float], after: Sequence[float]) -> float:
    """How many processors were busy, on average, with something else than what is measured."""
    wall_s, busy_s, ours_s = (end - begin for begin, end in zip(before, after, strict=True))
    return round(max(0.0, busy_s - ours_s) / wall_s, 3)


def warm_page_cache(model: Path) -> None:
    """Reads a model's files from the disk, so that no side does.

    They come in large pages where the file system and the kernel have them, as after a start of
    the machine a side that maps its files gets them. What is in the page cache already may be in
    small ones, whoever wrote or read it; so it is dropped first, the same for all sides.

    Raises:
        OSError: there are no files, or they cannot be read.
    """
    files = [model] if model.is_file() else [p for p in model.rglob("*") if p.is_file()]
    if not files:
        raise OSError(f"{model.name}: is missing; run `python -m benchmarks.peers convert`")
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not on the disk is not dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if path.stat().st_size == 0:  # cannot be mapped
                continue
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
                with contextlib.suppress(OSError):  # of a kernel that has no large pages
                    pages.madvise(mmap.MADV_HUGEPAGE)
                for begin in range(0, len(pages), mmap.PAGESIZE):
                    pages[begin]


def machine_name() -> str:
    """The processor's name and how many of its cores may be used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """The sources' commit, with "-dirty" when they differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or "unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `run` takes beside what all commands take."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="+", choices=[*SIDES], default=[*SIDES], metavar="NAME")
    parser.add_argument("--isa", choices=("native", "avx2"), default="native")
    parser.add_argument("--skip", nargs="+", choices=MEASUREMENTS, default=[], metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="to see that all answer, no figures")
    parser.add_argument("--timeout", type=float, default=600, help="seconds per process")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; is appended to")


if __name__ == "__main__":
    sys.exit("run it as python -m benchmarks.peers run")
