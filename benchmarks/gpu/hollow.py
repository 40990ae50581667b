# SPDX-License-Identifier: Apache-2.0
"""Engines of real size whose weights are a hole: they are built in seconds and travel in megabytes.

The checkpoint is a sparse file of the model's shapes, and the weights section of the engine is
skipped over instead of written, so neither takes disk or time. `fill` puts random values into
the hole on the machine that runs the engine. The section's checksum is wrong before and after:
`enginery verify` refuses such an engine, nothing else looks.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.random_checkpoint import SHAPES, tensor_shapes
from enginery.builder.build import build, plan_build
from enginery.builder.engine import container, description
from enginery.builder.options import BuildRequest

INPUT_SCALE = 6.0 / 448  # activations of a normalised layer reach about 6
STATIC_SCHEMES = ("fp8", "int8_sq")


@dataclass(frozen=True)
class HollowEngine:
    """What is built: a shape of `random_checkpoint.SHAPES` in a scheme, for some SKUs."""

    shape: str
    qformat: str
    skus: str = "h100,h200"
    max_batch_size: int = 128
    max_num_tokens: int = 8192
    max_seq_len: int = 4096

    @property
    def name(self) -> str:
        """Name of the engine's folder."""
        return f"{self.shape}.{'bf16' if self.qformat == 'none' else self.qformat}"


def write_sparse_checkpoint(shape: str, qformat: str, directory: Path) -> None:
    """A checkpoint whose weights are a hole, and read as zero; activation scales are there."""
    config: dict[str, Any] = {
        "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
        **SHAPES[shape],
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    scales = list(_input_scales(config)) if qformat in STATIC_SCHEMES else []
    header: dict[str, Any] = {}
    position = 0
    for name in scales:
        header[name] = {"dtype": "F32", "shape": [], "data_offsets": [position, position + 4]}
        position += 4
    for name, extents in tensor_shapes(config):
        num_bytes = 2
        for extent in extents:
            num_bytes *= extent
        end = position + num_bytes
        header[name] = {"dtype": "BF16", "shape": list(extents), "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.write(struct.pack("<f", INPUT_SCALE) * len(scales))
        file.truncate(8 + len(encoded) + position)
    (directory / "config.json").write_text(json.dumps(config))


def _input_scales(config: dict[str, Any]) -> Iterator[str]:
    attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    mlp = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    for layer in range(config["num_hidden_layers"]):
        for linear in (*attention, *mlp):
            yield f"model.layers.{layer}.{linear}.input_scale"


def build_hollow(engine: HollowEngine, work: Path, output: Path, cache: Path) -> None:
    """Builds an engine without weights.

    Args:
        engine: which.
        work: folder for the sparse checkpoint.
        output: the engine directory, which must not be there.
        cache: of compiled kernels.
    """
    checkpoint = work / f"{engine.shape}.{engine.qformat}"
    write_sparse_checkpoint(engine.shape, engine.qformat, checkpoint)
    planned = plan_build(
        BuildRequest(
            model=checkpoint,
            output=output,
            sku=engine.skus,
            dtype="bfloat16",
            qformat=engine.qformat,
            max_batch_size=engine.max_batch_size,
            max_num_tokens=engine.max_num_tokens,
            max_seq_len=min(engine.max_seq_len, SHAPES[engine.shape]["max_position_embeddings"]),
            overwrite=True,
            skip_tokenizer=True,
            cache_dir=cache,
        )
    )
    with (
        mock.patch.object(container, "_write_section", _write_section_or_hole),
        mock.patch.object(description, "sha256_of_file", lambda path: "0" * 64),
    ):
        build(planned)


def _write_section_or_hole(file: container.LargePieces, section: container.Section) -> bytes:
    if section.name == "weights":
        file.skip(section.num_bytes)
        return bytes(32)
    digest = hashlib.sha256()
    for chunk in section.chunks():
        digest.update(chunk)
        file.write(chunk)
    return digest.digest()
