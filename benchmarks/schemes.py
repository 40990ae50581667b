# SPDX-License-Identifier: Apache-2.0
"""Every scheme of target cpu on one shape in one run: size, memory, prefill and decode.

    python -m benchmarks.schemes build --work_dir /tmp/schemes
    python -m benchmarks.schemes run --work_dir /tmp/schemes --output samples.json

`build` writes a random checkpoint, makes of it what AutoAWQ (groups of 128, zero points) and
ModelOpt (W4A8_AWQ) would, with the writers of the tests, and builds an engine for each line of the
table. `run` measures each engine in a process of its own: the rate of a prompt of 512 tokens and of
the decode of one sequence after 16, medians within the process after a warm-up, and the process's
memory, of which weights that are mapped are the most. Rounds go through all engines, each from
another one on, so that what slows the machine for a while slows no scheme alone. It prints medians
over the rounds as a table and keeps every sample.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.drivers.measure import memory_of
from benchmarks.peers.run import rotated
from benchmarks.random_checkpoint import SHAPES, write_random_checkpoint
from enginery.bench.environment import describe_machine, describe_versions
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams
from tests.support.modelopt_checkpoints import store_smoothed
from tests.support.quantized_checkpoints import quantize_checkpoint

ROOT = Path(__file__).resolve().parents[1]
MAX_SEQ_LEN = 1024
PREFILL_LEN, DECODE_PROMPT_LEN = 512, 16
# Smallest id that is drawn: those below are bytes, and special ones stand at the end.
FIRST_TOKEN_ID, NUM_SPECIAL_TOKENS = 256, 16


class Line(NamedTuple):
    """A line of the table: an engine.

    Attributes:
        name: what the table calls it.
        checkpoint: a key of `CHECKPOINTS`.
        qformat: of the build.
    """

    name: str
    checkpoint: str
    qformat: str


LINES = (
    Line("none", "plain", "none"),
    Line("int8_wo", "plain", "int8_wo"),
    Line("int8_dynamic", "plain", "int8_dynamic"),
    Line("int8_sq", "plain", "int8_sq"),
    Line("fp8", "plain", "fp8"),
    Line("w4a8_dynamic", "plain", "w4a8_dynamic"),
    Line("w4a8_dynamic_zero_points", "awq", "w4a8_dynamic"),
    Line("int4_wo", "plain", "int4_wo"),
    Line("int4_awq_zero_points", "awq", "int4_awq"),
    Line("w4a8_awq", "w4a8", "w4a8_awq"),
)
CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "plain": lambda directory: None,
    "awq": lambda directory: quantize_checkpoint(directory, "awq_g128"),
    "w4a8": lambda directory: store_smoothed(directory, "W4A8_AWQ"),
}
"""What is made of the random checkpoint, in place."""


def main() -> int:
    """Runs the command that the arguments name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="checkpoints and engines")
    run = commands.add_parser("run", help="measure all engines")
    sample = commands.add_parser("sample", help="measure one engine in this process, once")
    build.set_defaults(run=_build)
    run.set_defaults(run=_run)
    sample.set_defaults(run=_sample)
    for command in (build, run):
        command.add_argument("--work_dir", type=Path, required=True, help="checkpoints and engines")
        command.add_argument(
            "--only", nargs="+", choices=[line.name for line in LINES], metavar="NAME", default=[]
        )
    build.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    run.add_argument("--output", type=Path, required=True, help="JSON of all samples")
    run.add_argument("--rounds", type=int, default=3)
    sample.add_argument("engine", type=Path)
    for command in (run, sample):
        command.add_argument("--num_threads", type=int, default=len(os.sched_getaffinity(0)))
        command.add_argument("--num_prompts", type=int, default=3, help="prefills of a sample")
        command.add_argument("--num_decoded", type=int, default=64, help="tokens of a sample")
    args = parser.parse_args()
    status: int = args.run(args)
    return status


def _lines(args: argparse.Namespace) -> list[Line]:
    return [line for line in LINES if not args.only or line.name in args.only]


