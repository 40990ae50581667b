# SPDX-License-Identifier: Apache-2.0
"""What an engine takes in memory when it runs, reckoned before it is built."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from enginery.builder.engine.program import ITEM_BYTES, Buffer, Program
from enginery.builder.errors import LimitError, Problem
from enginery.builder.memory import host_memory_bytes
from enginery.builder.network.network import Network
from enginery.builder.options import BuildOptions
from enginery.builder.sku import Sku

I8_SCALE_BYTES = 4  # beside each row of an i8 value
KV_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "int8": 1}


@dataclass(frozen=True)
class Workspace:
    """What a rank needs beside the values of its program, in bytes.

    Attributes:
        token_row_bytes: for each packed token of a step.
        logit_row_bytes: for each row that wants logits.
        fixed_bytes: whatever the step.
        partial_bytes: of one partial result of attention, which covers part of a sequence's keys.
        split_tokens: keys that it covers at least.
        unstored_values: names of values of the program that take no memory of their own.
    """

    token_row_bytes: int = 0
    logit_row_bytes: int = 0
    fixed_bytes: int = 0
    partial_bytes: int = 0
    split_tokens: int = 1
    unstored_values: frozenset[str] = frozenset()

    def num_partials(self, num_kv_tokens: int, options: BuildOptions) -> int:
        """Partial results of one step at most.

        Every sequence may end in a part of its own; the whole parts are bounded by what the KV
        cache holds and by the longest sequences there can be.
        """
        of_cache = num_kv_tokens // self.split_tokens + options.max_batch_size
        of_sequences = options.max_batch_size * -(-options.max_seq_len // self.split_tokens)
        return min(of_cache, of_sequences)


NO_WORKSPACE = Workspace()


@dataclass(frozen=True)
class MemoryPlan:
    """Memory in bytes: of all ranks together on a CPU, of each rank on its own GPU.

    Attributes:
        memory_bytes: what the hardware has for an engine.
        weight_bytes: packed weights, mapped from the engine's files.
        workspace_bytes: values of a step of max_num_tokens tokens and max_batch_size logit rows,
            and what the target needs beside them.
        kv_bytes_per_token: keys and values of one token in all layers.
        kv_block_bytes: of one block of tokens_per_block tokens.
        kv_cache_bytes: planned for the KV cache, a whole number of blocks.
        num_kv_blocks: how many that are.
        num_full_sequences: how many sequences of max_seq_len tokens they hold.
    """

    memory_bytes: int
    weight_bytes: int
    workspace_bytes: int
    kv_bytes_per_token: int
    kv_block_bytes: int
    kv_cache_bytes: int
    num_kv_blocks: int
    num_full_sequences: int

    def to_json(self) -> dict[str, int]:
        """The attributes by name."""
        return dataclasses.asdict(self)


def plan_memory(
    network: Network,
    programs: Sequence[Program],
    options: BuildOptions,
    sku: Sku,
    kv_cache_bytes: int | None,
    extra: Workspace = NO_WORKSPACE,
) -> MemoryPlan:
    """Reckons the memory and checks that it is there.

    Ranks on a CPU share its memory. Each rank of a GPU engine has a GPU of its own: the plan is
    that of the rank that takes most.

    Args:
        network: of the whole model.
        programs: of all ranks.
        options: limits in effect.
        sku: gives the memory, and the share of it for the KV cache.
        kv_cache_bytes: what to plan for the KV cache; None plans the SKU's share of what is free,
            at most what max_batch_size sequences of max_seq_len take.
        extra: what the target needs beside the values of a program; of one rank.

    Raises:
        LimitError: something does not fit; the message names the largest that does.
    """
    memory_bytes = host_memory_bytes() if sku.memory_bytes is None else sku.memory_bytes
    memory_bytes -= sku.reserved_bytes
    config = network.config
    num_kv_heads = config.num_kv_heads
    if sku.gpu is not None:
        programs = [max(programs, key=Program.weight_bytes)]
        num_kv_heads //= options.tp_size
    item_bytes = KV_ITEM_BYTES[options.kv_cache_dtype]
    per_token = 2 * config.num_layers * num_kv_heads * config.head_dim * item_bytes
    block_bytes = per_token * options.tokens_per_block
    # What one more block takes: itself, and room for the partial results that it may lead to.
    block_cost = block_bytes + -(
        -extra.partial_bytes * options.tokens_per_block // extra.split_tokens
    )
    # The least that leaves a block: itself, or that of which the SKU's share is one.
    least_kv_bytes = block_cost
    if kv_cache_bytes is None:
        least_kv_bytes = math.ceil(block_cost / sku.kv_cache_fraction) + 1
    weight_bytes = sum(program.weight_bytes() for program in programs)
    row_bytes = _row_bytes(programs, extra)
    workspace_bytes = (
        options.max_num_tokens * row_bytes["tokens"]
        + options.max_batch_size * row_bytes["logits"]
        + extra.fixed_bytes
    )
    free_bytes = memory_bytes - weight_bytes - workspace_bytes
    largest_kv_bytes = free_bytes * block_bytes // block_cost
    if kv_cache_bytes is not None and block_bytes <= largest_kv_bytes < kv_cache_bytes:
        raise _limit(
            "kv_cache_bytes",
            f"{kv_cache_bytes} do not fit: of {memory_bytes} bytes of memory, weights take "
            f"{weight_bytes} and the workspace {workspace_bytes}",
            f"the largest that fits is {largest_kv_bytes}",
        )
    if free_bytes < least_kv_bytes:
        room = memory_bytes - weight_bytes - extra.fixed_bytes - least_kv_bytes
        raise _workspace_error(room, row_bytes, options, weight_bytes, memory_bytes)

    blocks_per_sequence = -(-options.max_seq_len // options.tokens_per_block)
    if kv_cache_bytes is None:
        useful = options.max_batch_size * blocks_per_sequence
        num_blocks = min(int(free_bytes * sku.kv_cache_fraction) // block_cost, useful)
    else:
        num_blocks = kv_cache_bytes // block_bytes
    if num_blocks == 0:
        raise _limit(
            "kv_cache_bytes",
            f"{kv_cache_bytes} is less than a block of {options.tokens_per_block} tokens",
            f"a block takes {block_bytes}",
        )
    if num_blocks < blocks_per_sequence:
        source = "given" if kv_cache_bytes is not None else "planned, a share of the free memory"
        raise _limit(
            "max_seq_len",
            f"one sequence of {options.max_seq_len} tokens takes "
            f"{blocks_per_sequence * block_bytes} bytes of KV cache; "
            f"{num_blocks * block_bytes} are {source}",
            f"the largest max_seq_len that fits is {num_blocks * options.tokens_per_block}; "
            f"the largest kv_cache_bytes is {largest_kv_bytes}",
        )
    num_partials = extra.num_partials(num_blocks * options.tokens_per_block, options)
    workspace_bytes += (num_partials - options.max_batch_size) * extra.partial_bytes
    return MemoryPlan(
        memory_bytes=memory_bytes,
        weight_bytes=weight_bytes,
        workspace_bytes=workspace_bytes,
        kv_bytes_per_token=per_token,
        kv_block_bytes=block_bytes,
        kv_cache_bytes=num_blocks * block_bytes,
        num_kv_blocks=num_blocks,
        num_full_sequences=num_blocks // blocks_per_sequence,
    )


def describe_plan(plan: MemoryPlan, options: BuildOptions, sku: Sku | None = None) -> str:
    """Returns the plan as lines for a person, with the limits that it was made for.

    Args:
        plan: the plan.
        options: the limits.
        sku: the hardware, where more than one or a GPU is built for.
    """
    rows = [
        ("weights", format_bytes(plan.weight_bytes), f"qformat {options.qformat}, {options.dtype}"),
        (
            "workspace",
            format_bytes(plan.workspace_bytes),
            f"max_num_tokens {options.max_num_tokens}, max_batch_size {options.max_batch_size}",
        ),
        (
            "KV cache",
            format_bytes(plan.kv_cache_bytes),
            (
                f"{plan.num_kv_blocks} blocks of {options.tokens_per_block} tokens, "
                f"{options.kv_cache_dtype}, {plan.kv_bytes_per_token} bytes per token"
            ),
        ),
    ]
    total = plan.weight_bytes + plan.workspace_bytes + plan.kv_cache_bytes
    rows.append(("total", format_bytes(total), f"of {format_bytes(plan.memory_bytes)}"))
    lines = [f"  {name:<10}{size:>10}   {note}" for name, size, note in rows]
    lines.append(
        f"  The KV cache holds {plan.num_full_sequences} sequences of max_seq_len "
        f"{options.max_seq_len} tokens, or {plan.num_kv_blocks * options.tokens_per_block} tokens "
        "of shorter ones."
    )
    return "\n".join([f"Memory plan{_scope(options, sku)}", *lines])


def _scope(options: BuildOptions, sku: Sku | None) -> str:
    """Of what the numbers are, in brackets; nothing where there is but one rank on a CPU."""
    if sku is None or sku.gpu is None:
        return f" (all {options.tp_size} ranks)" if options.tp_size > 1 else ""
    ranks = f", each of {options.tp_size} ranks" if options.tp_size > 1 else ""
    return f" ({sku.name}{ranks}; {format_bytes(sku.reserved_bytes)} of the GPU are not counted)"


def format_bytes(count: int) -> str:
    """A size for people, in powers of 1024 and three digits."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB" if size < 1000 else f"{size:.0f} GiB"


