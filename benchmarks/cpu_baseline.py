# SPDX-License-Identifier: Apache-2.0
"""The cpu target's basic figures on random weights of a real shape.

    python benchmarks/cpu_baseline.py --shape qwen2.5-0.5b --qformat none int8_dynamic \
        --work_dir /tmp/baseline --output benchmarks/results/mine.json

For each scheme: build time and peak memory, engine size, time from opening the engine to the first
token of a 16-token prompt through the C interface, prefill of 512 tokens, decode of one sequence, a
load of 32 requests (prompt 128, outputs 16-128) with 16 in flight, and the same load in static
batches. Rounds alternate between the schemes; medians are reported and every sample is kept.
Prefill is prompt tokens over TTFT; decode is 1 over TPOT.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sysconfig.get_path("scripts"))
MAX_SEQ_LEN = 1024


def main() -> int:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", default="qwen2.5-0.5b", help="of benchmarks/random_checkpoint.py"
    )
    parser.add_argument("--qformat", nargs="+", default=["none", "int8_dynamic"])
    parser.add_argument("--work_dir", type=Path, required=True, help="checkpoint and engines")
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--raw_dir", type=Path, help="keep the load's raw logs of round 1 here")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = _checkpoint(args.shape, args.work_dir)
    probe = _compile_probe(args.work_dir)
    schemes: dict[str, Any] = {}
    for qformat in args.qformat:
        schemes[qformat] = {"build": _build(checkpoint, qformat, args.work_dir), "samples": []}
    header: dict[str, Any] = {}
    for round_index in range(args.rounds):
        for qformat, entry in schemes.items():
            engine = _engine_dir(args.work_dir, args.shape, qformat)
            raw = args.raw_dir if round_index == 0 else None
            sample, header = _measure(engine, probe, args.num_threads, raw, qformat)
            entry["samples"].append(sample)
            print(f"round {round_index + 1} {qformat}: {json.dumps(sample)}", flush=True)
    for entry in schemes.values():
        entry["median"] = {
            key: statistics.median(s[key] for s in entry["samples"])
            for key in entry["samples"][0]
            if isinstance(entry["samples"][0][key], int | float)
        }
    report = {"shape": args.shape, "num_threads": args.num_threads, **header, "schemes": schemes}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _checkpoint(shape: str, work_dir: Path) -> Path:
    directory = work_dir / shape
    if not (directory / "config.json").is_file():
        script = ROOT / "benchmarks" / "random_checkpoint.py"
        subprocess.run([sys.executable, str(script), shape, str(directory)], check=True)
    return directory


def _engine_dir(work_dir: Path, shape: str, qformat: str) -> Path:
    return work_dir / f"{shape}-{qformat}.engine"


def _build(checkpoint: Path, qformat: str, work_dir: Path) -> Any:
    """Builds an engine and returns what `build-engine --json` says of it."""
    command = [
        str(SCRIPTS / "build-engine"),
        *("--model", str(checkpoint), "--qformat", qformat),
        *("--output", str(_engine_dir(work_dir, checkpoint.name, qformat))),
        *("--max_seq_len", str(MAX_SEQ_LEN), "--overwrite", "--json"),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout)
    return _without_paths(summary)


def _without_paths(summary: Any) -> Any:
    if isinstance(summary, dict):
        return {k: _without_paths(v) for k, v in summary.items()}
    return Path(summary).name if isinstance(summary, str) and "/" in summary else summary


def _compile_probe(work_dir: Path) -> list[str]:
    """Compiles first_token.c against the installed library."""
    from enginery.runtime.library import load_library

    library = Path(load_library()._name)
    binary = work_dir / "first_token"
    subprocess.run(
        [
            *(os.environ.get("CC", "cc"), "-O2", "-std=c11", "-D_POSIX_C_SOURCE=200809L"),
            *(f"-I{ROOT / 'runtime' / 'include'}", str(ROOT / "benchmarks" / "first_token.c")),
            *(str(library), f"-Wl,-rpath,{library.parent}", "-o", str(binary)),
        ],
        check=True,
    )
    return [str(binary)]


def _measure(
    engine: Path, probe: list[str], num_threads: int, raw_dir: Path | None, qformat: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    for _ in range(2):  # the first fills the page cache
        text = subprocess.run(
            [*probe, str(engine), "16", str(num_threads)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    first = json.loads(text)
    common = ["--num_threads", str(num_threads), "--block_reuse", "off"]
    single = [*common, "--concurrency", "1"]
    prefill, header = _bench(
        engine, [*single, "--num_prompts", "5", "--input_len", "512", "--output_len", "1"]
    )
    decode, _ = _bench(
        engine, [*single, "--num_prompts", "3", "--input_len", "16", "--output_len", "128"]
    )
    load = [*common, "--num_prompts", "32", "--input_len", "128", "--output_len", "16-128"]
    load += ["--max_batch_size", "16", "--policy", "GUARANTEED_NO_EVICT", "STATIC_BATCH"]
    if raw_dir is not None:
        (raw_dir / qformat).mkdir(parents=True, exist_ok=True)
        load += ["--raw", str(raw_dir / qformat)]
    runs, _ = _bench(engine, load)
    sample = {
        "open_ms": first["open_ms"],
        "first_token_total_ms": first["total_ms"],
        "first_token_peak_rss_kb": first["peak_rss_kb"],
        "first_token_rss_anon_kb": first["rss_anon_kb"],
        "prefill_512_tok_s": 512e3 / prefill[0]["median_ttft_ms"],
        "decode_tok_s": 1e3 / decode[0]["median_tpot_ms"],
        "load_16_tok_s": runs[0]["output_throughput"],
        "load_16_static_tok_s": runs[1]["output_throughput"],
        "in_flight_over_static": runs[0]["output_throughput"] / runs[1]["output_throughput"],
        "load_average": os.getloadavg()[0],
    }
    return sample, header


def _bench(engine: Path, options: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """Runs `enginery bench` and returns its runs and what it says of machine and versions."""
    output = engine.parent / "bench.json"
    command = [str(SCRIPTS / "enginery"), "bench", str(engine), *options]
    subprocess.run([*command, "--output_json", str(output)], check=True, stdout=subprocess.DEVNULL)
    report = json.loads(output.read_text())
    runs = list(report["runs"].values()) if "runs" in report else [report]
    return runs, {key: report[key] for key in ("machine", "versions") if key in report}


if __name__ == "__main__":
    sys.exit(main())
