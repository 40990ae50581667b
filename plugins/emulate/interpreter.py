# SPDX-License-Identifier: Apache-2.0
"""Kernels of an engine, run by the Triton language's interpreter.

What runs is the source in this package. It stands for the engine's compiled kernel because the
engine records the hash of the source that was compiled: another source is refused.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from enginery.plugins.kernels import spec
from enginery.runtime.errors import EngineMismatchError
from enginery.runtime.executors.device import Argument, View
from enginery.runtime.executors.image import KernelImage

from .memory import Bytes, bytes_of

INTERPRET = "INTERPRET"
"""The constant that tells a kernel where it runs; compiled it is False."""

_ONE_LAUNCH = threading.Lock()
"""The interpreter keeps the program that it is at, and what it patches, in globals."""


class InterpretedKernel:
    """One kernel with the constants that the engine's was compiled with.

    Args:
        image: of the engine.

    Raises:
        EngineMismatchError: this package has no such kernel, or from another source.
        ImportError: torch or the Triton language is not installed; names the extra.
    """

    def __init__(self, image: KernelImage) -> None:
        check_source(image)
        spec.use_interpreter()
        try:
            import torch

            function = spec.load(image.spec)
        except ImportError as error:
            raise ImportError(
                f"emulation needs {error.name}: pip install 'enginery[emulate]'"
            ) from error
        self._name = image.name
        self._from_numpy = torch.from_numpy
        self._types = {
            name: getattr(torch, TORCH_DTYPES[kind])
            for name, kind in image.parameters
            if kind in TORCH_DTYPES
        }
        self._constants = dict(image.constants)
        if INTERPRET in self._constants:
            self._constants[INTERPRET] = True
        self._run = _in_place(function)

    def launch(self, grid: int, arguments: Mapping[str, Argument]) -> None:
        """Runs `grid` programs, one after the other.

        Raises:
            EngineMismatchError: with the constants that the engine gives it, the kernel reaches
                outside its operands.
        """
        passed = {
            name: self._tensor(name, value) if isinstance(value, View) else value
            for name, value in arguments.items()
        }
        operands = Operands(
            self._name, [bytes_of(view) for view in arguments.values() if isinstance(view, View)]
        )
        self._run((grid, 1, 1), {**passed, **self._constants}, operands)

    def _tensor(self, name: str, view: View) -> Any:
        return self._from_numpy(bytes_of(view)).view(self._types[name])


class Operands:
    """The memory that a launch may touch: an engine's constants may not fit its operands.

    Args:
        kernel: its name.
        arrays: of the operands.
    """

    def __init__(self, kernel: str, arrays: list[Bytes]) -> None:
        self._kernel = kernel
        begins = [array.ctypes.data for array in arrays]
        self._spans = [(at, at + array.size) for at, array in zip(begins, arrays, strict=True)]

    def check(self, addresses: Any, mask: Any, num_bytes: int) -> None:
        """Checks an access, which has one operand: `num_bytes` at each address in `mask`.

        Raises:
            EngineMismatchError: some of it is not the operand's.
        """
        touched = addresses[mask]
        if touched.size == 0:
            return
        low, high = int(touched.min()), int(touched.max()) + num_bytes
        if not any(begin <= low and high <= end for begin, end in self._spans):
            raise EngineMismatchError(
                f"kernel {self._kernel!r} reaches outside its operands: its constants are not "
                "those of the step that launches it",
                "UNSUPPORTED_OP",
            )


TORCH_DTYPES = {
    "*fp32": "float32", "*bf16": "bfloat16", "*fp16": "float16", "*fp8e4nv": "float8_e4m3fn",
    "*i8": "int8", "*u8": "uint8", "*i32": "int32", "*i64": "int64",
}  # fmt: skip


@functools.cache
def source_sha256(name: str) -> str:
    """Of a kernel's source here, as it was when it was first asked for."""
    return spec.source_sha256(name)


def check_source(image: KernelImage) -> None:
    """Checks that a kernel was compiled from the source in this package.

    Raises:
        EngineMismatchError: it was not.
    """
    known = spec.KERNELS.get(image.spec)
    if known is None or known.version != image.version:
        raise EngineMismatchError(
            f"kernel {image.name!r} is {image.spec} {image.version}; this version of Enginery has "
            + (f"{image.spec} {known.version}" if known else ", ".join(spec.KERNELS)),
            "UNSUPPORTED_OP",
        )
    here = source_sha256(image.spec)
    if here != image.source_sha256:
        raise EngineMismatchError(
            f"kernel {image.name!r} was compiled from source {image.source_sha256[:12]}...; the "
            f"source of {image.spec!r} here is {here[:12]}...: what would be emulated is not what "
            "the engine holds. Build the engine again, or use the Enginery that built it",
            "UNSUPPORTED_OP",
        )


Run = Callable[[tuple[int, int, int], Mapping[str, Any], Operands], None]


def _in_place(function: Any) -> Run:
    """What runs an interpreted function on the caller's own memory.

    The interpreter copies all memory that an argument points into and back again, the whole KV
    cache at every launch, for the sake of devices that the CPU cannot read. Ours it can.
    """
    from triton.runtime.interpreter import GridExecutor, InterpreterError

    class InPlaceExecutor(GridExecutor):  # type: ignore[misc]
        def _init_args_hst(self, args_dev: Any, kwargs: Any) -> tuple[Any, Any]:
            return args_dev, kwargs

        def _restore_args_dev(self, *_: Any) -> None:
            pass

    def run(grid: tuple[int, int, int], arguments: Mapping[str, Any], operands: Operands) -> None:
        with _ONE_LAUNCH, _interpreted_language(), _checked_accesses(operands):
            try:
                InPlaceExecutor(function.rewrite(), function.arg_names, grid)(**arguments)
            except InterpreterError as error:
                if isinstance(error.__cause__, EngineMismatchError):
                    raise error.__cause__ from None
                raise

    return run


@contextlib.contextmanager
def _checked_accesses(operands: Operands) -> Iterator[None]:
    """Holds every load and store of a launch to its operands: the interpreter takes any address."""
    from triton.runtime.interpreter import interpreter_builder as builder

    def load(pointers: Any, mask: Any, *rest: Any) -> Any:
        operands.check(pointers.data, mask.data, _element_bytes(pointers))
        return unchecked_load(pointers, mask, *rest)

    def store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        operands.check(pointers.data, mask.data, _element_bytes(pointers))
        return unchecked_store(pointers, value, mask, *rest)

    unchecked_load, unchecked_store = builder.create_masked_load, builder.create_masked_store
    builder.create_masked_load, builder.create_masked_store = load, store
    try:
        yield
    finally:
        del builder.create_masked_load, builder.create_masked_store


def _element_bytes(pointers: Any) -> int:
    return int(pointers.get_element_ty().primitive_bitwidth) // 8


@contextlib.contextmanager
def _interpreted_language() -> Iterator[None]:
    """Puts the interpreter's operations in place of the language's, once for a whole launch.

    The interpreter does so at every call of a helper function, which costs more than most helpers.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    class Everything:
        """Stands for a function that sees all modules of the language."""

        __globals__: ClassVar = {"tl": tl, "core": tl.core}

    class Nothing:
        def restore(self) -> None:
            pass

    patch = interpreter._patch_lang
    scope = patch(Everything)
    interpreter._patch_lang = lambda _: Nothing()
    try:
        yield
    finally:
        interpreter._patch_lang = patch
        scope.restore()