def _build(args: argparse.Namespace) -> int:
    """Writes what is not there yet, and every engine anew."""
    for line in _lines(args):
        checkpoint = args.work_dir / line.checkpoint
        if not checkpoint.exists():
            _write_checkpoint(checkpoint, args.shape)
        command = [
            str(Path(sysconfig.get_path("scripts")) / "build-engine"),
            *("--model", str(checkpoint), "--output", str(args.work_dir / f"{line.name}.engine")),
            *("--qformat", line.qformat, "--dtype", "bfloat16", "--overwrite"),
            *("--max_seq_len", str(MAX_SEQ_LEN), "--log_level", "error"),
        ]
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"{line.name}: built in {time.perf_counter() - begin:.1f} s", flush=True)
    return 0


def _write_checkpoint(directory: Path, shape: str) -> None:
    """Writes beside the directory first: what is there is whole."""
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_random_checkpoint(shape, partial, input_scales=True, kv_scales=True)
    CHECKPOINTS[directory.name](partial)
    partial.rename(directory)


def _run(args: argparse.Namespace) -> int:
    lines = _lines(args)
    samples: dict[str, list[dict[str, Any]]] = {line.name: [] for line in lines}
    for index in range(args.rounds):
        for line in rotated(lines, index):
            engine = args.work_dir / f"{line.name}.engine"
            command = [sys.executable, "-m", "benchmarks.schemes", "sample", str(engine)]
            for name in ("num_threads", "num_prompts", "num_decoded"):
                command += [f"--{name}", str(getattr(args, name))]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            sample = json.loads(done.stdout) | {"load_average": os.getloadavg()[0]}
            samples[line.name].append(sample)
            print(f"round {index + 1} {line.name}: {json.dumps(sample)}", file=sys.stderr)
    report = {"machine": describe_machine(), "versions": describe_versions(), "samples": samples}
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("| scheme | engine, MiB | peak RSS, MiB | prefill, tokens/s | decode, tokens/s |")
    print("|---|---|---|---|---|")
    for name, of_line in samples.items():
        size = _engine_mib(args.work_dir / f"{name}.engine")
        keys = ("peak_rss_mb", "prefill_tok_s", "decode_tok_s")
        median = [statistics.median(sample[key] for sample in of_line) for key in keys]
        print(f"| `{name}` | {size:.0f} | {median[0]:.0f} | {median[1]:.0f} | {median[2]:.1f} |")
    return 0


def _engine_mib(engine: Path) -> float:
    return sum(file.stat().st_size for file in engine.glob("rank*.engine")) / 2**20


def _sample(args: argparse.Namespace) -> int:
    """Prints one JSON object."""
    rng = np.random.default_rng(0)
    with Engine(args.engine) as engine:
        kv_cache_bytes = MAX_SEQ_LEN * engine.info.kv_bytes_per_token
        options = RuntimeOptions(
            num_threads=args.num_threads,
            max_batch_size=1,
            kv_cache_bytes=kv_cache_bytes,
            enable_block_reuse=False,
        )
        last = engine.info.vocab_size - NUM_SPECIAL_TOKENS
        with Runtime(engine, options) as runtime:

            def times(prompt_len: int, num_tokens: int) -> list[float]:
                prompt = rng.integers(FIRST_TOKEN_ID, last, prompt_len).tolist()
                return _token_times(runtime, prompt, num_tokens)

            times(PREFILL_LEN, 1)
            prefills = [times(PREFILL_LEN, 1)[0] for _ in range(args.num_prompts)]
            times(DECODE_PROMPT_LEN, 8)
            decoded = times(DECODE_PROMPT_LEN, args.num_decoded + 1)
            sample = {
                "prefill_tok_s": PREFILL_LEN / statistics.median(prefills),
                "decode_tok_s": args.num_decoded / (decoded[-1] - decoded[0]),
                "executor": runtime.executor_name,
                **memory_of("/proc/self/status"),
            }
    print(json.dumps(sample))
    return 0


def _token_times(runtime: Runtime, prompt: list[int], num_tokens: int) -> list[float]:
    """Runs one greedy request; seconds from its start to each of its tokens."""
    begin = time.monotonic()
    params = SamplingParams(max_tokens=num_tokens, ignore_eos=True, temperature=0.0)
    runtime.submit(prompt, params)
    times: list[float] = []
    while True:
        for event in runtime.poll(1000):
            if event.token_ids:
                assert event.last_token_ns is not None
                times += [event.last_token_ns / 1e9 - begin] * len(event.token_ids)
            if event.is_last:
                assert len(times) == num_tokens
                return times


if __name__ == "__main__":
    sys.exit(main())
