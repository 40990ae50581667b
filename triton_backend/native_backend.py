# SPDX-License-Identifier: Apache-2.0
"""The native backend: the same model without Python in the serving process, for cpu engines.

`native/` has its C++ sources, of which the installation makes `lib/libtriton_enginery.so`. It takes
token ids: the tokenizer is Python's, and with it `text_input` and `bad_words`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.library import LIBRARY_NAME, candidate_paths

from .options import ModelOptions

BACKEND_NAME = "enginery"
BACKEND_LIBRARY = f"libtriton_{BACKEND_NAME}.so"
# Preloaded into tritonserver: native/http_queue.cc says why.
HTTP_QUEUE_LIBRARY = "libtriton_http_queue.so"

# What only the Python backend reads, as in native/model_options.cc.
PYTHON_PARAMETERS = (
    "tokenizer_dir",
    "num_sender_threads",
    "executor",
    "sku",
    "kv_cache_free_gpu_mem_fraction",
)


@dataclass(frozen=True)
class NativeOptions:
    """What the model is started with in the native backend.

    Attributes:
        model: of the engine and its runtime.
        is_decoupled: whether a request may get several responses, which streaming and
            num_return_sequences need; False: one at its end, for clients that call `infer`.
    """

    model: ModelOptions
    is_decoupled: bool = True


def check_native_parameters(parameters: Mapping[str, str]) -> ModelOptions:
    """Reads parameters of `config.pbtxt` as the native backend does.

    Raises:
        InvalidArgumentError: one is unknown, not accepted, or the Python backend's; or the engine
            is not of target cpu.
    """
    options = ModelOptions.from_parameters(parameters)
    problems = [
        f"{name} = {parameters[name]!r}: only the Python backend reads it; leave it out, or serve "
        "with the Python backend"
        for name in PYTHON_PARAMETERS
        if name in parameters
    ]
    with Engine(options.engine_dir) as engine:
        if engine.info.target != "cpu":
            problems.append(
                f"engine_dir = {options.engine_dir!r}: the engine is for {engine.info.target}; the "
                "native backend runs engines for cpu; serve it with the Python backend"
            )
    if problems:
        raise InvalidArgumentError.from_problems("native backend", problems)
    return options


def native_backend_files() -> list[Path] | None:
    """What belongs into the backend's folder; None when this installation lacks the backend."""
    backend = find_library(BACKEND_LIBRARY)
    runtime = next((path for path in candidate_paths() if path.is_file()), None)
    if backend is None or runtime is None or runtime.name != LIBRARY_NAME:
        return None
    return [backend, runtime]


def find_library(name: str) -> Path | None:
    """What the installation made of a target of `native/`; None when this one lacks it."""
    package = sys.modules[__package__ or "enginery.triton_backend"]
    folders = [Path(entry) for entry in package.__path__]
    folders += [Path(entry) / "enginery" / "triton_backend" for entry in sys.path if entry]
    paths = (folder.absolute() / "lib" / name for folder in folders)
    return next((path for path in paths if path.is_file()), None)
