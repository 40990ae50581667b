# SPDX-License-Identifier: Apache-2.0
"""Kernels of an engine, run by the Triton language's interpreter.

What runs is the source in this package. It stands for the engine's compiled kernel because the
engine records the hash of the source that was compiled: another source is refused.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from enginery.plugins.kernels import spec
from enginery.runtime.errors import EngineMismatchError
from enginery.runtime.executors.device import Argument, View
from enginery.runtime.executors.image import KernelImage

from .memory import bytes_of

INTERPRET = "INTERPRET"
"""The constant that tells a kernel where it runs; compiled it is False."""


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
        """Runs `grid` programs, one after the other."""
        passed = {
            name: self._tensor(name, value) if isinstance(value, View) else value
            for name, value in arguments.items()
        }
        self._run((grid, 1, 1), {**passed, **self._constants})

    def _tensor(self, name: str, view: View) -> Any:
        return self._from_numpy(bytes_of(view)).view(self._types[name])


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


def _in_place(function: Any) -> Callable[[tuple[int, int, int], Mapping[str, Any]], None]:
    """What runs an interpreted function on the caller's own memory.

    The interpreter copies all memory that an argument points into and back again, the whole KV
    cache at every launch, for the sake of devices that the CPU cannot read. Ours it can.
    """
    from triton.runtime.interpreter import GridExecutor

    class InPlaceExecutor(GridExecutor):  # type: ignore[misc]
        def _init_args_hst(self, args_dev: Any, kwargs: Any) -> tuple[Any, Any]:
            return args_dev, kwargs

        def _restore_args_dev(self, *_: Any) -> None:
            pass

    def run(grid: tuple[int, int, int], arguments: Mapping[str, Any]) -> None:
        with _interpreted_language():
            InPlaceExecutor(function.rewrite(), function.arg_names, grid)(**arguments)

    return run


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
