# SPDX-License-Identifier: Apache-2.0
"""The stored tensors of a `tensorrt` program, computed a second time from the checkpoint."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from enginery.builder.build import PlannedBuild, plan_build
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.errors import CheckpointError
from enginery.builder.network.weight import Weight
from enginery.builder.options import BuildRequest
from enginery.builder.targets import weight_rows
from enginery.builder.targets.rope import inverse_frequencies
from tests.support.checkpoints import write_safetensors, write_tiny_checkpoint
from tests.support.scales import add_scales, read_tensors

Array = npt.NDArray[Any]
ACTS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
# K of every layer a multiple of 128 on two ranks; nothing square.
SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_heads": 8, "num_kv_heads": 2,
    "head_dim": 32, "vocab_size": 322,
}  # fmt: skip
COLUMN_PARALLEL = {"qkv_proj": "qkv", "gate_up_proj": ("gate", "up")}


def write_model(directory: Path, family: str, qformat: str, kv: str = "auto", **more: Any) -> Path:
    write_tiny_checkpoint(directory, family, **(SIZES | more))
    return add_scales(directory, qformat, kv)


def packed(planned: PlannedBuild, rank: int) -> dict[str, bytes]:
    """The bytes of a rank's tensors by name."""
    payload = planned.payloads[rank]
    pieces: dict[int, list[bytes]] = {}
    with Checkpoint(planned.request.model) as checkpoint:
        for index, piece in payload.pack(checkpoint):
            assert index in (len(pieces) - 1, len(pieces)), "tensor by tensor, in order"
            pieces.setdefault(index, []).append(bytes(piece))
    tensors = payload.program.tensors
    assert len(pieces) == len(tensors)
    stored = {t.name: b"".join(pieces[index]) for index, t in enumerate(tensors)}
    assert all(len(stored[t.name]) == t.num_bytes for t in tensors)
    return stored


