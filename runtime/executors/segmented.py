# SPDX-License-Identifier: Apache-2.0
"""The executor of segmented engines, for any `Device`.

A step: its arrays are written on the host, taken over in one copy, the program is queued, and the
drawn tokens come back. A step in which every sequence brings one token (decode) is padded to a size
from a short list, so that the device can record it once per size and replay it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..batch import SAMPLE_HOST_ONLY, ScheduledBatch
from ..engine import Engine
from ..errors import EngineMismatchError, EngineryError, InvalidArgumentError
from ..executor import ExecutorInfo, Limits, StepOutput
from .attention_work import AttentionCut, write_decode, write_step
from .buckets import bucket_for, power_of_two
from .device import Device
from .image import RankImage
from .image_reader import read_image
from .memory import KvLayout, MemoryPlan
from .rank import Collective, RankExecutor, StepList
from .sizes import DECODE, GENERAL, StepSizes
from .staging import StepShape
from .steps import attention_cuts


class SegmentedExecutor:
    """Runs an engine of the tensorrt target; an `Executor`.

    Args:
        engine: stays open until `init` has returned.
        sku: what to run it as; None: the engine's only one.
        devices: one per rank, closed with the executor.
        provider: what runs the segments: one of the devices' `providers`; None: the first of the
            SKU's providers that the devices have.

    Raises:
        EngineFileError, EngineMismatchError: the engine cannot be read, or not be run here.
    """

    def __init__(
        self,
        engine: Engine,
        sku: str | None,
        devices: Sequence[Device],
        *,
        provider: str | None = None,
    ) -> None:
        self._engine: Engine | None = engine
        self.images: tuple[RankImage, ...] = read_image(engine, sku)
        if len(devices) != len(self.images):
            raise EngineMismatchError(
                f"engine {engine.path!r} has tp_size {len(self.images)}; there are {len(devices)} "
                "devices",
                "WRONG_TARGET",
            )
        self.devices = list(devices)
        self.provider = choose_provider(self.images[0], self.devices[0], provider)
        self.name = f"{self.devices[0].name}, {self.provider}"
        self._ranks: list[RankExecutor] = []
        self._pending: _Pending | None = None

    def init(self, limits: Limits, kv_cache_bytes: int) -> ExecutorInfo:
        """Allocates everything and prepares the steps; see `Executor.init`.

        Raises:
            InvalidArgumentError: `kv_cache_bytes` does not pay for one block.
            OutOfMemoryError: a device has too little memory; nothing is allocated on it then.
            EngineMismatchError: the program, the SKU's kernels and a device do not go together, or
                the ranks with each other.
        """
        assert self._engine is not None, "init is called once"
        engine, self._engine = self._engine, None
        image = self.images[0]
        if limits.tokens_per_block != image.tokens_per_block:
            raise InvalidArgumentError(
                f"tokens_per_block = {limits.tokens_per_block}: the engine was built with "
                f"{image.tokens_per_block}"
            )
        num_blocks, block_bytes = count_blocks(self.images, kv_cache_bytes)
        cuts = common_cuts(self.images)
        self._sizes = StepSizes.of(image, limits, cuts, num_blocks)
        self._ranks = [
            RankExecutor(device, engine, rank, self.provider, self._sizes, self._plan(rank))
            for device, rank in zip(self.devices, self.images, strict=True)
        ]
        self._cuts = list(zip(self._sizes.cuts, self._sizes.max_decode_items, strict=True))
        self._vocab_size = image.vocab_size
        return ExecutorInfo(
            vocab_size=image.vocab_size,
            num_blocks=num_blocks,
            block_bytes=block_bytes,
            workspace_bytes=sum(rank.memory.workspace_bytes for rank in self._ranks),
        )

    def execute(self, batch: ScheduledBatch) -> None:
        """Queues a step; see `Executor.execute`."""
        self._pending = None
        try:
            if len(batch.block_copies):
                self._copy_blocks(batch.block_copies)
            kind, shape = self._write(batch)
            lists = [rank.steps[kind] for rank in self._ranks]
            key = shape if kind == DECODE and len(lists) == 1 else None
            self.devices[0].run(key, lambda: run_steps(self.devices[0], lists, shape))
            self._pending = self._fetch(batch)
        except BaseException:
            # The next step writes arrays that what was queued of this one may still read.
            with contextlib.suppress(EngineryError):
                self.devices[0].synchronize()
            raise

    def collect(self) -> StepOutput:
        """Waits for the step; see `Executor.collect`.

        Logits come along only when some row's token is to be drawn on the host.
        """
        pending, self._pending = self._pending, None
        assert pending is not None, "collect follows execute"
        token_ids = None if pending.token_ids is None else pending.token_ids()
        logits: npt.NDArray[Any] | None = None
        if pending.logits is not None:
            logits = pending.logits()
        elif pending.num_rows == 0:
            # Nothing to wait for, but the staged arrays must not be written before they are read.
            self.devices[0].synchronize()
            logits = np.empty((0, self._vocab_size), np.float32)
        elif token_ids is not None and token_ids.min() < 0:
            # A row is not finite: the host's sampler finds out and says so.
            logits = self.devices[0].fetch(self._ranks[0].logits.rows(pending.num_rows))()
        return StepOutput(logits, token_ids)

    def close(self) -> None:
        """Frees the devices; see `Executor.close`."""
        self._pending, self._ranks, self._engine = None, [], None
        for device in self.devices:
            device.close()

    def workspace_bytes(self, limits: Limits, num_blocks: int) -> int:
        """What `init` will allocate for rank 0 beside weights and KV cache."""
        image = self.images[0]
        sizes = StepSizes.of(image, limits, attention_cuts(image), num_blocks)
        return self._plan(image, sizes).workspace_bytes

    def _plan(self, image: RankImage, sizes: StepSizes | None = None) -> MemoryPlan:
        native = image.sku.native if self.provider == "native" else {}
        return MemoryPlan(image, sizes or self._sizes, native)

    def _write(self, batch: ScheduledBatch) -> tuple[int, StepShape]:
        """Writes the step's arrays on every rank and queues their copies."""
        tokens, sequences = batch.num_tokens, batch.num_sequences
        rows, samples = len(batch.logit_rows), len(batch.samples)
        largest = self._sizes.buckets[-1]
        is_decode = tokens == sequences <= largest and rows <= tokens and samples <= tokens
        kind = DECODE if is_decode else GENERAL
        first = self._ranks[0].steps[kind].arrays
        attention = []
        if is_decode:
            bucket = bucket_for(tokens, self._sizes.buckets)
            index = first.indices[:tokens]
            for cut, (settings, limit) in enumerate(self._cuts):
                work, merge = first.works[cut], first.merges[cut]
                used = write_decode(settings, index, index, batch.context_lens, work, merge, limit)
                padded = (power_of_two(max(used[0], bucket)), bucket if used[1] else 0)
                first.pad_attention(cut, used, padded)
                attention.append(padded)
            shape = StepShape(bucket, bucket, bucket, False, tuple(attention))
        else:
            for cut, (settings, limit) in enumerate(self._cuts):
                work, merge = first.works[cut], first.merges[cut]
                attention.append(
                    write_step(settings, batch.cu_seqlens_q, batch.context_lens, work, merge, limit)
                )
            shape = StepShape(tokens, rows, samples, tokens > sequences, tuple(attention))
        num_bytes = first.write(batch, shape)
        for rank in self._ranks:
            arrays = rank.steps[kind].arrays
            if arrays is not first:
                arrays.copy_from(first, num_bytes)
            arrays.commit(num_bytes)
        return kind, shape

    def _copy_blocks(self, pairs: npt.NDArray[np.int32]) -> None:
        for rank in self._ranks:
            memory = rank.memory
            kv, cache = memory.kv, memory.cache
            rank.device.copy_rows(
                cache, pairs, kv.row_bytes, memory.num_blocks * kv.row_bytes, kv.num_planes
            )

    def _fetch(self, batch: ScheduledBatch) -> _Pending:
        device, rank = self.devices[0], self._ranks[0]
        samples, num_rows = batch.samples, len(batch.logit_rows)
        token_ids = logits = None
        if len(samples):
            token_ids = device.fetch(rank.memory.sampled.rows(len(samples)))
        if num_rows and wants_logits(samples, num_rows):
            logits = device.fetch(rank.logits.rows(num_rows))
        return _Pending(token_ids, logits, num_rows)


