# SPDX-License-Identifier: Apache-2.0
"""What a user asks of a build, and what that comes to for a given model and SKU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from enginery.builder.checkpoint.config import ModelConfig
from enginery.builder.errors import OptionError, Problems
from enginery.builder.refusals import kv_dtype_refusal, qformat_refusal
from enginery.builder.sku import Sku
from enginery.quantization import SCHEMES

# dtype names of the command line -> of the engine format
ENGINE_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
# Limits of the engine format.
MAX_TP_SIZE = 1024
MAX_BATCH_SIZE = 1 << 20
MAX_COUNT = (1 << 31) - 1


@dataclass(frozen=True)
class BuildRequest:
    """The options as given; None stands for the default of the SKU or of the model.

    Attributes:
        model: directory of the checkpoint.
        output: engine directory to write; None to plan alone.
        sku: name of the SKU to build for, or several of one target with commas between.
        dtype: "float32", "bfloat16", "float16" or "auto" (as the checkpoint).
        qformat: quantisation scheme, a key of `enginery.quantization.SCHEMES`, or "auto": the one
            that keeps the checkpoint's codes, "none" where it has none.
        exclude_modules: patterns of linear modules that stay in the build dtype, as in a shell.
        tp_size: number of tensor-parallel ranks.
        max_batch_size: sequences in one step.
        max_num_tokens: packed tokens in one step.
        max_seq_len: tokens of one sequence, prompt and output.
        max_input_len: tokens of one prompt.
        tokens_per_block: tokens of one KV block.
        kv_cache_dtype: a dtype, "fp8", "int8" or "auto": what the checkpoint was calibrated for,
            and else the build dtype.
        kv_cache_bytes: bytes to plan for the KV cache; None plans a share of the memory.
        overwrite: whether an engine directory that is there may be replaced.
        skip_tokenizer: build without a tokenizer; the engine then takes and gives token ids only.
        cache_dir: folder of compiled kernels and plans; None is the user's.
        no_cache: compile everything, and keep nothing of it.
    """

    model: Path
    output: Path | None = None
    sku: str = "cpu"
    dtype: str = "bfloat16"
    qformat: str = "auto"
    exclude_modules: tuple[str, ...] = ()
    tp_size: int = 1
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    max_seq_len: int | None = None
    max_input_len: int | None = None
    tokens_per_block: int | None = None
    kv_cache_dtype: str = "auto"
    kv_cache_bytes: int | None = None
    overwrite: bool = False
    skip_tokenizer: bool = False
    cache_dir: Path | None = None
    no_cache: bool = False


@dataclass(frozen=True)
class BuildOptions:
    """The options in effect: complete, checked, and consistent with model and SKU.

    Fields as in `BuildRequest`, without "auto".
    """

    sku: str
    dtype: str
    qformat: str
    tp_size: int
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    max_input_len: int
    tokens_per_block: int
    kv_cache_dtype: str
    exclude_modules: tuple[str, ...] = ()


def resolve_options(
    request: BuildRequest, config: ModelConfig, skus: Sequence[Sku]
) -> BuildOptions:
    """Fills in defaults and checks the options against each other, the model and the SKUs.

    Args:
        request: the options as given.
        config: of the model.
        skus: at least one, all of one target. An option must suit every one of them; the default
            of a limit is the least of theirs.

    Raises:
        OptionError: with every problem found.
    """
    problems = Problems("options", OptionError)

    def count(name: str, value: int | None, default: int, most: int = MAX_COUNT) -> int:
        value = default if value is None else value
        if not 1 <= value <= most:
            problems.add(name, f"{value} is not from 1 to {most}")
            return default
        return value

    def choice(name: str, value: str) -> str:
        lists = {sku.name: getattr(sku, f"{name}s") for sku in skus}
        accepted = [
            item for item in lists[skus[0].name] if all(item in built for built in lists.values())
        ]
        if value in accepted:
            return value
        refusing = next(sku for sku in skus if value not in lists[sku.name])
        reason = fix = ""
        if name == "qformat":
            reason, fix = qformat_refusal(value, refusing, accepted)
        elif name == "kv_cache_dtype":
            reason, fix = kv_dtype_refusal(value, refusing, accepted)
        problems.add(
            name,
            f"{value!r} is not built for SKU {refusing.name}"
            + (f": {reason}" if reason else "")
            + f"; accepted are {', '.join(accepted)}",
            fix,
        )
        return value

    def least(name: str) -> int:
        return min(int(getattr(sku, name)) for sku in skus)

    dtype = resolve_dtype(request.dtype, config, skus)
    stored_as = config.stored_as
    qformat = request.qformat
    if qformat == "auto":
        qformat = "none" if stored_as is None else stored_as.qformat
    kv_cache_dtype = request.kv_cache_dtype
    if kv_cache_dtype == "auto" and stored_as is not None and stored_as.kv_cache_dtype:
        kv_cache_dtype = stored_as.kv_cache_dtype
    is_auto = kv_cache_dtype == "auto"
    kv_cache_dtype = dtype if is_auto else kv_cache_dtype
    # A dtype that is refused itself is not refused a second time, under a name nobody gave.
    if not is_auto or all(dtype in sku.dtypes for sku in skus):
        kv_cache_dtype = choice("kv_cache_dtype", kv_cache_dtype)
    longest = longest_sequence(config)
    max_seq_len = request.max_seq_len
    if max_seq_len is not None and max_seq_len > longest:
        problems.add(
            "max_seq_len",
            f"{max_seq_len} is beyond what the model was made for, {longest} positions",
            f"give at most {longest}, or a checkpoint with rope scaling",
        )
        max_seq_len = None
    max_seq_len = count("max_seq_len", max_seq_len, config.max_position_embeddings)
    scheme = SCHEMES.get(qformat)
    if scheme is not None and scheme.dtypes is not None and dtype not in scheme.dtypes:
        problems.add(
            "dtype",
            f"{dtype!r} is not multiplied by the weights of {scheme.name}",
            f"choose {' or '.join(scheme.dtypes)}",
        )
    options = BuildOptions(
        sku=",".join(sku.name for sku in skus),
        dtype=choice("dtype", dtype),
        qformat=choice("qformat", qformat),
        tp_size=count("tp_size", request.tp_size, 1, MAX_TP_SIZE),
        max_batch_size=count(
            "max_batch_size", request.max_batch_size, least("max_batch_size"), MAX_BATCH_SIZE
        ),
        max_num_tokens=count("max_num_tokens", request.max_num_tokens, least("max_num_tokens")),
        max_seq_len=max_seq_len,
        max_input_len=count("max_input_len", request.max_input_len, max_seq_len),
        tokens_per_block=count(
            "tokens_per_block", request.tokens_per_block, least("tokens_per_block")
        ),
        kv_cache_dtype=kv_cache_dtype,
        exclude_modules=tuple(request.exclude_modules),
    )
    if options.max_input_len > options.max_seq_len:
        problems.add(
            "max_input_len",
            f"{options.max_input_len} is above max_seq_len {options.max_seq_len}, which counts "
            "prompt and output",
        )
    if options.max_batch_size > options.max_num_tokens:
        problems.add(
            "max_batch_size",
            f"{options.max_batch_size} is above max_num_tokens {options.max_num_tokens}: each "
            "decoding sequence takes a token of the step",
        )
    block_sizes = [
        size
        for size in skus[0].accepted_tokens_per_block
        if all(size in sku.accepted_tokens_per_block for sku in skus)
    ]
    if options.tokens_per_block not in block_sizes:
        accepted = ", ".join(map(str, block_sizes))
        problems.add("tokens_per_block", f"{options.tokens_per_block} is not one of {accepted}")
    problems.raise_if_any()
    return options


def resolve_dtype(dtype: str, config: ModelConfig, skus: Sequence[Sku]) -> str:
    """The build dtype: "auto" is the checkpoint's where it is built, and else bfloat16."""
    if dtype != "auto":
        return dtype
    stored = config.dtype
    is_built = stored is not None and all(stored in sku.dtypes for sku in skus)
    return stored if stored is not None and is_built else "bfloat16"


def longest_sequence(config: ModelConfig) -> int:
    """The longest sequence that the model's positions reach, counting rope scaling."""
    rope = config.rope
    if rope.rope_type not in ("linear", "yarn"):
        return config.max_position_embeddings
    # Checkpoints differ in whether max_position_embeddings counts the stretching already.
    original = rope.original_max_position_embeddings or config.max_position_embeddings
    return max(config.max_position_embeddings, int(original * rope.factor))
