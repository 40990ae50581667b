# SPDX-License-Identifier: Apache-2.0
"""Cut steps to steps of a program: values get buffers, constants the program's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginery.builder.engine.program import Buffer, Operand, Step, Tensor
from enginery.builder.network.network import Value
from enginery.builder.targets.tensorrt.constant import Constant
from enginery.builder.targets.tensorrt.cut import CutNetwork, CutStep, StepOperand

# Steps whose output is their first input, changed.
IN_PLACE_OPS = ("kv_append", "all_reduce")


def lower_steps(
    network: CutNetwork, tensors: Mapping[Constant, Tensor]
) -> tuple[tuple[Buffer, ...], tuple[Step, ...]]:
    """Returns the buffers and steps of a rank's program.

    Args:
        network: the rank's cut network.
        tensors: the program's tensor of each constant in its steps.
    """
    plan = _BufferPlan(network)

    def operand(item: StepOperand) -> Operand:
        if isinstance(item, Value):
            return plan[item]
        return None if item is None else tensors[item]

    steps = tuple(
        Step(
            step.op,
            tuple(operand(item) for item in step.inputs),
            tuple(plan[output] for output in step.outputs),
            step.attributes,
        )
        for step in network.steps
    )
    return tuple(plan.buffers), steps


class _BufferPlan:
    """Gives each value a buffer, which a later value of its role takes over once it is free.

    A buffer is free after the last step that reads it, not during it: no step writes to what it
    reads, and so the residual stream alternates between two buffers.
    """

    def __init__(self, network: CutNetwork) -> None:
        self.buffers: list[Buffer] = []
        self._roles = network.roles
        self._of_value: dict[str, Buffer] = {}
        self._busy_until: dict[Buffer, int] = {}
        last_reads = _last_reads(network.steps)
        for position, step in enumerate(network.steps):
            for output in step.outputs:
                if step.op in IN_PLACE_OPS:
                    target = step.inputs[0]
                    assert isinstance(target, Value)
                    buffer = self._of_value[target.name]
                else:
                    buffer = self._free_buffer(output, position)
                self._of_value[output.name] = buffer
                self._busy_until[buffer] = last_reads.get(output.name, position)

    def __getitem__(self, value: Value) -> Buffer:
        return self._of_value[value.name]

    def _free_buffer(self, value: Value, position: int) -> Buffer:
        role = self._roles[value.name]
        name, number = role, 1
        while True:
            buffer = Buffer(name, value.dtype, value.rows, value.columns)
            if buffer not in self._busy_until:
                if all(other.name != name for other in self.buffers):
                    self.buffers.append(buffer)
                    return buffer
            elif self._busy_until[buffer] < position:
                return buffer
            number += 1
            name = f"{role}.{number}"


def _last_reads(steps: Sequence[CutStep]) -> dict[str, int]:
    return {
        item.name: position
        for position, step in enumerate(steps)
        for item in step.inputs
        if isinstance(item, Value)
    }
