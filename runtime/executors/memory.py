# SPDX-License-Identifier: Apache-2.0
"""The memory of one rank on its device: what is needed, whether it is there, where it lies.

weights     the sections that tensors lie in, as they are
values      every value of the program, with room for the step limits
scratch     of the native segment that runs, shared by all of them
partials    unmerged results of attention
staging     what a step brings along
sampling    the tokens drawn, and what drawing them needs
KV cache    [layer][K, then V][block][kv head][token in block][head_dim]
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ..engine import Engine
from ..errors import OutOfMemoryError
from .device import ALIGNMENT, ELEMENT_BITS, Device, View
from .image import NativeImage, RankImage, ScratchImage, TensorImage, ValueImage
from .sizes import RowLimits, StepSizes

KV_CACHE = "KV cache"


def array_bytes(dtype: str, *shape: int) -> int:
    """Size of an array, rounded up to whole allocations."""
    return -(-prod(shape) * ELEMENT_BITS[dtype] // (8 * ALIGNMENT)) * ALIGNMENT


class KvLayout:
    """Sizes of a rank's KV cache.

    Attributes:
        row_bytes: of a block of one layer's K, or of its V.
        num_planes: K and V of every layer.
        block_bytes: of a block in all layers.
    """

    def __init__(self, image: RankImage) -> None:
        self.dtype = image.kv_dtype
        self.block_shape = (image.num_kv_heads, image.tokens_per_block, image.head_dim)
        self.row_bytes = prod(self.block_shape) * ELEMENT_BITS[self.dtype] // 8
        self.num_planes = 2 * image.num_layers
        self.block_bytes = self.num_planes * self.row_bytes


class MemoryPlan:
    """What one rank needs on its device.

    Args:
        image: of the rank.
        sizes: of its steps.
        native: the segments that run as launches; empty where another provider runs them.

    Attributes:
        needed: bytes by purpose.
        workspace_bytes: of all but weights and KV cache.
    """

    def __init__(
        self, image: RankImage, sizes: StepSizes, native: Mapping[str, NativeImage]
    ) -> None:
        rows = sizes.rows
        self.value_bytes = {
            value.name: array_bytes(value.dtype, rows.of(value.rows), value.columns)
            for value in image.values.values()
        }
        self.scratch_bytes = max(
            sum(scratch_bytes(entry, rows) for entry in segment.scratch)
            for segment in (*native.values(), NativeImage((), ()))
        )
        self.partial_shape = (max(1, sizes.num_partials), image.num_heads, image.head_dim)
        self.stats_shape = (*self.partial_shape[:2], 2)
        self.sampled_shape = (sizes.max_samples,)
        # Two rows of the kernel's block for each sample.
        self.sample_scratch_shape = (sizes.max_samples, max(1, 2 * sample_block(image)))
        section_bytes: dict[str, int] = {}
        for tensor in image.tensors.values():
            end = tensor.offset + tensor.num_bytes
            section_bytes[tensor.section] = max(section_bytes.get(tensor.section, 0), end)
        self.needed = {
            "weights": sum(section_bytes.values()),
            "values": sum(self.value_bytes.values()),
            "scratch": self.scratch_bytes,
            "attention partials": array_bytes("f32", *self.partial_shape)
            + array_bytes("f32", *self.stats_shape),
            "staging": sum(layout.num_bytes for layout in sizes.layouts),
            "sampling": array_bytes("i32", *self.sampled_shape)
            + array_bytes("f32", *self.sample_scratch_shape),
            KV_CACHE: sizes.num_blocks * KvLayout(image).block_bytes,
        }
        self.workspace_bytes = (
            sum(self.needed.values()) - self.needed["weights"] - self.needed[KV_CACHE]
        )


def sample_block(image: RankImage) -> int:
    """Floats in a row of what the kernel that samples needs; 0 where it needs nothing."""
    op = image.sku.ops.get("sample")
    name = None if op is None else op.kernels.get("kernel")
    if name is None:
        return 0
    kernel = image.sku.kernels[name]
    block = kernel.constants.get("BLOCK")
    wants = any(parameter == "scratch" for parameter, _ in kernel.parameters)
    return block if wants and isinstance(block, int) else 0


def scratch_bytes(entry: ScratchImage, rows: RowLimits) -> int:
    """Size of an array that a native segment needs while it runs."""
    return array_bytes(entry.dtype, rows.of(entry.rows), entry.columns)


class RankMemory:
    """Allocates and lays out the memory of one rank.

    Args:
        device: of the rank.
        engine: the weights' sections are uploaded from it.
        image: of the rank.
        sizes: of its steps.
        plan: of the two.

    Raises:
        OutOfMemoryError: the device has less than is needed; lists what is needed for what.
    """

    def __init__(
        self, device: Device, engine: Engine, image: RankImage, sizes: StepSizes, plan: MemoryPlan
    ) -> None:
        check_free(device, plan.needed)
        self.rows = sizes.rows
        self.kv = KvLayout(image)
        self.num_blocks = sizes.num_blocks
        self.workspace_bytes = plan.workspace_bytes
        sections = sorted({tensor.section for tensor in image.tensors.values()})
        self._sections = {
            name: device.upload(name, engine.section(name, image.rank)) for name in sections
        }
        self._values = _carve(device, "values", plan.value_bytes)
        self._scratch = device.allocate("scratch", plan.scratch_bytes) if plan.scratch_bytes else 0
        self._cache = device.allocate(KV_CACHE, plan.needed[KV_CACHE])
        self.partial = _whole(device, "attention partials", "f32", plan.partial_shape)
        self.partial_stats = _whole(device, "attention statistics", "f32", plan.stats_shape)
        self.sampled = _whole(device, "sampled tokens", "i32", plan.sampled_shape)
        self.sample_scratch = _whole(device, "sampling", "f32", plan.sample_scratch_shape)

    @property
    def cache(self) -> View:
        """The whole KV cache as rows of one block's K or V: [planes * num_blocks, row elements]."""
        rows = self.kv.num_planes * self.num_blocks
        return View(self._cache, 0, self.kv.dtype, (rows, prod(self.kv.block_shape)))

    def layer_cache(self, layer: int, kind: int) -> View:
        """K (`kind` 0) or V (1) of a layer, [num_blocks, kv_heads, tokens_per_block, head_dim]."""
        offset = (2 * layer + kind) * self.num_blocks * self.kv.row_bytes
        return View(self._cache, offset, self.kv.dtype, (self.num_blocks, *self.kv.block_shape))

    def operand(self, operand: TensorImage | ValueImage) -> View:
        """A tensor, or a value with room for the limits."""
        if isinstance(operand, TensorImage):
            section = self._sections[operand.section]
            return View(section, operand.offset, operand.dtype, operand.shape)
        buffer, offset = self._values[operand.name]
        shape = (self.rows.of(operand.rows), operand.columns)
        return View(buffer, offset, operand.dtype, shape)

    def scratch(self, entries: tuple[ScratchImage, ...]) -> dict[str, View]:
        """Scratch of one segment; that of others lies in the same place."""
        views, offset = {}, 0
        for entry in entries:
            shape = (self.rows.of(entry.rows), entry.columns)
            views[entry.name] = View(self._scratch, offset, entry.dtype, shape)
            offset += scratch_bytes(entry, self.rows)
        return views


