# SPDX-License-Identifier: Apache-2.0
"""Kernels with their arguments: checked once, launched at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import EngineMismatchError
from .device import Argument, Device, View
from .image import KernelImage, LaunchImage, NativeImage
from .sku_reader import NUM_ROWS

POINTERS = {
    "*fp32": ("f32",), "*bf16": ("bf16",), "*fp16": ("f16",), "*fp8e4nv": ("f8e4m3",),
    "*i8": ("i8", "i4"), "*u8": ("i4",), "*i32": ("i32",), "*i64": ("i64",),
}  # fmt: skip
"""The dtypes of views that a pointer parameter takes."""
NUMBERS = {"i32": int, "fp32": float}

Launch = Callable[[int], None]
"""Queues a kernel with a grid of so many programs."""


def mismatch(place: str, problem: str) -> EngineMismatchError:
    """The error of a step and a kernel that do not go together."""
    return EngineMismatchError(f"{place}: {problem}", "UNSUPPORTED_OP")


class KernelLibrary:
    """The kernels of a SKU on one device, loaded when a step first asks for them."""

    def __init__(self, device: Device, kernels: Mapping[str, KernelImage]) -> None:
        self.device = device
        self._kernels = kernels
        self._handles: dict[str, Any] = {}

    def handle(self, name: str) -> Any:
        """The device's handle of a kernel."""
        if name not in self._handles:
            self._handles[name] = self.device.load_kernel(self._kernels[name])
        return self._handles[name]

    def bind(
        self,
        place: str,
        name: str,
        arguments: Mapping[str, View | int | float | None],
        constants: Mapping[str, int | float],
    ) -> Launch:
        """Returns what launches a kernel with these arguments.

        Args:
            place: names the step in errors.
            name: of the kernel.
            arguments: by parameter; None: absent, and then the kernel is compiled without it.
            constants: that the kernel must be compiled with.

        Raises:
            EngineMismatchError: the kernel takes other arguments or has other constants.
        """
        kernel = self._kernels[name]
        where = f"{place}: kernel {name!r}"
        for key, wanted in constants.items():
            if kernel.constants.get(key) != wanted:
                raise mismatch(where, f"{key} = {kernel.constants.get(key)}, not {wanted}")
        given = {key: value for key, value in arguments.items() if value is not None}
        check_arguments(where, kernel, given)
        handle, launch = self.handle(name), self.device.launch
        return lambda grid: launch(handle, grid, given)

    def constant(self, place: str, name: str, key: str) -> int:
        """A constant of a kernel that sizes its grid.

        Raises:
            EngineMismatchError: the kernel has none, or it is no positive integer.
        """
        value = self._kernels[name].constants.get(key)
        if not isinstance(value, int) or value < 1:
            raise mismatch(f"{place}: kernel {name!r}", f"constant {key} = {value}, not positive")
        return value

    def native_segment(
        self, place: str, native: NativeImage, operands: Mapping[str, View]
    ) -> Callable[[int], None]:
        """Returns what queues a segment's launches for a number of rows."""
        launches = [self._variants(place, launch, operands) for launch in native.launches]

        def run(rows: int) -> None:
            for variants in launches:
                for max_rows, launch in variants:
                    if max_rows is None or rows <= max_rows:
                        launch(rows)
                        break

        return run

    def _variants(
        self, place: str, image: LaunchImage, operands: Mapping[str, View]
    ) -> list[tuple[int | None, Callable[[int], None]]]:
        variants = []
        for variant in image.variants:
            arguments: dict[str, Argument] = {
                parameter: 0 if operand == NUM_ROWS else operands[operand]
                for parameter, operand in image.args.items()
            }
            where = f"{place}: kernel {variant.kernel!r}"
            check_arguments(where, self._kernels[variant.kernel], arguments)
            counts = [key for key, operand in image.args.items() if operand == NUM_ROWS]
            handle = self.handle(variant.kernel)
            launch = self._rows_launch(
                handle, arguments, counts, variant.block_rows, variant.blocks
            )
            variants.append((variant.max_rows, launch))
        return variants

    def _rows_launch(
        self,
        handle: Any,
        arguments: dict[str, Argument],
        counts: list[str],
        block_rows: int,
        blocks: int,
    ) -> Callable[[int], None]:
        launch = self.device.launch

        def run(rows: int) -> None:
            for name in counts:
                arguments[name] = rows
            launch(handle, -(-rows // block_rows) * blocks, arguments)

        return run


def check_arguments(place: str, kernel: KernelImage, arguments: Mapping[str, Argument]) -> None:
    """Checks that arguments are those of a kernel's signature, of its types.

    Raises:
        EngineMismatchError: one is missing, is not passed by this kernel, or is of another type.
    """
    wanted = dict(kernel.parameters)
    if wanted.keys() != arguments.keys():
        missing = sorted(wanted.keys() - arguments.keys())
        unused = sorted(arguments.keys() - wanted.keys())
        raise mismatch(place, f"arguments missing: {missing}; not taken: {unused}")
    for name, value in arguments.items():
        kind = wanted[name]
        if isinstance(value, View):
            if value.dtype not in POINTERS.get(kind, ()):
                raise mismatch(place, f"{name} is {kind}, the step has {value.dtype}")
        elif not isinstance(value, NUMBERS.get(kind, ())):
            raise mismatch(place, f"{name} is {kind}, the step has the number {value}")
