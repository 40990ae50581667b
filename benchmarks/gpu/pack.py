# SPDX-License-Identifier: Apache-2.0
"""Packs engines and the library for a GPU machine that has no network.

    python -m benchmarks.gpu.pack OUT [--engines NAME,...] [--skus h100,h200]

OUT gets `payload/*.tar.xz`, which `on_device` unpacks; the source tree travels by itself. Engines
of real size are packed without their weights (`hollow`), the demo's with them. Needs no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

from benchmarks.gpu.demo import DEMO_ENGINES
from benchmarks.gpu.hollow import HollowEngine, build_hollow
from enginery.runtime.library import candidate_paths

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


def pack_engine(engine: HollowEngine, work: Path, payload: Path) -> None:
    """Builds an engine without weights and archives it; the hole takes no room."""
    output = work / "engines" / engine.name
    build_hollow(engine, work / "checkpoints", output, work / "cache")
    archive(payload / f"engine.{engine.name}.tar.xz", work, [f"engines/{engine.name}"])


def build_demo(work: Path, skus: str) -> Path:
    """Builds the demo's engines for GPUs, calibrated first where their scheme takes scales.

    Returns:
        The folder that `demo` describes.
    """
    folder = work / "demo"
    for engine in DEMO_ENGINES:
        engine.build(folder, skus, engine.on_gpu(folder), work / "cache")
    return folder


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
    options = ["--sparse", "--sort=name", "-I", "xz -6 -T1 --lzma2=dict=64MiB"]
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
