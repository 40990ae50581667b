# SPDX-License-Identifier: Apache-2.0
"""What a rank of a tensorrt engine needs of its GPU beside weights, values and the KV cache."""

from __future__ import annotations

from collections.abc import Sequence

from enginery.builder.engine.program import Buffer, Program
from enginery.builder.memory_plan import Workspace
from enginery.builder.options import BuildOptions
from enginery.builder.targets.tensorrt.native import fuse_products, plan_scratch
from enginery.builder.targets.tensorrt.segment import SegmentType, SegmentValue
from enginery.plugins.kernels import attention_tiles, tiles

SCRATCH_ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1, "f8e4m3": 1}
# Staging of a step. Per packed token its id, position and slot; for each window of attention a
# merge of partial results and a work item of at least one query.
TOKEN_STAGING_BYTES = 4 + 4 + 8
MERGE_BYTES, WORK_BYTES = 16, 32
# Per sequence beside its block table: context, row of logits, sampling record, token, work items.
SEQUENCE_STAGING_BYTES = 512
STAGING_LAYOUTS = 2  # one for steps that only decode, one for all others
F32_BYTES = 4
# Rows of logits that the runtime asks for beyond one per sequence, for logits of prompts.
EXTRA_LOGIT_ROWS = 64
ALIGNMENT, NUM_ALLOCATIONS = 256, 64  # of device memory


def workspace(
    program: Program, segments: Sequence[SegmentType], options: BuildOptions
) -> Workspace:
    """Returns what a rank needs beside its program's values.

    Segments run one after another, so their scratch shares memory. That of a TensorRT plan is
    known when it is loaded; it is taken to be what native launches need.
    """
    scratch = {"tokens": 0, "logits": 0}
    for segment in segments:
        row_bytes = sum(map(_row_bytes, plan_scratch(segment, fuse_products(segment))[1]))
        scratch[segment.rows] = max(scratch[segment.rows], row_bytes)
    table_bytes = -(-options.max_seq_len // options.tokens_per_block) * 4
    vocab_size = _attribute(program, "vocab_size")
    sampling_bytes = 2 * tiles.sample_tile(vocab_size).block * F32_BYTES
    logit_values = sum(map(_row_bytes, (b for b in program.buffers if b.rows == "logits")))
    extra_rows = min(EXTRA_LOGIT_ROWS, options.max_num_tokens - options.max_batch_size)
    num_windows = len(
        {s.attributes["sliding_window"] for s in program.steps if s.op == "paged_attention"}
    )
    num_heads = _attribute(program, "num_heads")
    head_dim = _attribute(program, "head_dim")
    return Workspace(
        token_row_bytes=(
            scratch["tokens"] + TOKEN_STAGING_BYTES + num_windows * (MERGE_BYTES + WORK_BYTES)
        ),
        logit_row_bytes=(
            scratch["logits"]
            + STAGING_LAYOUTS * (SEQUENCE_STAGING_BYTES + table_bytes)
            + sampling_bytes
        ),
        fixed_bytes=extra_rows * (scratch["logits"] + logit_values) + NUM_ALLOCATIONS * ALIGNMENT,
        # The sum over a part of the keys, its largest score and the sum of its weights; a work
        # item in both layouts, of which that for decoding is rounded up to a power of two.
        partial_bytes=(num_heads * (head_dim + 2) * F32_BYTES + num_windows * (2 + 1) * WORK_BYTES),
        split_tokens=attention_tiles.SPLIT_TOKENS,
    )


def _attribute(program: Program, name: str) -> int:
    value = program.attributes[name]
    assert isinstance(value, int)
    return value


def _row_bytes(value: SegmentValue | Buffer) -> int:
    return value.columns * SCRATCH_ITEM_BYTES[value.dtype]
