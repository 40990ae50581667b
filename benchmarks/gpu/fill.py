# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""Puts random weights of sane size into a hollow engine, on the machine that will run it.

Values are drawn once per kind of tensor (its name without the layer) and repeated for all layers:
speed does not depend on them, and drawing 8 billion would take longer than the measurement.

    python -m benchmarks.gpu.fill ENGINE [DEVICE]
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from enginery.runtime.engine import Engine

LARGEST_INPUT = 6.0  # of a linear layer, which normalised activations stay below
LARGEST = {"f8e4m3": 448.0, "i8": 127.0, "i4": 7.0}
SPREAD = 4.0  # codes are normal, and their largest value is so many standard deviations
WRITE_BYTES = 64 << 20


def fill(directory: Path, device: str = "cuda", threads: int = 8) -> int:
    """Writes every tensor of an engine; returns the number of bytes."""
    with Engine(directory) as engine:
        description = engine.describe()
    sections = {section["name"]: section for section in description["sections"]}
    config = json.loads((directory / "config.json").read_text())
    theta = float(config["pretrained_config"]["rotary_base"])
    values = _Values(description, theta, device)
    drawn: dict[Any, NDArray[np.uint8]] = {}
    written = 0
    descriptor = os.open(directory / "rank0.engine", os.O_WRONLY)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for tensor in description["tensors"]:
                kind = (re.sub(r"\d+", "#", tensor["name"]), tensor["dtype"], *tensor["shape"])
                if kind not in drawn:
                    drawn[kind] = values.draw(tensor)
                data = drawn[kind]
                assert data.nbytes == tensor["bytes"], (tensor, data.nbytes)
                begin = sections[tensor["section"]]["offset"] + tensor["offset"]
                written += data.nbytes

                def write(at: int, data: NDArray[np.uint8] = data, begin: int = begin) -> None:
                    part = data[at : at + WRITE_BYTES].data
                    done = 0
                    while done < part.nbytes:
                        done += os.pwrite(descriptor, part[done:], begin + at + done)

                list(pool.map(write, range(0, data.nbytes, WRITE_BYTES)))
    finally:
        os.close(descriptor)
    return written


class _Values:
    """Draws tensors by their names, which docs/engine-format.md gives."""

    def __init__(self, description: Mapping[str, Any], theta: float, device: str) -> None:
        self._tensors = {tensor["name"]: tensor for tensor in description["tensors"]}
        self._is_static = description["attributes"]["qformat"] in ("fp8", "int8_sq")
        self._kv_cache_dtype = description["attributes"]["kv_cache_dtype"]
        self._theta, self._device = theta, device
        self._generator = torch.Generator(device).manual_seed(0)

    def draw(self, tensor: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The bytes of a tensor, uint8 [bytes]."""
        name, dtype, shape = tensor["name"], tensor["dtype"], tuple(tensor["shape"])
        weight = self._tensors.get(name.rpartition(".")[0])
        if name.endswith("inv_freq"):
            steps = torch.arange(shape[0], dtype=torch.float32, device=self._device)
            return _bytes(self._theta ** (-steps / shape[0]), dtype)
        if name.endswith((".k_scale", ".v_scale")):
            # Keys and values are of size 1; codes of FP8 hold them as they are.
            return self._constant(shape, dtype, 0.05 if self._kv_cache_dtype == "int8" else 1.0)
        if name.endswith(".inverse") and weight is not None:
            return self._constant(shape, dtype, LARGEST[weight["dtype"]] / LARGEST_INPUT)
        if name.endswith(".scale") and weight is not None:
            largest = LARGEST[weight["dtype"]]
            scale = SPREAD / largest * weight["shape"][-1] ** -0.5
            if self._is_static:
                scale *= LARGEST_INPUT / largest
            return self._constant(shape, dtype, scale)
        values = torch.randn(*shape, device=self._device, generator=self._generator)
        if dtype in LARGEST:
            return _codes(values * (LARGEST[dtype] / SPREAD), dtype)
        if len(shape) == 1:  # a norm or a bias
            return _bytes(0.1 * values + ("norm" in name), dtype)
        return _bytes(values if "embed" in name else values * shape[-1] ** -0.5, dtype)

    def _constant(self, shape: tuple[int, ...], dtype: str, value: float) -> NDArray[np.uint8]:
        return _bytes(torch.full(shape, value), dtype)


def _codes(values: torch.Tensor, dtype: str) -> NDArray[np.uint8]:
    if dtype == "f8e4m3":
        codes = values.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    elif dtype == "i8":
        codes = values.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)
    else:
        nibbles = values.round().clamp(-7, 7).to(torch.int32).flatten() & 15
        codes = (nibbles[0::2] | (nibbles[1::2] << 4)).to(torch.uint8)
    return codes.flatten().cpu().numpy()


def _bytes(values: torch.Tensor, dtype: str) -> NDArray[np.uint8]:
    kinds = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    stored = values.to(kinds[dtype]).contiguous().flatten()
    return stored.view(torch.uint8).cpu().numpy()


def main(directory: Path, device: str = "cuda") -> None:
    begin = time.perf_counter()
    written = fill(directory, device)
    (directory / ".filled").touch()
    print(f"{directory.name}: {written / 1e9:.2f} GB in {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
