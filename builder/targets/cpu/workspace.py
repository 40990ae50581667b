# SPDX-License-Identifier: Apache-2.0
"""What the `cpu` executor needs in memory beside a program's tensors."""

from __future__ import annotations

from enginery.builder.engine.program import PANEL, Buffer, Program, Step
from enginery.builder.memory_plan import Workspace, value_row_bytes

F32_BYTES = 4
BF16_BYTES = 2


def workspace(program: Program) -> Workspace:
    """Returns what the executor adds to the program's values, and which of these add nothing.

    What only one step needs shares memory with what other steps do, and a value takes that of a
    wider one which is there at other steps. The scratch of threads, of
    which only the machine that runs knows the number, is left out: about a megabyte each.
    """
    head_dim = program.attributes["head_dim"]
    assert isinstance(head_dim, int)
    unstored: set[str] = set()
    of_one_step = {"tokens": [0], "logits": [0]}
    for step, following in zip(program.steps, program.steps[1:], strict=False):
        (output,) = step.outputs
        if step.op == "paged_attention" and output.dtype != "f32":
            of_one_step[output.rows].append(F32_BYTES * output.columns)
        if _runs_with_silu_mul(step, following):
            unstored.add(output.name)
            if following.outputs[0].dtype == "i8":
                of_one_step[output.rows].append(BF16_BYTES * following.outputs[0].columns)
    # Cosines and sines stand beside them, of each token half a head's.
    angles = F32_BYTES * head_dim
    return Workspace(
        token_row_bytes=angles + max(of_one_step["tokens"]),
        logit_row_bytes=max(of_one_step["logits"]),
        unstored_values=frozenset(unstored | _values_that_share(program, unstored)),
    )


def _values_that_share(program: Program, unstored: set[str]) -> set[str]:
    """Names of values that are there only at steps where a wider one is not."""
    lifetimes: dict[Buffer, tuple[int, int]] = {}
    for position, step in enumerate(program.steps):
        for operand in (*step.inputs, *step.outputs):
            if isinstance(operand, Buffer) and operand.name not in unstored:
                begin, _ = lifetimes.get(operand, (position, position))
                lifetimes[operand] = begin, position
    sharing: set[str] = set()
    places: list[tuple[str, list[tuple[int, int]]]] = []  # for which rows, and when taken
    for buffer in sorted(lifetimes, key=value_row_bytes, reverse=True):
        begin, end = lifetimes[buffer]
        for rows, taken in places:
            if rows == buffer.rows and all(end < first or last < begin for first, last in taken):
                taken.append((begin, end))
                sharing.add(buffer.name)
                break
        else:
            places.append((buffer.rows, [(begin, end)]))
    return sharing


def _runs_with_silu_mul(step: Step, following: Step) -> bool:
    """Whether the executor makes one operation of a product and the activation that reads it."""
    output = step.outputs[0]
    return (
        (step.op, following.op, following.version) == ("linear", "silu_mul", 1)
        and not step.attributes["accumulate"]
        and following.inputs[0] == output
        and isinstance(output, Buffer)
        and output.columns % (2 * PANEL) == 0
    )
