# SPDX-License-Identifier: Apache-2.0
"""FP8 checkpoints as transformers, DeepSeek and Qwen write them, and as AutoFP8 and FBGEMM do.

For a linear layer of `[N, K]` a module has

    weight            F8_E4M3 `[N, K]`
    weight_scale_inv  float `[N / block, K / block]`, rounded up, or one value; real = code * it
    weight_scale      its name in AutoFP8 (one value) and FBGEMM (`[N, 1]`)
    input_scale       one value, with static activations; activation_scale in transformers

Only static activations have a scheme ("fp8"). Where activations are quantised as they come
("dynamic"), or weights have a scale per block, no scheme computes what the checkpoint was made for:
its values are kept and its codes are not.
"""

from __future__ import annotations

from collections.abc import Mapping

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.grouped_weight import Parts
from enginery.builder.checkpoint.imports.plain_weight import Grid, PlainWeight
from enginery.builder.checkpoint.imports.stored_weight import RawTensors, StoredWeight
from enginery.builder.checkpoint.imports.tensor_checks import TensorChecks
from enginery.builder.checkpoint.imports.values import VALUE_DTYPES
from enginery.builder.errors import Problems

MAX_BLOCK = 1 << 24
ACTIVATION_SCHEMES = ("dynamic", "static")
ACTIVATION_SCALE = ".activation_scale"


def read_block_fp8(fields: Fields) -> Format:
    """Reads a `quantization_config` whose `quant_method` is "fp8" or "fbgemm_fp8".

    Args:
        fields: its entries; what is not supported is noted there.
    """
    if fields.string("quant_method") == "fbgemm_fp8":
        return BlockFp8Format(None, is_static=False)
    is_static = _choice(fields, "activation_scheme", ACTIVATION_SCHEMES) == "static"
    _choice(fields, "fmt", ("e4m3",))
    block = _block_size(fields)
    if block is not None and is_static:
        fields.problems.add(
            f"{fields.prefix}activation_scheme",
            "'static' is not supported beside weight_block_size; 'dynamic' is",
        )
    return BlockFp8Format(block, is_static=is_static)


def _choice(fields: Fields, name: str, accepted: tuple[str, ...]) -> str:
    """One of some strings, the first where the entry is missing."""
    value = fields.string(name, default=accepted[0])
    if value not in accepted:
        names = ", ".join(accepted)
        fields.problems.add(fields.prefix + name, f"{value!r} is not supported; supported: {names}")
    return value


def _block_size(fields: Fields) -> Grid | None:
    """`weight_block_size`, or None where weights have one scale each."""
    if not fields.given("weight_block_size"):
        return None
    return read_block(fields, "weight_block_size")


def read_block(fields: Fields, name: str) -> Grid:
    """A list of two sizes: rows and columns of a block."""
    size = fields.values.get(name)
    sides = size if isinstance(size, list) else []
    if len(sides) == 2 and all(type(side) is int and 1 <= side <= MAX_BLOCK for side in sides):
        return Grid(sides[0], sides[1])
    fields.problems.add(fields.prefix + name, f"{size!r} is not a list of two sizes above 0")
    return Grid(1, 1)


class BlockFp8Format(Format):
    """FP8 weights with scales per block, per row or per tensor.

    Attributes:
        block: of weights that share a scale; None where the scale's shape says it: one per row
            or one in all.
    """

    def __init__(self, block: Grid | None, *, is_static: bool) -> None:
        super().__init__("fp8", "fp8" if is_static and block is None else "none")
        self.block = block

    def weights(self, raw: RawTensors, problems: Problems) -> dict[str, StoredWeight]:
        """See `Format`."""
        return TensorChecks(raw, problems).weights(".weight", self._weight)

    def renamed(self, raw: RawTensors) -> Mapping[str, str]:
        """The scales of static activations."""
        return {
            name.removesuffix(ACTIVATION_SCALE) + ".input_scale": name
            for name in raw.tensors
            if name.endswith(ACTIVATION_SCALE)
        }

    def _weight(self, checks: TensorChecks, module: str) -> StoredWeight | None:
        name = f"{module}.weight"
        if checks.raw.tensors[name].dtype != "F8_E4M3":
            return None  # a module that was not quantised
        shape = checks.matrix(name, ("F8_E4M3",))
        scale = f"{name}_scale_inv"
        if scale not in checks.raw.tensors and f"{name}_scale" in checks.raw.tensors:
            scale = f"{name}_scale"
        if shape is None or not checks.has_dtype(scale, VALUE_DTYPES):
            return None
        whole, per_row = Grid(*shape), Grid(1, shape[1])
        grids = (self.block,) if self.block is not None else (whole, per_row)
        accepted = tuple(accepted for grid in grids for accepted in grid.shapes(shape))
        if not checks.expect(scale, VALUE_DTYPES, *accepted):
            return None
        is_whole = checks.raw.tensors[scale].shape in whole.shapes(shape)
        grid = self.block or (whole if is_whole else per_row)
        return PlainWeight(checks.raw, Parts(name, scale), "F8_E4M3", shape, grid)
