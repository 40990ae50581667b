# SPDX-License-Identifier: Apache-2.0
"""Tiny tensorrt engines, run emulated: how they are built, driven, and what they are held against.

The interpreter takes milliseconds per operation of a program, so everything here is small: the
tiles of attention too, so that 40 tokens reach over several splits and tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.builder.build import build, plan_build
from enginery.builder.options import BuildRequest
from enginery.builder.targets.tensorrt import ops
from enginery.plugins.emulate import EmulatedExecutor
from enginery.plugins.kernels import attention_tiles
from enginery.plugins.kernels.attention_tiles import AttentionTile
from enginery.runtime.batch import SAMPLE_DTYPE, SAMPLE_GREEDY, SAMPLE_HOST_ONLY, ScheduledBatch
from enginery.runtime.engine import Engine
from enginery.runtime.executor import Limits
from enginery.runtime.executors.image import TensorImage
from enginery.runtime.executors.image_reader import read_image

from .kernel_compiler import FakeCompiler
from .tolerances import Tolerance

FloatArray = npt.NDArray[np.float32]

SKU = "h100"
TOKENS_PER_BLOCK = 16
SPLIT_TOKENS = 16
MAX_NUM_TOKENS = 48
MAX_BATCH_SIZE = 6
MAX_SEQ_LEN = 112

# By scheme: an engine against transformers in float32 with the engine's own weights, and, where the
# scheme quantises activations, with these quantised where the engine does.
EMULATED = {
    "none": Tolerance(0.022, "values, attention and KV cache keep 8 bits of mantissa"),
    "int8_wo": Tolerance(0.025, "as none; a weight times its scale is rounded by ONNX alone"),
    "int4_wo": Tolerance(0.025, "as int8_wo"),
    # transformers against itself with the outputs of linear layers rounded to bfloat16: 0.08, 0.12.
    "int8_sq": Tolerance(0.11, "as none; what is off by 2^-9 may fall to the next of 255 codes"),
    "fp8": Tolerance(0.15, "as int8_sq; the next code is up to 1/8 away"),
    "kv int8": Tolerance(0.06, "as none; keys and values in 255 steps over all of a layer"),
    "kv fp8": Tolerance(0.09, "as none; keys and values keep 4 bits of mantissa"),
    "float16": Tolerance(0.003, "as none with 11 bits of mantissa"),
}

# The same engine run in another way.
SAME_STEP = Tolerance(0.025, "ONNX rounds a product before scale and residual, kernels after")
TWO_RANKS = Tolerance(0.015, "partial sums are added in another order, and rounded to bfloat16")


def build_emulated(model: Path, output: Path, **options: Any) -> Path:
    """Builds a checkpoint for `SKU` without compiling: its cubins are not for any GPU.

    Args:
        model: the checkpoint.
        output: of the engine.
        options: of `BuildRequest`, over the small limits of this module.
    """
    limits: dict[str, Any] = {
        "dtype": "bfloat16",
        "tokens_per_block": TOKENS_PER_BLOCK,
        "max_batch_size": MAX_BATCH_SIZE,
        "max_num_tokens": MAX_NUM_TOKENS,
        "max_seq_len": MAX_SEQ_LEN,
    }
    request = BuildRequest(model, output, **{"sku": SKU, "no_cache": True, **limits, **options})
    with pytest.MonkeyPatch.context() as patch:
        FakeCompiler(patch)
        patch.setattr(attention_tiles, "SPLIT_TOKENS", SPLIT_TOKENS)
        patch.setattr(
            ops, "PAGED_ATTENTION", (("decode", _decode_tile), ("prefill", _prefill_tile))
        )
        build(plan_build(request))
    return output


def _decode_tile(capability: tuple[int, int], kv: str, group_block: int) -> AttentionTile:
    return AttentionTile(16, SPLIT_TOKENS, 4, 2)


def _prefill_tile(capability: tuple[int, int], kv: str, group_block: int) -> AttentionTile:
    return AttentionTile(32, SPLIT_TOKENS, 4, 2)


class EmulatedModel:
    """An emulated engine whose steps a test schedules itself.

    Args:
        engine: opened.
        provider: of the segments.
        num_blocks: of the KV cache; given out in an order that is not theirs.
        limits: that differ from those of this module.
    """

    def __init__(
        self, engine: Engine, provider: str = "onnx", *, num_blocks: int = 32, **limits: int
    ) -> None:
        self.executor = EmulatedExecutor(engine, provider=provider)
        info = engine.info
        block_bytes = info.kv_bytes_per_token * info.tokens_per_block
        made = self.executor.init(
            Limits(
                **{
                    "max_batch_size": info.max_batch_size,
                    "max_num_tokens": info.max_num_tokens,
                    "max_logit_rows": info.max_num_tokens,
                    "max_seq_len": info.max_seq_len,
                    "tokens_per_block": info.tokens_per_block,
                    **limits,
                }
            ),
            num_blocks * block_bytes,
        )
        assert (made.num_blocks, made.block_bytes) == (num_blocks, block_bytes)
        self.vocab_size = made.vocab_size
        self._free = np.random.default_rng(5).permutation(num_blocks).tolist()
        self._tables: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}
        self._copies: list[tuple[int, int]] = []

    def step(self, tokens: Mapping[str, Sequence[int]]) -> dict[str, FloatArray]:
        """Appends tokens to sequences by name; returns the logits of each, [tokens, vocab]."""
        batch = self.batch(tokens, flags=SAMPLE_GREEDY | SAMPLE_HOST_ONLY)
        self.executor.execute(batch)
        output = self.executor.collect()
        assert output.logits is not None
        assert output.token_ids is not None and (output.token_ids == -1).all()
        ends = np.cumsum([len(own) for own in tokens.values()])[:-1]
        return dict(zip(tokens, np.split(output.logits.copy(), ends), strict=True))

    def fork(self, name: str, other: str) -> None:
        """Makes `other` a copy of a sequence: full blocks are shared, the last one is copied."""
        self._tables[other] = list(self._tables[name])
        self._lengths[other] = self._lengths[name]
        if self._lengths[name] % TOKENS_PER_BLOCK:
            block = self._free.pop()
            self._copies.append((self._tables[name][-1], block))
            self._tables[other][-1] = block

    def batch(
        self, tokens: Mapping[str, Sequence[int]], flags: int = SAMPLE_GREEDY, **fields: Any
    ) -> ScheduledBatch:
        """The step that appends tokens; all rows want logits, and each last one is sampled.

        Args:
            tokens: by sequence.
            flags: of the sample records.
            fields: of the sample records.
        """
        positions, slots = [], []
        for name, own in tokens.items():
            begin = self._lengths.get(name, 0)
            self._lengths[name] = end = begin + len(own)
            table = self._tables.setdefault(name, [])
            while len(table) * TOKENS_PER_BLOCK < end:
                table.append(self._free.pop())
            at = np.arange(begin, end)
            positions.append(at)
            blocks = np.array(table)[at // TOKENS_PER_BLOCK]
            slots.append(blocks * TOKENS_PER_BLOCK + at % TOKENS_PER_BLOCK)
        width = max(len(self._tables[name]) for name in tokens)
        tables = np.full((len(tokens), width), -1, np.int32)
        for row, name in zip(tables, tokens, strict=True):
            row[: len(self._tables[name])] = self._tables[name]
        cu_seqlens_q = np.cumsum([0, *(len(own) for own in tokens.values())])
        samples = np.zeros(len(tokens), SAMPLE_DTYPE)
        samples["logit_row"] = cu_seqlens_q[1:] - 1
        samples["flags"] = flags
        samples["position"] = [self._lengths[name] for name in tokens]
        for field, value in fields.items():
            samples[field] = value
        copies, self._copies = self._copies, []
        return ScheduledBatch(
            step_id=0,
            token_ids=np.concatenate([np.asarray(own) for own in tokens.values()]).astype(np.int32),
            positions=np.concatenate(positions).astype(np.int32),
            cu_seqlens_q=cu_seqlens_q.astype(np.int32),
            context_lens=np.array([self._lengths[name] for name in tokens], np.int32),
            block_tables=tables,
            slot_mapping=np.concatenate(slots).astype(np.int64),
            block_copies=np.array(copies, np.int32).reshape(-1, 2),
            logit_rows=np.arange(cu_seqlens_q[-1], dtype=np.int32),
            samples=samples,
        )


@contextmanager
def emulated(path: Path, provider: str = "onnx", **options: int) -> Iterator[EmulatedModel]:
    """Opens an engine directory as an `EmulatedModel`."""
    with Engine(path) as engine:
        model = EmulatedModel(engine, provider, **options)
        try:
            yield model
        finally:
            model.executor.close()


def random_tokens(count: int, seed: int = 0) -> list[int]:
    """Token ids of the tiny tokenizer's vocabulary."""
    tokens: list[int] = np.random.default_rng(seed).integers(300, size=count).tolist()
    return tokens