class _Pending:
    """What a queued step will give."""

    def __init__(
        self,
        token_ids: Callable[[], npt.NDArray[Any]] | None,
        logits: Callable[[], npt.NDArray[Any]] | None,
        num_rows: int,
    ) -> None:
        self.token_ids = token_ids
        self.logits = logits
        self.num_rows = num_rows


def wants_logits(samples: npt.NDArray[np.void], num_rows: int) -> bool:
    """Whether a row's token is drawn on the host, or a row is wanted for itself."""
    if len(samples) == 0 or (samples["flags"] & SAMPLE_HOST_ONLY).any():
        return True
    rows = samples["logit_row"]
    if len(rows) == num_rows and (rows == np.arange(num_rows)).all():
        return False
    return len(np.unique(rows)) < num_rows


def run_steps(device: Device, lists: Sequence[StepList], shape: StepShape) -> None:
    """Queues a program on all ranks, meeting in the collectives."""
    collectives = zip(*(steps.collectives for steps in lists), strict=True)
    for part in range(len(lists[0].parts)):
        for steps in lists:
            for run in steps.parts[part]:
                run(shape)
        if part < len(lists[0].collectives):
            run_collective(device, next(collectives), shape)
    if lists[0].sample is not None:
        lists[0].sample(shape)


def run_collective(device: Device, ranks: Sequence[Collective], shape: StepShape) -> None:
    """Queues one collective over every rank's view."""
    rows = shape.tokens if ranks[0].rows == "tokens" else shape.logit_rows
    if rows == 0:
        return
    sources = [rank.source.rows(rows) for rank in ranks]
    if ranks[0].op == "all_reduce":
        device.all_reduce(sources)
    else:
        device.all_gather(sources, [rank.destination.rows(rows) for rank in ranks])


