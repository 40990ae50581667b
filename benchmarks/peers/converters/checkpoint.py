# SPDX-License-Identifier: Apache-2.0
"""Reads the random bfloat16 checkpoints with numpy alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json, tokenizer.json and one model.safetensors of bfloat16 tensors."""

    directory: Path

    @property
    def config(self) -> dict[str, Any]:
        """The fields of config.json."""
        config: dict[str, Any] = json.loads((self.directory / "config.json").read_text())
        return config

    @property
    def tokenizer(self) -> dict[str, Any]:
        """The fields of tokenizer.json."""
        text = (self.directory / "tokenizer.json").read_text(encoding="utf-8")
        tokenizer: dict[str, Any] = json.loads(text)
        return tokenizer

    def tensors(self) -> Iterator[tuple[str, npt.NDArray[np.uint16]]]:
        """Yields each tensor's name and bfloat16 bit patterns, mapped and not read.

        Raises:
            ValueError: a tensor is not bfloat16.
        """
        path = self.directory / "model.safetensors"
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
        data = np.memmap(path, np.uint8, "r", 8 + header_bytes)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                raise ValueError(f"{name}: dtype {entry['dtype']!r} is not BF16")
            begin, end = entry["data_offsets"]
            yield name, data[begin:end].view(np.uint16).reshape(entry["shape"])


def to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Widens bfloat16 bit patterns."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
