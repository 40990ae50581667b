# SPDX-License-Identifier: Apache-2.0
"""The operations of a segmented program on one rank: a function per operation.

Each takes a step of the program, checks it, and returns what queues it for a `StepShape`. Whatever
does not depend on the shape is resolved here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .attention_work import AttentionCut
from .device import SegmentRunner, View
from .image import OpImage, RankImage, StepImage, TensorImage, ValueImage
from .launches import KernelLibrary, mismatch
from .memory import RankMemory, sample_block
from .staging import StagedArrays, StepShape

Run = Callable[[StepShape], None]


class StepContext:
    """What the steps of one rank are made of.

    Args:
        image: of the rank.
        memory: of the rank.
        library: its kernels.
        arrays: that the steps read; steps made for others read others.
        cuts: the ways in which attention is cut, in the order of the arrays' works.
        runners: of segments that a provider other than native runs; empty: all are native.
    """

    def __init__(
        self,
        image: RankImage,
        memory: RankMemory,
        library: KernelLibrary,
        arrays: StagedArrays,
        cuts: tuple[AttentionCut, ...],
        runners: Mapping[str, SegmentRunner],
    ) -> None:
        self.image = image
        self.memory = memory
        self.library = library
        self.arrays = arrays
        self.cuts = cuts
        self.runners = runners

    def operand(self, step: StepImage, index: int) -> View | None:
        """An input as a view, None where it is absent."""
        operand = step.inputs[index]
        return None if operand is None else self.memory.operand(operand)

    def output(self, step: StepImage) -> View:
        """The only output."""
        return self.memory.operand(step.outputs[0])

    def op(self, step: StepImage, name: str, *roles: str) -> OpImage:
        """The kernels of an operation.

        Raises:
            EngineMismatchError: the SKU has none for it, or lacks a role.
        """
        op = self.image.sku.ops.get(name)
        if op is None or not set(roles) <= op.kernels.keys():
            raise mismatch(step.place, f"SKU {self.image.sku.name!r} has no kernels for {name!r}")
        return op


def prepare_step(context: StepContext, step: StepImage) -> Run:
    """Makes a step ready to run; collectives are not among them.

    Raises:
        EngineMismatchError: this executor does not know the operation, or its operands, attributes
            and kernels do not go together.
    """
    known = PREPARE.get(step.op)
    if known is None or step.version != 1:
        raise mismatch(
            step.place,
            f"version {step.version} is not one of {', '.join(f'{name} 1' for name in PREPARE)}",
        )
    prepare, num_inputs, attributes = known
    if num_inputs is not None and (len(step.inputs), len(step.outputs)) != (num_inputs, 1):
        raise mismatch(step.place, f"{len(step.inputs)} inputs, {len(step.outputs)} outputs")
    if step.attributes.keys() != set(attributes):
        raise mismatch(step.place, f"attributes {sorted(step.attributes)}, not {attributes}")
    return prepare(context, step)


def _embed(context: StepContext, step: StepImage) -> Run:
    name = context.op(step, "embed", "kernel").kernels["kernel"]
    weight = _tensor(step, 0, context.image.vocab_size)
    _check_vectors(step, {1: context.image.vocab_size})
    columns = weight.shape[1]
    _check_value(step, step.outputs[0], "f32", "tokens", columns)
    blocks = -(-columns // context.library.constant(step.place, name, "BLOCK"))
    launch = context.library.bind(
        step.place,
        name,
        {
            "token_ids": context.arrays.view("token_ids"),
            "weight": context.operand(step, 0),
            "scale": context.operand(step, 1),
            "out": context.output(step),
        },
        {"COLUMNS": columns},
    )
    return lambda shape: launch(shape.tokens * blocks)


def _run_segment(context: StepContext, step: StepImage) -> Run:
    segment = context.image.segments[step.attributes["segment"]]
    images = (*segment.inputs, *segment.outputs)
    operands = {}
    for image, operand in zip(images, (*step.inputs, *step.outputs), strict=True):
        assert operand is not None  # read_image has compared the two
        operands[image.name] = context.memory.operand(operand)
    is_tokens = segment.outputs[0].rows == "tokens"
    if segment.name in context.runners:
        run = context.runners[segment.name].run
        if is_tokens:
            return lambda shape: run(shape.tokens, operands)
        return lambda shape: run(shape.logit_rows, operands) if shape.logit_rows else None
    native = context.image.sku.native[segment.name]
    operands |= context.memory.scratch(native.scratch)
    launch = context.library.native_segment(step.place, native, operands)
    if is_tokens:
        return lambda shape: launch(shape.tokens)
    return lambda shape: launch(shape.logit_rows) if shape.logit_rows else None


def _kv_append(context: StepContext, step: StepImage) -> Run:
    image, attributes = context.image, step.attributes
    name = context.op(step, "kv_append", "kernel").kernels["kernel"]
    k_cache, v_cache = _layer_cache(context, step)
    if step.inputs[0] != step.outputs[0]:
        raise mismatch(step.place, "the output is not the first input")
    _check_qkv(context, step)
    head_dim = image.head_dim
    _check_vectors(step, {1: head_dim // 2, 2: head_dim, 3: head_dim, 4: 1, 5: 1})
    launch = context.library.bind(
        step.place,
        name,
        {
            "qkv": context.operand(step, 0),
            "inv_freq": context.operand(step, 1),
            "q_norm": context.operand(step, 2),
            "k_norm": context.operand(step, 3),
            "k_scale": context.operand(step, 4),
            "v_scale": context.operand(step, 5),
            "positions": context.arrays.view("positions"),
            "slot_mapping": context.arrays.view("slot_mapping"),
            "k_cache": k_cache,
            "v_cache": v_cache,
        },
        {
            **_head_constants(image),
            "TOKENS_PER_BLOCK": image.tokens_per_block,
            "ROPE_SCALE": attributes["rope_scale"],
            "EPSILON": attributes["epsilon"],
        },
    )
    programs = image.num_kv_heads
    return lambda shape: launch(shape.tokens * programs)


def _paged_attention(context: StepContext, step: StepImage) -> Run:
    image, arrays, memory = context.image, context.arrays, context.memory
    window = step.attributes["sliding_window"]
    op = context.op(step, attention_op(window), "decode", "prefill", "combine")
    cut = next(i for i, cut in enumerate(context.cuts) if cut.sliding_window == window)
    k_cache, v_cache = _layer_cache(context, step)
    _check_qkv(context, step)
    _check_vectors(step, {1: 1, 2: 1})
    out = step.outputs[0]
    _check_value(step, out, out.dtype, "tokens", image.num_heads * image.head_dim)
    tables = arrays.view("block_tables")
    arguments: dict[str, Any] = {
        "qkv": context.operand(step, 0),
        "k_cache": k_cache,
        "v_cache": v_cache,
        "k_scale": context.operand(step, 1),
        "v_scale": context.operand(step, 2),
        "work": arrays.view(f"work{cut}"),
        "block_tables": tables,
        "context_lens": arrays.view("context_lens"),
        "positions": arrays.view("positions"),
        "partial": memory.partial,
        "partial_stats": memory.partial_stats,
        "out": context.output(step),
        "table_width": tables.shape[1],
    }
    constants = {
        **_head_constants(image),
        "TOKENS_PER_BLOCK": image.tokens_per_block,
        "SCALE": step.attributes["scale"],
        "SLIDING_WINDOW": window,
    }
    bind, place = context.library.bind, step.place
    decode = bind(place, op.kernels["decode"], arguments, constants)
    prefill = bind(place, op.kernels["prefill"], arguments, constants)
    combine = bind(
        place,
        op.kernels["combine"],
        {
            "partial": memory.partial,
            "partial_stats": memory.partial_stats,
            "merge": arrays.view(f"merge{cut}"),
            "out": context.output(step),
        },
        {"NUM_HEADS": image.num_heads, "HEAD_DIM": image.head_dim},
    )
    num_heads, num_kv_heads = image.num_heads, image.num_kv_heads

    def run(shape: StepShape) -> None:
        num_items, num_merges = shape.attention[cut]
        (prefill if shape.is_prefill else decode)(num_items * num_kv_heads)
        if num_merges:
            combine(num_merges * num_heads)

    return run


def _gather_rows(context: StepContext, step: StepImage) -> Run:
    name = context.op(step, "gather_rows", "kernel").kernels["kernel"]
    x, columns = step.inputs[0], step.outputs[0].columns
    if x != ValueImage(getattr(x, "name", ""), "f32", "tokens", columns):
        raise mismatch(step.place, f"{x} is not f32 of tokens by {columns}")
    _check_value(step, step.outputs[0], "f32", "logits", columns)
    blocks = -(-columns // context.library.constant(step.place, name, "BLOCK"))
    launch = context.library.bind(
        step.place,
        name,
        {
            "x": context.operand(step, 0),
            "logit_rows": context.arrays.view("logit_rows"),
            "out": context.output(step),
        },
        {"COLUMNS": columns},
    )
    return lambda shape: launch(shape.logit_rows * blocks) if shape.logit_rows else None


def prepare_sample(context: StepContext) -> Run:
    """What draws the step's tokens from `logits` into `RankMemory.sampled`.

    Raises:
        EngineMismatchError: the SKU has no kernel for it, or not for this vocabulary.
    """
    place, memory = "sampling", context.memory
    op = context.image.sku.ops.get("sample")
    if op is None or "kernel" not in op.kernels:
        raise mismatch(place, f"SKU {context.image.sku.name!r} has no kernel for 'sample'")
    name = op.kernels["kernel"]
    logits = memory.operand(context.image.values["logits"])
    arguments: dict[str, Any] = {
        "logits": logits,
        "samples": context.arrays.view("samples"),
        "token_ids": memory.sampled,
    }
    if sample_block(context.image):
        arguments["scratch"] = memory.sample_scratch
    launch = context.library.bind(place, name, arguments, {"VOCAB": context.image.vocab_size})
    return lambda shape: launch(shape.samples) if shape.samples else None


PREPARE: dict[str, tuple[Callable[[StepContext, StepImage], Run], int | None, tuple[str, ...]]] = {
    "embed": (_embed, 2, ()),
    "run_segment": (_run_segment, None, ("segment",)),
    "kv_append": (_kv_append, 6, ("layer", "rope_scale", "epsilon")),
    "paged_attention": (_paged_attention, 3, ("layer", "scale", "sliding_window")),
    "gather_rows": (_gather_rows, 1, ()),
}
"""Operation: what prepares it, its number of inputs (None: its segment says), its attributes."""


def attention_op(sliding_window: int) -> str:
    """The key in a SKU's ops of the attention kernels for a sliding window."""
    return f"paged_attention@{sliding_window}"