def choose_provider(image: RankImage, device: Device, provider: str | None) -> str:
    """What runs the segments: `provider`, or the SKU's first that the device has.

    Raises:
        EngineMismatchError: the device does not have it, or not every segment.
    """
    sku = image.sku
    if provider is None:
        provider = next((name for name in sku.providers if name in device.providers), None)
        if provider is None:
            raise EngineMismatchError(
                f"SKU {sku.name!r} has segments for {', '.join(sku.providers)}; {device.name} runs "
                f"{', '.join(device.providers)}",
                "WRONG_TARGET",
            )
        return provider
    if provider not in device.providers:
        raise EngineMismatchError(
            f"provider = {provider!r}: {device.name} runs {', '.join(device.providers)}",
            "WRONG_TARGET",
        )
    having = sku.native if provider == "native" else sku.plans
    lacking = sorted(image.segments.keys() - having.keys()) if provider != "onnx" else []
    if lacking:
        raise EngineMismatchError(
            f"provider = {provider!r}: SKU {sku.name!r} has no segment {lacking[0]!r} for it; it "
            f"has {', '.join(sku.providers)}",
            "WRONG_TARGET",
        )
    return provider


def common_cuts(images: Sequence[RankImage]) -> tuple[AttentionCut, ...]:
    """How all ranks cut attention: they read one rank's work items.

    Raises:
        EngineMismatchError: a rank cuts otherwise, or has other steps between the segments.
    """
    first, cuts = images[0], attention_cuts(images[0])
    for image in images[1:]:
        if shared_steps(image) != shared_steps(first) or attention_cuts(image) != cuts:
            raise EngineMismatchError(
                f"rank {image.rank} has other steps than rank 0, or attention cut otherwise: the "
                "files are not of one build",
                "RANK_MISMATCH",
            )
    return cuts


def shared_steps(image: RankImage) -> list[tuple[str, Mapping[str, Any]]]:
    """The steps that are the same on all ranks; segments may have biases on one alone."""
    return [(step.op, step.attributes) for step in image.steps if step.op != "run_segment"]


def count_blocks(images: Sequence[RankImage], kv_cache_bytes: int) -> tuple[int, int]:
    """(blocks that `kv_cache_bytes` pay for, bytes of one on all ranks).

    Raises:
        InvalidArgumentError: not one block.
    """
    block_bytes = sum(KvLayout(image).block_bytes for image in images)
    num_blocks = min(kv_cache_bytes // block_bytes, 2**31 - 1)
    if num_blocks < 1:
        raise InvalidArgumentError(
            f"kv_cache_bytes is {kv_cache_bytes}; one block of {images[0].tokens_per_block} tokens "
            f"takes {block_bytes} bytes: give at least that"
        )
    return num_blocks, block_bytes