def _row_bytes(programs: Sequence[Program], extra: Workspace) -> dict[str, int]:
    """Bytes that one more row of each kind takes on all ranks of the programs."""
    totals = {
        "tokens": len(programs) * extra.token_row_bytes,
        # The one partial result that each sequence may have whatever the KV cache holds.
        "logits": len(programs) * extra.logit_row_bytes + extra.partial_bytes,
    }
    for program in programs:
        for buffer in program.buffers:
            if buffer.name not in extra.unstored_values:
                totals[buffer.rows] += value_row_bytes(buffer)
    return totals


def value_row_bytes(buffer: Buffer) -> int:
    """Bytes of a row of a value, with its scale where it has one."""
    scale_bytes = I8_SCALE_BYTES if buffer.dtype == "i8" else 0
    return buffer.columns * ITEM_BYTES[buffer.dtype] + scale_bytes


def _workspace_error(
    room: int, row_bytes: dict[str, int], options: BuildOptions, weight_bytes: int, memory: int
) -> LimitError:
    """Names the largest step whose values fit in `room` bytes."""
    num_tokens = (room - options.max_batch_size * row_bytes["logits"]) // row_bytes["tokens"]
    found = f"weights take {weight_bytes} of {memory} bytes, which leaves {max(room, 0)} for it"
    if num_tokens >= options.max_batch_size:
        return _limit(
            "max_num_tokens",
            f"a step of {options.max_num_tokens} tokens does not fit: {found}",
            f"the largest that fits is {num_tokens}",
        )
    # max_num_tokens may not be below max_batch_size, so both must come down.
    batch_size = room // (row_bytes["tokens"] + row_bytes["logits"])
    if batch_size >= 1:
        return _limit(
            "max_batch_size",
            f"a step of {options.max_batch_size} sequences does not fit: {found}",
            f"with max_num_tokens the same, the largest that fits is {batch_size}",
        )
    return _limit(
        "weights",
        f"take {weight_bytes} bytes; the memory is {memory}, and a step and the KV cache need some",
        "choose a --qformat with fewer bits, more ranks, or hardware with more memory",
    )


def _limit(field: str, message: str, fix: str) -> LimitError:
    return LimitError("limits", [Problem(field, message, fix)])