class Expected:
    """Makes every tensor of an engine from the arrays of a checkpoint, the straightforward way."""

    def __init__(self, planned: PlannedBuild, rank: int) -> None:
        self.options = planned.options
        self.rank = rank
        self.act = ACTS[planned.options.dtype]
        stored, dtypes = read_tensors(planned.request.model / "model.safetensors")
        self.tensors = {
            name: array.view(ml_dtypes.bfloat16) if dtypes[name] == "BF16" else array
            for name, array in stored.items()
        }
        self.planned = planned

    def bytes_of(self, name: str) -> bytes:
        if name == "rope.inv_freq":
            config = self.planned.config
            return inverse_frequencies(config.rope, config.head_dim).tobytes()
        if name.startswith("layers."):
            _, layer, role = name.split(".")
            source = f"model.layers.{layer}.self_attn.{role[0]}_proj.{role}"
            return self.tensors.get(source, np.ones(1, np.float32)).astype(np.float32).tobytes()
        base, _, part = name.partition(".weight")
        weight = f"{base}.weight" if part or name.endswith(".weight") else name
        return np.ascontiguousarray(self._part(weight, part)).tobytes()

    def _part(self, name: str, part: str) -> Array:
        whole = self._whole(name)
        if whole.ndim == 1:
            return self._share(name, whole.astype(np.float32), axis=0)
        if not self._has_codes(name):
            return self._share_matrix(name, whole).astype(self.act)
        codes, scale = self._quantized(whole)
        if part == "":
            codes = self._share_matrix(name, codes)
            if self.options.qformat != "int4_wo":
                return codes
            nibbles = codes.astype(np.int16) & 15
            return (nibbles[:, 0::2] + 16 * nibbles[:, 1::2]).astype(np.uint8)
        input_scale = self._input_scale(name)
        if part == ".inverse":
            return np.float32(1) / input_scale
        assert part == ".scale"
        # Of a row-parallel layer every rank has the scales of whole rows.
        share = self._share_matrix(name, scale) if scale.ndim == 2 else self._share(name, scale, 0)
        return share * input_scale if self.options.qformat in ("fp8", "int8_sq") else share

    def _quantized(self, whole: Array) -> tuple[Array, Array]:
        """Codes, and the scale of the weight alone."""
        qformat, wide = self.options.qformat, whole.astype(np.float32)
        amax = np.abs(wide).max(axis=1)
        if qformat == "fp8":
            scale = amax / np.float32(448)
            scaled = np.clip(wide / scale[:, None], -448, 448)
            return scaled.astype(ml_dtypes.float8_e4m3fn), scale
        if qformat == "int4_wo":
            blocks = wide.reshape(len(wide), -1, 128)
            scale = (np.abs(blocks).max(axis=2) / np.float32(7)).astype(self.act)
            codes = np.clip(np.rint(blocks / scale.astype(np.float32)[:, :, None]), -7, 7)
            return codes.astype(np.int8).reshape(wide.shape), scale
        scale = amax / np.float32(127)
        if qformat == "int8_wo":
            scale = scale.astype(self.act)
        codes = np.rint(wide / scale.astype(np.float32)[:, None])
        return np.clip(codes, -127, 127).astype(np.int8), scale

    def _parts(self, name: str) -> list[str]:
        """The checkpoint's tensors that stand stacked under a name of the engine."""
        for fused, letters in COLUMN_PARALLEL.items():
            if fused in name:
                return [name.replace(fused, f"{letter}_proj") for letter in letters]
        if name == "lm_head.weight" and name not in self.tensors:
            return ["model.embed_tokens.weight"]
        return [name]

    def _whole(self, name: str) -> Array:
        return np.concatenate([self.tensors[part] for part in self._parts(name)])

    def _has_codes(self, name: str) -> bool:
        qformat = self.options.qformat
        if qformat == "none":
            return False
        if "_proj." in name:
            return True
        is_tied = "lm_head.weight" not in self.tensors
        is_head = name == "lm_head.weight" or (is_tied and name == "model.embed_tokens.weight")
        return qformat == "int8_wo" and is_head

    def _input_scale(self, name: str) -> Array:
        if self.options.qformat not in ("fp8", "int8_sq"):
            return np.ones(1, np.float32)
        parts = [part.replace(".weight", ".input_scale") for part in self._parts(name)]
        return np.array([max(self.tensors[part] for part in parts)], np.float32)

    def _share_matrix(self, name: str, whole: Array) -> Array:
        is_row_parallel = "o_proj" in name or "down_proj" in name
        return self._share(name, whole, axis=1 if is_row_parallel else 0)

    def _share(self, name: str, whole: Array, axis: int) -> Array:
        size = self.options.tp_size
        row_parallel = "o_proj" in name or "down_proj" in name
        is_shared = "_proj" in name or (name == "lm_head.weight" and len(whole) % size == 0)
        if size == 1 or not is_shared or (row_parallel and axis == 0):
            return whole
        ends = np.cumsum([len(self.tensors[part]) for part in self._parts(name)])[:-1]
        parts = np.split(whole, ends) if axis == 0 else [whole]
        return np.concatenate([np.split(part, size, axis)[self.rank] for part in parts])


CASES = [
    ("llama", "none", "bfloat16", 1, {}),
    ("llama", "none", "float16", 2, {"dtype": "bfloat16"}),
    ("qwen2", "none", "bfloat16", 2, {"tie": True, "dtype": "float16"}),
    ("qwen2", "int8_wo", "bfloat16", 1, {"tie": True}),
    ("qwen3", "int8_wo", "float16", 2, {}),
    ("llama", "int4_wo", "bfloat16", 2, {"dtype": "bfloat16"}),
    ("qwen2", "fp8", "bfloat16", 2, {"vocab_size": 321}),
    ("qwen3", "fp8", "bfloat16", 1, {"dtype": "bfloat16", "tie": True}),
    ("llama", "int8_sq", "float16", 2, {}),
]


@pytest.mark.parametrize(("family", "qformat", "dtype", "tp_size", "checkpoint"), CASES)
def test_the_bytes_are_those_of_an_independent_computation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    qformat: str,
    dtype: str,
    tp_size: int,
    checkpoint: dict[str, Any],
) -> None:
    monkeypatch.setattr(weight_rows, "PIECE_ELEMENTS", 5000)  # several odd pieces per weight
    model = write_model(tmp_path, family, qformat, **checkpoint)
    request = BuildRequest(model, sku="h100", qformat=qformat, dtype=dtype, tp_size=tp_size)
    planned = plan_build(request)
    for rank in range(tp_size):
        stored = packed(planned, rank)
        expected = Expected(planned, rank)
        wrong = [name for name, data in stored.items() if data != expected.bytes_of(name)]
        assert not wrong