# ---- The reference ----


def reference_logits(checkpoint: Path, engine: Path, tokens: Sequence[int]) -> FloatArray:
    """transformers in float32 with the weights, and the activation scales, of an engine.

    Args:
        checkpoint: that the engine was built from.
        engine: of one rank.
        tokens: of one sequence.

    Returns:
        float32 [tokens, vocab].
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    with Engine(engine) as opened:
        weights = EngineWeights(opened)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(weights.dequantized(name)))
        for name, module in model.named_modules():
            factor = weights.factor(name)
            if factor is not None:
                module.register_forward_pre_hook(_Scaling(torch.from_numpy(factor)))
            inverse = weights.inverse(f"{name}.weight")
            if inverse is not None:
                rounding = _Rounding(torch, inverse, weights.dtype(f"{name}.weight"))
                module.register_forward_pre_hook(rounding)
        with torch.no_grad():
            logits: FloatArray = model(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits


class _Scaling:
    """Multiplies what comes into a linear layer by a factor of each column."""

    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __call__(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] * self.factor,)


class _Rounding:
    """Quantises what comes into a linear layer, and widens it again."""

    def __init__(self, torch: Any, inverse: float, dtype: str) -> None:
        self.torch, self.inverse, self.dtype = torch, inverse, dtype

    def __call__(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        scaled = inputs[0] * self.inverse
        if self.dtype == "i8":
            codes = self.torch.clamp(self.torch.round(scaled), -128, 127)
        else:
            codes = self.torch.clamp(scaled, -448, 448).to(self.torch.float8_e4m3fn).float()
        return (codes / self.inverse,)


class EngineWeights:
    """The weights of a one-rank engine in float32, under the names of the checkpoint."""

    def __init__(self, engine: Engine) -> None:
        image = read_image(engine)[0]
        self._engine = engine
        self._tensors = image.tensors
        heads, kv_heads = image.num_heads * image.head_dim, image.num_kv_heads * image.head_dim
        self._qkv = {"q_proj": (0, heads), "k_proj": (heads, heads + kv_heads)}
        self._qkv["v_proj"] = (heads + kv_heads, heads + 2 * kv_heads)

    def dequantized(self, name: str) -> FloatArray:
        """A parameter of the checkpoint's model."""
        fused, rows = self._find(name)
        tensor = self._tensors[fused]
        values = self._decode(tensor)
        scale = self._tensors.get(f"{fused}.scale")
        if scale is not None:
            scales = self._decode(scale)
            inverse = self.inverse(name)
            if inverse is not None:
                scales = scales * np.float32(inverse)
            blocks = scales.reshape(len(values), -1)
            values = values * np.repeat(blocks, values.shape[1] // blocks.shape[1], axis=1)
        part: FloatArray = values[rows]
        return np.ascontiguousarray(part)

    def inverse(self, name: str) -> float | None:
        """1 / scale of what comes into the layer of a weight, None where it is not quantised."""
        tensor = self._tensors.get(f"{self._find(name)[0]}.inverse")
        return None if tensor is None else float(self._decode(tensor)[0])

    def factor(self, module: str) -> FloatArray | None:
        """What each column that comes into a layer is multiplied by, None where it is not."""
        tensor = self._tensors.get(f"{module}.factor")
        return None if tensor is None else self._decode(tensor)

    def dtype(self, name: str) -> str:
        """As stored."""
        return self._tensors[self._find(name)[0]].dtype

    def _find(self, name: str) -> tuple[str, slice]:
        parts = name.split(".")
        module = parts[-2] if len(parts) > 1 else ""
        if module in self._qkv:
            fused = ".".join([*parts[:-2], "qkv_proj", parts[-1]])
            return fused, slice(*self._qkv[module])
        if module in ("gate_proj", "up_proj"):
            fused = ".".join([*parts[:-2], "gate_up_proj", parts[-1]])
            half = self._tensors[fused].shape[0] // 2
            return fused, slice(0, half) if module == "gate_proj" else slice(half, None)
        return name, slice(None)

    def _decode(self, tensor: TensorImage) -> FloatArray:
        import torch

        section = self._engine.section(tensor.section)
        data = section[tensor.offset : tensor.offset + tensor.num_bytes].copy()
        if tensor.dtype == "i4":
            nibbles = np.stack([data & 15, data >> 4], axis=-1).astype(np.int8)
            return np.where(nibbles > 7, nibbles - 16, nibbles).reshape(tensor.shape).astype("f4")
        kinds = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8"}
        dtype = getattr(torch, kinds.get(tensor.dtype, "float8_e4m3fn"))
        values: FloatArray = torch.from_numpy(data).view(dtype).float().numpy()
        return values.reshape(tensor.shape)
