# SPDX-License-Identifier: Apache-2.0
"""The executor of tensorrt engines on one GPU: what it runs on, what runs it, how large the KV."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ...engine import Engine
from ...errors import EngineMismatchError, InvalidArgumentError
from ...executor import ExecutorInfo, Limits
from ..image import RankImage
from ..image_reader import choose_sku, read_image, sku_names
from ..memory import KvLayout, RowLimits, array_bytes
from ..segmented import SegmentedExecutor
from ..steps import attention_cuts
from .device import CudaDevice
from .memory import Progress

DEFAULT_KV_FRACTION = 0.9
GRAPH_BYTES = 512 << 20
"""Left free for recorded steps (CUDA graphs), which the driver keeps in GPU memory."""

SWITCH_INTERVAL_S = 2e-4


class TensorRTExecutor(SegmentedExecutor):
    """Runs an engine of the tensorrt target on a GPU; an `Executor`.

    Args:
        engine: stays open until `init` has returned.
        sku: of the SKUs that the engine was built for; None: the one that fits the GPU.
        device: number of the GPU among the visible ones, or a device to run on.
        provider: what runs the segments; None: the SKU's first that runs here.
        cuda_graphs: whether decode steps are recorded and replayed.
        progress: called with (bytes done, bytes in all) while weights are uploaded.

    Raises:
        NotFoundError: no cuda-python, no driver, or no such GPU.
        EngineMismatchError: the engine is not for this GPU, or for several; nothing was allocated.
        EngineFileError: the engine's sections break the format.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        sku: str | None = None,
        device: int | CudaDevice = 0,
        provider: str | None = None,
        cuda_graphs: bool = True,
        progress: Progress | None = None,
    ) -> None:
        if engine.info.tp_size > 1:
            raise EngineMismatchError(
                f"engine {engine.path!r} has tp_size {engine.info.tp_size}: several GPUs are not "
                "supported yet; build it with tp_size 1"
            )
        if isinstance(device, CudaDevice):
            cuda = device
        else:
            cuda = CudaDevice(
                device,
                cuda_graphs=cuda_graphs,
                cache_path=str(cache_file(engine.path)),
                progress=progress,
            )
        try:
            name = fitting_sku(engine, cuda, sku)
            super().__init__(engine, name, [cuda], provider=provider)
        except BaseException:
            cuda.close()
            raise
        self.device = cuda
        self._weight_bytes = engine.info.weight_bytes

    def init(self, limits: Limits, kv_cache_bytes: int) -> ExecutorInfo:
        """As `SegmentedExecutor.init`."""
        # The step thread needs the interpreter for each step. A client thread that is busy in
        # Python lets it in after this interval only, whose default is longer than a decode step.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        return super().init(limits, kv_cache_bytes)

    def default_kv_cache_bytes(self, fraction: float | None, limits: Limits) -> int:
        """A size for the KV cache, before `init`.

        Args:
            fraction: share of what weights and workspace leave free, in (0, 1]; None: as much as
                max_batch_size sequences of max_seq_len take, in at most `DEFAULT_KV_FRACTION`.
            limits: of the runtime.

        Raises:
            InvalidArgumentError: `fraction` is out of range.
        """
        if fraction is not None and not 0 < fraction <= 1:
            raise InvalidArgumentError(f"fraction = {fraction!r}: must be in (0, 1]")
        image = self.images[0]
        free, _ = self.device.free_bytes()
        used = self._weight_bytes + estimated_workspace_bytes(image, limits) + GRAPH_BYTES
        left = max(free - used, 0)
        if fraction is not None:
            return int(fraction * left)
        blocks = limits.max_batch_size * -(-limits.max_seq_len // limits.tokens_per_block)
        return min(int(DEFAULT_KV_FRACTION * left), blocks * KvLayout(image).block_bytes)


def fitting_sku(engine: Engine, device: CudaDevice, sku: str | None) -> str:
    """The SKU to run an engine as on a device.

    Args:
        engine: opened.
        device: where.
        sku: what the user named, which must fit too; None: whichever fits, preferably one whose
            name is part of the GPU's ("h200" of "NVIDIA H200").

    Raises:
        EngineMismatchError: none fits; says what the engine is for and what the GPU is.
    """
    names = sku_names(engine) if sku is None else [sku]
    choose_sku(engine, next(iter(names), None))  # is it a tensorrt engine, and has it the SKU
    wanted = device.card.compute_capability
    # Kernels are compiled for one compute capability: others of its generation lack instructions.
    capabilities = {name: read_image(engine, name)[0].sku.compute_capability for name in names}
    fitting = [name for name in names if capabilities[name] == wanted]
    if not fitting:
        built = ", ".join(
            f"{name} (compute capability {_version(capability)})"
            for name, capability in capabilities.items()
        )
        raise EngineMismatchError(
            f"engine {engine.path!r} was built for {built}; {device.name} has compute capability "
            f"{_version(wanted)}: build it for this GPU with --sku"
        )
    card = device.card.name.lower()
    return next((name for name in fitting if name in card), fitting[0])


def estimated_workspace_bytes(image: RankImage, limits: Limits) -> int:
    """What the executor allocates beside weights and KV cache, at most."""
    rows = RowLimits(limits.max_num_tokens, limits.max_logit_rows)
    values = sum(
        array_bytes(value.dtype, rows.of(value.rows), value.columns)
        for value in image.values.values()
    )
    scratch = max(
        (
            sum(array_bytes(each.dtype, rows.of(each.rows), each.columns) for each in plan.scratch)
            for plan in image.sku.native.values()
        ),
        default=0,
    )
    splits = max((cut.max_splits(limits.max_seq_len) for cut in attention_cuts(image)), default=1)
    partials = limits.max_batch_size * splits
    partial_bytes = array_bytes("f32", partials, image.num_heads, image.head_dim + 2)
    sample_bytes = array_bytes("f32", limits.max_batch_size, image.vocab_size)
    width = -(-limits.max_seq_len // limits.tokens_per_block)
    items = partials + limits.max_num_tokens
    # int32 tables, work items of 8 and merges of 4, and about 64 bytes per token and sequence;
    # twice, for the two kinds of step.
    staging = 2 * 4 * (limits.max_batch_size * (width + 20) + limits.max_num_tokens * 16)
    staging += 2 * 4 * 12 * items
    return values + scratch + partial_bytes + sample_bytes + staging


def cache_file(engine_path: str) -> Path:
    """Where TensorRT-RTX's compiled kernels are kept: beside the engine's files."""
    path = Path(os.path.abspath(engine_path))  # noqa: PTH100 - links stay links
    folder = path if path.is_dir() else path.parent
    return folder / "tensorrt_rtx.cache"


def _version(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
