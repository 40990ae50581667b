# SPDX-License-Identifier: Apache-2.0
"""One rank of a segmented engine on its device."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine import Engine
from .attention_work import AttentionCut
from .device import Device, SegmentRunner, View
from .image import RankImage
from .launches import KernelLibrary, mismatch
from .memory import RankMemory, RowLimits
from .staging import StagedArrays, StagingLayout
from .steps import Run, StepContext, prepare_sample, prepare_step, sample_wants_scratch

COLLECTIVES = ("all_reduce", "all_gather")


@dataclass(frozen=True)
class Collective:
    """A step that all ranks meet in."""

    op: str
    rows: str
    source: View
    destination: View


class StepList:
    """The steps of one rank for one set of arrays, cut at the collectives.

    Attributes:
        arrays: that they read.
        parts: between two collectives; one more than these.
        collectives: in order.
        sample: draws the tokens.
    """

    def __init__(self, context: StepContext, samples: bool) -> None:
        self.arrays = context.arrays
        self.parts: list[list[Run]] = [[]]
        self.collectives: list[Collective] = []
        for step in context.image.steps:
            if step.op not in COLLECTIVES:
                self.parts[-1].append(prepare_step(context, step))
                continue
            if step.version != 1 or len(step.inputs) != 1 or len(step.outputs) != 1:
                raise mismatch(step.place, "not version 1 with one input and one output")
            source, output = context.operand(step, 0), context.output(step)
            if source is None or (step.op == "all_reduce" and source != output):
                raise mismatch(step.place, "its operands are not those of a collective")
            self.collectives.append(Collective(step.op, step.outputs[0].rows, source, output))
            self.parts.append([])
        self.sample: Run | None = prepare_sample(context) if samples else None


class RankExecutor:
    """Memory, kernels, segments and steps of one rank.

    Args:
        device: of the rank.
        engine: whose weights are uploaded.
        image: of the rank.
        provider: what runs the segments.
        limits: rows of the values.
        layouts: of the staged arrays, one per kind of step.
        cuts: how attention is cut.
        num_partials: unmerged results of attention at most.
        num_blocks: of the KV cache.

    Raises:
        EngineMismatchError: the program, the SKU's kernels and the device do not go together.
        OutOfMemoryError: the device has too little memory.
    """

    def __init__(
        self,
        device: Device,
        engine: Engine,
        image: RankImage,
        provider: str,
        limits: RowLimits,
        layouts: list[StagingLayout],
        cuts: tuple[AttentionCut, ...],
        *,
        num_partials: int,
        num_blocks: int,
    ) -> None:
        self.device = device
        is_native = provider == "native"
        library = KernelLibrary(device, image.sku.kernels)
        self.memory = RankMemory(
            device,
            engine,
            image,
            limits,
            native=image.sku.native if is_native else {},
            num_partials=num_partials,
            max_samples=max(layout.capacity.samples for layout in layouts),
            num_blocks=num_blocks,
            staging_bytes=sum(layout.num_bytes for layout in layouts),
            samples_in_scratch=sample_wants_scratch(image, library),
        )
        used = {step.attributes["segment"] for step in image.steps if step.op == "run_segment"}
        runners: dict[str, SegmentRunner] = {}
        if not is_native:
            runners = {
                name: device.load_segment(image.segments[name], image.sku.plans.get(name), provider)
                for name in sorted(used)
            }
        self.steps = [
            StepList(
                StepContext(
                    image,
                    self.memory,
                    library,
                    StagedArrays(layout, device.staging(layout.num_bytes)),
                    cuts,
                    runners,
                ),
                samples=image.rank == 0,
            )
            for layout in layouts
        ]
        self.logits = self.memory.operand(image.values["logits"])
