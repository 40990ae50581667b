# SPDX-License-Identifier: Apache-2.0
"""The executor of tensorrt engines on one GPU: what it runs on, what runs it, how large the KV."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ...engine import Engine
from ...errors import EngineMismatchError, InvalidArgumentError, OutOfMemoryError
from ...executor import ExecutorInfo, Limits
from ..image_reader import choose_sku, read_image, sku_names
from ..memory import KvLayout
from ..segmented import SegmentedExecutor
from .device import CudaDevice
from .memory import Progress

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
        programmatic_launch: whether kernels come onto the GPU while the one before them ends,
            where they are made for that (compute capability 9.0 and later).
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
        programmatic_launch: bool = True,
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
                programmatic_launch=programmatic_launch,
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

    def default_kv_cache_bytes(self, fraction: float, limits: Limits) -> int:
        """As `ChoosesKvCache`.

        Raises:
            InvalidArgumentError: `fraction` is out of range.
            OutOfMemoryError: weights and workspace leave nothing.
        """
        if not 0 < fraction <= 1:
            raise InvalidArgumentError(f"fraction = {fraction!r}: must be in (0, 1]")
        free, total = self.device.free_bytes()
        block_bytes = KvLayout(self.images[0]).block_bytes
        # The workspace grows with the cache: what it needs beside the largest one is enough.
        workspace = self.workspace_bytes(limits, max(free // block_bytes, 1))
        budget = int(fraction * (free - self._weight_bytes - workspace - GRAPH_BYTES))
        if budget < block_bytes:
            raise OutOfMemoryError(
                f"{self.device.name}: {free} of {total} bytes are free; weights take "
                f"{self._weight_bytes}, the workspace {workspace} and recorded steps "
                f"{GRAPH_BYTES}: nothing is left for the KV cache. Lower max_batch_size or "
                "max_num_tokens, or take a GPU with more memory"
            )
        return budget


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
    card = device.card.name.lower().replace(" ", "")  # "NVIDIA GeForce RTX 4090"
    return next((name for name in fitting if name in card), fitting[0])


def cache_file(engine_path: str) -> Path:
    """Where TensorRT-RTX's compiled kernels are kept: beside the engine's files."""
    path = Path(os.path.abspath(engine_path))  # noqa: PTH100 - links stay links
    folder = path if path.is_dir() else path.parent
    return folder / "tensorrt_rtx.cache"


def _version(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