def _carve(device: Device, what: str, sizes: Mapping[str, int]) -> dict[str, tuple[Any, int]]:
    """Places arrays one after another in one allocation; returns (buffer, offset) of each."""
    buffer = device.allocate(what, sum(sizes.values()))
    places, offset = {}, 0
    for name, size in sizes.items():
        places[name] = (buffer, offset)
        offset += size
    return places


def _whole(device: Device, what: str, dtype: str, shape: tuple[int, ...]) -> View:
    return View(device.allocate(what, array_bytes(dtype, *shape)), 0, dtype, shape)


def check_free(device: Device, needed: Mapping[str, int]) -> None:
    """Checks, before anything is allocated, that a device has room for all that is needed.

    Raises:
        OutOfMemoryError: lists what is needed for what, and what to change.
    """
    free, total = device.free_bytes()
    wanted = sum(needed.values())
    if wanted <= free:
        return
    parts = ", ".join(f"{what} {size / 2**20:.1f}" for what, size in needed.items())
    raise OutOfMemoryError(
        f"{device.name}: the engine needs {wanted / 2**20:.1f} MiB ({parts}); "
        f"{free / 2**20:.1f} of {total / 2**20:.1f} MiB are free. Lower kv_cache_bytes (now "
        f"{needed[KV_CACHE]}), max_batch_size or max_num_tokens"
    )