@pytest.mark.parametrize("kv_cache_dtype", ["fp8", "int8"])
def test_scales_of_the_kv_cache(tmp_path: Path, kv_cache_dtype: str) -> None:
    model = write_model(tmp_path, "llama", "none", kv_cache_dtype)
    planned = plan_build(BuildRequest(model, sku="h100", kv_cache_dtype=kv_cache_dtype))
    stored, expected = packed(planned, 0), Expected(planned, 0)
    for name in ("layers.0.k_scale", "layers.1.v_scale"):
        assert stored[name] == expected.bytes_of(name) != np.float32(1).tobytes()


def test_an_fp8_kv_cache_without_scales_has_scale_one(tmp_path: Path) -> None:
    planned = plan_build(
        BuildRequest(write_model(tmp_path, "llama", "none"), sku="h100", kv_cache_dtype="fp8")
    )
    assert np.frombuffer(packed(planned, 0)["layers.1.k_scale"], np.float32).tolist() == [1.0]


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("tp_size", [1, 2])
def test_every_element_of_the_checkpoint_is_stored_once(
    tmp_path: Path, tie: bool, tp_size: int
) -> None:
    model = write_model(tmp_path, "qwen2", "none", tie=tie)
    planned = plan_build(BuildRequest(model, sku="h100", tp_size=tp_size))
    weights: list[set[Weight]] = [set() for _ in planned.payloads]
    elements: Counter[str] = Counter()
    for payload, seen in zip(planned.payloads, weights, strict=True):
        for constant in payload.pack.__self__.tensors:  # type: ignore[attr-defined]
            if constant.role == "data":
                assert constant.weight not in seen
                seen.add(constant.weight)
                for part in constant.weight.parts:
                    begin, end = part.columns or (0, 1)
                    elements[part.tensor] += part.num_rows * (end - begin)
    with Checkpoint(model) as checkpoint:
        assert elements.keys() == checkpoint.tensors.keys()
        for name, info in checkpoint.tensors.items():
            copies = elements[name] / np.prod(info.shape)
            # Every rank holds norms and the embedding; two ranks of a tied model also a share of
            # it as the output projection.
            is_repeated = "norm" in name or "embed" in name
            extra = 1 if tie and tp_size == 2 and "embed" in name else 0
            assert copies == (tp_size if is_repeated else 1) + extra, name


def test_packing_holds_a_few_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_rows, "PIECE_ELEMENTS", 1 << 16)
    model = write_model(tmp_path, "llama", "fp8", vocab_size=20_000)
    planned = plan_build(BuildRequest(model, sku="h100", qformat="fp8"))
    with Checkpoint(model) as checkpoint:
        tracemalloc.start()
        for _ in planned.payloads[0].pack(checkpoint):
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8_000_000 < 4 * 20_000 * 256


def replace(model: Path, name: str, value: Array, dtype: str = "F32") -> None:
    tensors, dtypes = read_tensors(model / "model.safetensors")
    tensors[name], dtypes[name] = value, dtype
    write_safetensors(model / "model.safetensors", tensors, dtypes)


@pytest.mark.parametrize("qformat", ["none", "int8_wo", "int4_wo", "fp8", "int8_sq"])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, qformat: str) -> None:
    model = write_model(tmp_path, "llama", qformat)
    bad = np.ones((256, 512), np.float32)
    bad[3, 511] = np.nan
    replace(model, "model.layers.1.mlp.down_proj.weight", bad)
    planned = plan_build(BuildRequest(model, sku="h100", qformat=qformat, tp_size=2))
    with pytest.raises(CheckpointError, match=r"1\.mlp\.down_proj\.weight: row 3 holds a NaN"):
        # In the share of the second rank.
        packed(planned, 1)


@pytest.mark.parametrize("qformat", ["none", "int8_wo", "int4_wo"])
def test_values_beyond_float16_are_refused(tmp_path: Path, qformat: str) -> None:
    model = write_model(tmp_path, "llama", qformat)
    replace(model, "model.layers.0.self_attn.o_proj.weight", np.full((256, 256), 1e8, np.float32))
    planned = plan_build(BuildRequest(model, sku="h100", qformat=qformat, dtype="float16"))
    with pytest.raises(CheckpointError, match=r"o_proj.* beyond the range of float16 .*bfloat16"):
        packed(planned, 0)