def attention_cuts(image: RankImage) -> tuple[AttentionCut, ...]:
    """How each sliding window that occurs in the program is cut, by increasing window.

    Raises:
        EngineMismatchError: the SKU has no kernels for a window, or they say no sizes.
    """
    cuts = []
    attention = [step for step in image.steps if step.op == "paged_attention"]
    windows = set()
    for layer in attention:
        window = layer.attributes.get("sliding_window")
        if not isinstance(window, int) or window < 0:
            raise mismatch(layer.place, f"sliding_window is {window!r}, not an integer from 0 on")
        windows.add(window)
    for window in sorted(windows):
        name = attention_op(window)
        op = image.sku.ops.get(name)
        if op is None or "prefill" not in op.kernels or "split_tokens" not in op.numbers:
            raise mismatch(f"SKU {image.sku.name!r}", f"no prefill kernel or split for {name!r}")
        place = f"SKU {image.sku.name!r}, {name}"
        split = op.numbers["split_tokens"]
        for kernel in (image.sku.kernels[key] for key in op.kernels.values()):
            step = kernel.constants.get("BLOCK_N", 1)
            if not isinstance(step, int) or step < 1 or split % step:
                raise mismatch(place, f"split_tokens {split}, kernel {kernel.name!r} walks {step}")
        constants = image.sku.kernels[op.kernels["prefill"]].constants
        block, group = constants.get("BLOCK_M"), constants.get("GROUP_BLOCK")
        if not isinstance(block, int) or not isinstance(group, int) or not 1 <= group <= block:
            raise mismatch(place, f"prefill has BLOCK_M {block}, GROUP_BLOCK {group}")
        cuts.append(AttentionCut(window, split, block // group))
    return tuple(cuts)


def _head_constants(image: RankImage) -> dict[str, int]:
    return {
        "NUM_HEADS": image.num_heads,
        "NUM_KV_HEADS": image.num_kv_heads,
        "HEAD_DIM": image.head_dim,
    }


def _layer_cache(context: StepContext, step: StepImage) -> tuple[View, View]:
    layer = step.attributes["layer"]
    if not isinstance(layer, int) or not 0 <= layer < context.image.num_layers:
        raise mismatch(step.place, f"layer {layer} of {context.image.num_layers}")
    return context.memory.layer_cache(layer, 0), context.memory.layer_cache(layer, 1)


def _check_qkv(context: StepContext, step: StepImage) -> None:
    image, qkv = context.image, step.inputs[0]
    columns = (image.num_heads + 2 * image.num_kv_heads) * image.head_dim
    if not isinstance(qkv, ValueImage):
        raise mismatch(step.place, "the first input is not a value")
    _check_value(step, qkv, qkv.dtype, "tokens", columns)


def _check_value(step: StepImage, value: ValueImage, dtype: str, rows: str, columns: int) -> None:
    if (value.dtype, value.rows, value.columns) != (dtype, rows, columns):
        raise mismatch(step.place, f"{value} is not {dtype} of {rows} by {columns}")


def _check_vectors(step: StepImage, sizes: Mapping[int, int]) -> None:
    """Checks the inputs at some places: tensors of one dimension of these sizes, or absent."""
    for index, size in sizes.items():
        tensor = step.inputs[index]
        is_vector = isinstance(tensor, TensorImage) and tensor.shape == (size,)
        if tensor is not None and not is_vector:
            raise mismatch(step.place, f"{tensor} is not a tensor of shape [{size}]")


def _tensor(step: StepImage, index: int, num_rows: int) -> TensorImage:
    tensor = step.inputs[index]
    if not isinstance(tensor, TensorImage) or tensor.shape[:-1] != (num_rows,):
        raise mismatch(step.place, f"{tensor} is not a matrix of {num_rows} rows")
    return tensor
