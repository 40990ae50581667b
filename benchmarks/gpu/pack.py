# SPDX-License-Identifier: Apache-2.0
"""Packs engines, the library and expected results for a GPU machine that has no network.

    python -m benchmarks.gpu.pack OUT [--engines NAME,...] [--skus h100,h200]

OUT gets `payload/*.tar.xz`, which `on_device` unpacks; the source tree travels by itself. Engines
of real size are packed without their weights (`hollow`), the demo's with them. Needs no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.hollow import HollowEngine, build_hollow
from enginery.builder.build import build, plan_build
from enginery.builder.options import BuildRequest
from enginery.runtime.library import candidate_paths
from enginery.runtime.llm import LLM
from enginery.runtime.sampling_params import SamplingParams

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
ENGINES = (
    HollowEngine("qwen3-0.6b", "none"),
    HollowEngine("qwen3-0.6b", "fp8"),
    HollowEngine("tinyllama-1.1b", "none"),
    HollowEngine("tinyllama-1.1b", "fp8"),
    HollowEngine("llama-3.1-8b", "none"),
    HollowEngine("llama-3.1-8b", "fp8"),
    HollowEngine("llama-3.1-8b", "int8_sq"),
    HollowEngine("llama-3.1-8b", "int4_wo"),
)
DEMO_PROMPTS = 6
DEMO_TOKENS = 48


def pack_engine(engine: HollowEngine, work: Path, payload: Path) -> None:
    """Builds an engine without weights and archives it; the hole takes no room."""
    output = work / "engines" / engine.name
    build_hollow(engine, work / "checkpoints", output, work / "cache")
    archive(payload / f"engine.{engine.name}.tar.xz", work, [f"engines/{engine.name}"])


def build_demo(work: Path, skus: str) -> Path:
    """Builds the demo's tensorrt engines, and notes what the float32 cpu engine says they give.

    Returns:
        A folder below `work` with the engines `bf16` and `int8_wo`, and `expected.npz`.
    """
    folder, reference = work / "demo", work / "demo.f32"
    base = BuildRequest(
        model=DEMO,
        max_batch_size=64,
        max_num_tokens=2048,
        max_seq_len=1024,
        cache_dir=work / "cache",
        overwrite=True,
    )
    for name, qformat in (("bf16", "none"), ("int8_wo", "int8_wo")):
        request = dataclasses.replace(base, output=folder / name, sku=skus, qformat=qformat)
        build(plan_build(request))
    build(plan_build(dataclasses.replace(base, output=reference, dtype="float32")))
    np.savez_compressed(folder / "expected.npz", **expected_results(reference))
    return folder


def expected_results(engine: Path) -> dict[str, NDArray[Any]]:
    """Greedy continuations of prompts, and the logits at each of their tokens.

    Returns:
        `tokens{i}` int32 [n_i], prompt and continuation; `prompt_tokens` int32 [prompts];
        `logits{i}` float32 [n_i, vocab_size].
    """
    arrays: dict[str, NDArray[Any]] = {}
    lengths = []
    with LLM(engine) as llm:
        prompts = demo_prompts()
        greedy = SamplingParams(max_tokens=DEMO_TOKENS, temperature=0.0, ignore_eos=True)
        for index, output in enumerate(llm.generate(prompts, greedy, use_tqdm=False)):
            tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
            lengths.append(len(output.prompt_token_ids))
            again = llm.generate(
                tokens, SamplingParams(max_tokens=1, return_context_logits=True), use_tqdm=False
            )
            assert again.context_logits is not None
            arrays[f"tokens{index}"] = np.array(tokens, np.int32)
            arrays[f"logits{index}"] = np.asarray(again.context_logits, np.float32)
    return arrays | {"prompt_tokens": np.array(lengths, np.int32)}


def demo_prompts() -> list[str]:
    """The first prompts that come with the demo."""
    lines = (DEMO / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines[:DEMO_PROMPTS]]


def pack_site(work: Path, payload: Path) -> None:
    """Archives the library, and the metadata that `import enginery` asks for."""
    library = next(path for path in candidate_paths() if path.is_file())
    shutil.copyfile(library, work / "libenginery.so")
    version = metadata.version("enginery")
    info = work / "site" / f"enginery-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: enginery\nVersion: {version}\n"
    (info / "METADATA").write_text(text)
    archive(payload / "site.tar.xz", work, ["libenginery.so", "site"])


def archive(path: Path, folder: Path, names: list[str]) -> None:
    """A compressed archive of names in a folder; holes of files stay holes."""
    part = path.with_suffix(".part")
    options = ["--sparse", "--sort=name", "-I", "xz -6 -T2"]
    subprocess.run(["tar", "-C", str(folder), *options, "-cf", str(part), *names], check=True)
    part.rename(path)
    print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack what a GPU machine needs")
    parser.add_argument("out", type=Path)
    parser.add_argument("--engines", help="names of engines, and `demo`; all unless given")
    parser.add_argument("--skus", default="h100,h200")
    args = parser.parse_args()
    payload = args.out / "payload"
    payload.mkdir(parents=True, exist_ok=True)
    pack_site(args.out, payload)
    wanted = None if args.engines is None else set(args.engines.split(","))
    failed = []
    for engine in (None, *ENGINES):
        name = "demo" if engine is None else engine.name
        if wanted is not None and name not in wanted:
            continue
        begin = time.monotonic()
        try:
            if engine is None:
                build_demo(args.out, args.skus)
                archive(payload / "demo.tar.xz", args.out, ["demo"])
            else:
                pack_engine(dataclasses.replace(engine, skus=args.skus), args.out, payload)
        except Exception as error:  # what can be packed is worth having
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            failed.append(name)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    total = sum(path.stat().st_size for path in payload.iterdir())
    print(f"{payload}: {total / 2**20:.1f} MiB in all; failed: {failed}")


if __name__ == "__main__":
    main()
