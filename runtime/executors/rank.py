# SPDX-License-Identifier: Apache-2.0
"""One rank of a segmented engine on its device."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine import Engine
from .device import Device, SegmentRunner, View
from .image import RankImage
from .launches import KernelLibrary, mismatch
from .memory import MemoryPlan, RankMemory
from .sizes import StepSizes
from .staging import StagedArrays
from .steps import Run, StepContext, prepare_sample, prepare_step

COLLECTIVES = ("all_reduce", "all_gather")


@dataclass(frozen=True)
class Collective:
    """A step that all ranks meet in."""

    op: str
    rows: str
    source: View
    destination: View


def are_of_collective(op: str, source: View | None, output: View) -> bool:
    """Whether a collective reads and writes these: f32, and as wide as its result."""
    if source is None or not source.dtype == output.dtype == "f32":
        return False
    if op == "all_reduce":
        return source == output
    return source.shape[0] == output.shape[0] and output.shape[1] % source.shape[1] == 0


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
            if not are_of_collective(step.op, source, output):
                raise mismatch(step.place, "its operands are not those of a collective")
            assert source is not None
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
        sizes: of the steps.
        plan: of the rank's memory.

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
        sizes: StepSizes,
        plan: MemoryPlan,
    ) -> None:
        self.device = device
        library = KernelLibrary(device, image.sku.kernels)
        self.memory = RankMemory(device, engine, image, sizes, plan)
        used = {step.attributes["segment"] for step in image.steps if step.op == "run_segment"}
        runners: dict[str, SegmentRunner] = {}
        if provider != "native":
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
                    sizes.cuts,
                    runners,
                ),
                samples=image.rank == 0,
            )
            for layout in sizes.layouts
        ]
        self.logits = self.memory.operand(image.values["logits"])
