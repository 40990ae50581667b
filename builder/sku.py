# SPDX-License-Identifier: Apache-2.0
"""SKU files (`configs/skus/*.toml`): the hardware that engines are built for."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from enginery.builder.errors import OptionError, Problem, Problems, SkuError
from enginery.builder.matrix import MATRIX_FILE, Matrix, parse_matrix
from enginery.builder.toml_table import TomlTable, is_count

SKU_PACKAGE = "enginery.configs"


RATE_DTYPES = ("bfloat16", "float16", "fp8", "int8")
# What compiles the segments of a tensorrt engine; "native" is our own kernels.
PROVIDERS = ("native", "tensorrt_rtx", "tensorrt")


@dataclass(frozen=True)
class Gpu:
    """What an entry of target tensorrt says of its hardware beyond the memory.

    Attributes:
        compute_capability: (major, minor).
        num_sms: streaming multiprocessors.
        bandwidth: of the memory, bytes per second.
        peak_rates: operations per second of dense matrix products, by operand dtype ("bfloat16",
            "float16", "fp8", "int8"); a dtype that is not there the hardware does not multiply.
        providers: of segments, in order of preference; all of them are built.
        verified: what of an engine ran on this hardware; empty where nothing did.
    """

    compute_capability: tuple[int, int]
    num_sms: int
    bandwidth: float
    peak_rates: Mapping[str, float]
    providers: tuple[str, ...]
    verified: str

    @property
    def sm(self) -> int:
        """The compute capability as one number, 90 for (9, 0)."""
        return 10 * self.compute_capability[0] + self.compute_capability[1]


@dataclass(frozen=True)
class Sku:
    """One SKU.

    Attributes:
        name: as in `--sku` and in the engine's header.
        target: the target that it is lowered to.
        dtypes: the build dtypes that it takes.
        qformats, kv_cache_dtypes: what `configs/schemes.toml` says is built for it.
        memory_bytes: its memory; None is that of the machine that plans.
        reserved_bytes: what of it no engine can have.
        kv_cache_fraction: share of what weights and workspace leave for the KV cache by default.
        max_batch_size, max_num_tokens, tokens_per_block: default limits.
        accepted_tokens_per_block: the block sizes that its kernels take.
        gpu: of target tensorrt alone; None elsewhere.
    """

    name: str
    target: str
    dtypes: tuple[str, ...]
    qformats: tuple[str, ...]
    kv_cache_dtypes: tuple[str, ...]
    memory_bytes: int | None
    kv_cache_fraction: float
    max_batch_size: int
    max_num_tokens: int
    tokens_per_block: int
    accepted_tokens_per_block: tuple[int, ...]
    reserved_bytes: int = 0
    gpu: Gpu | None = None

    @property
    def is_verified(self) -> bool:
        """Whether engines for it ran on it."""
        return self.gpu is None or bool(self.gpu.verified)


def sku_names() -> list[str]:
    """Names of the SKUs that engines can be built for."""
    return sorted(Path(entry.name).stem for entry in _folder().iterdir() if _is_sku(entry))


def load_sku(name: str) -> Sku:
    """Loads a SKU by name.

    Raises:
        OptionError: there is none of that name.
        SkuError: its file is malformed.
    """
    if name not in sku_names():
        problem = Problem("sku", f"{name!r} is not known; known are {', '.join(sku_names())}")
        raise OptionError("options", [problem])
    text = (_folder() / f"{name}.toml").read_text(encoding="utf-8")
    return parse_sku(name, text, load_matrix())


@functools.cache
def load_matrix() -> Matrix:
    """Which SKU builds which scheme and which dtype of the KV cache; read once.

    Raises:
        MatrixError: `configs/schemes.toml` is malformed, or leaves something undecided.
    """
    path = resources.files(SKU_PACKAGE) / MATRIX_FILE
    return parse_matrix(path.read_text(encoding="utf-8"), sku_names())


def load_skus(names: str) -> tuple[Sku, ...]:
    """Loads the SKUs of an engine, given by their names with commas between.

    Raises:
        OptionError: one is not known, named twice, or of another target than the first.
        SkuError: a file is malformed.
    """
    problems = Problems("options", OptionError)
    skus: list[Sku] = []
    for name in names.split(","):
        sku = load_sku(name.strip())
        if any(sku.name == other.name for other in skus):
            problems.add("sku", f"{sku.name} is named twice")
        elif skus and sku.target != skus[0].target:
            problems.add(
                "sku",
                f"{sku.name} has no engine in common with {skus[0].name}: their targets are "
                f"{sku.target} and {skus[0].target}",
                "build one engine for each",
            )
        skus.append(sku)
    problems.raise_if_any()
    return tuple(skus)


def parse_sku(name: str, text: str, matrix: Matrix) -> Sku:
    """Parses a SKU file.

    Args:
        name: the file's name without its ending, which the entry `name` must repeat.
        text: its content.
        matrix: says what is built for it.

    Raises:
        SkuError: with every missing, unknown or malformed entry.
    """
    problems = Problems(f"{name}.toml", SkuError)
    try:
        table = TomlTable("", tomllib.loads(text), problems, "a SKU file")
    except tomllib.TOMLDecodeError as error:
        raise SkuError(f"{name}.toml", [Problem("file", f"is not valid TOML: {error}")]) from None
    # Tables beyond those of every SKU belong to its target.
    is_gpu = table.values.get("target") == "tensorrt"
    memory, defaults = table.table("memory"), table.table("defaults")
    accepted = table.table("accepted")
    memory_bytes = memory.take("bytes", lambda v: v == "host" or is_count(v), "host or a size")
    sku = Sku(
        name=table.take("name", lambda v: v == name, f"{name!r}, the name of the file"),
        target=table.text("target"),
        dtypes=table.strings("dtypes"),
        qformats=matrix.qformats_of(name),
        kv_cache_dtypes=matrix.kv_cache_dtypes_of(name),
        memory_bytes=None if memory_bytes == "host" else memory_bytes,
        kv_cache_fraction=memory.take(
            "kv_cache_fraction", lambda v: isinstance(v, float) and 0 < v <= 1, "above 0, at most 1"
        ),
        max_batch_size=defaults.count("max_batch_size"),
        max_num_tokens=defaults.count("max_num_tokens"),
        tokens_per_block=defaults.count("tokens_per_block"),
        accepted_tokens_per_block=tuple(
            accepted.take(
                "tokens_per_block",
                lambda v: isinstance(v, list) and v and all(map(is_count, v)),
                "a list of positive integers",
            )
            or ()
        ),
        reserved_bytes=memory.count("reserved_bytes") if is_gpu else 0,
        gpu=_gpu(table) if is_gpu else None,
    )
    for part in (memory, defaults, accepted, table):
        part.note_unknown()
    problems.raise_if_any()
    return sku


def _gpu(table: TomlTable) -> Gpu:
    """The entry's table `gpu`."""
    gpu = table.table("gpu")
    rates = gpu.table("peak_rates")
    capability = gpu.take(
        "compute_capability",
        lambda v: isinstance(v, list) and len(v) == 2 and all(type(i) is int and i >= 0 for i in v),
        "a list [major, minor]",
    )
    parsed = Gpu(
        compute_capability=tuple(capability or (0, 0)),
        num_sms=gpu.count("num_sms"),
        bandwidth=gpu.rate("bandwidth"),
        peak_rates={name: rates.rate(name) for name in RATE_DTYPES if name in rates.values},
        providers=gpu.strings("providers"),
        verified=gpu.text("verified"),
    )
    if not parsed.providers or not set(parsed.providers) <= set(PROVIDERS):
        gpu.note("providers", f"is not a list of some of {', '.join(PROVIDERS)}")
    gpu.note_unknown()
    rates.note_unknown()
    return parsed


def _folder() -> Traversable:
    return resources.files(SKU_PACKAGE) / "skus"


def _is_sku(entry: Traversable) -> bool:
    return entry.name.endswith(".toml")
