# SPDX-License-Identifier: Apache-2.0
"""Which executor runs an engine: the built-in one, its target's, or one named by whoever asks."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from .engine import Engine
from .errors import EngineMismatchError, InvalidArgumentError, NotFoundError
from .executor import Executor

BUILT_IN_TARGET = "cpu"
TARGET_EXECUTORS = {"tensorrt": "enginery.runtime.executors.cuda.executor:TensorRTExecutor"}
"""Target to the import string of its executor; the C++ core runs `BUILT_IN_TARGET` itself."""

# Package that an executor needs to the extras that bring it.
_EXTRAS = {
    "cuda": ("rtx", "tensorrt"),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("rtx",),
    "onnx": ("emulate",),
    "onnxruntime": ("emulate",),
    "torch": ("emulate",),
    "triton": ("emulate",),
}
_EMULATE = "to try the engine without a GPU, emulate it: --emulate, or emulate=True of LLM"
_IMPORT_STRING = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def make_executor(
    engine: Engine,
    executor: Executor | str | None = None,
    *,
    sku: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Executor | None:
    """The executor for an engine.

    Args:
        engine: what it will run.
        executor: an executor as it is, or an import string "package.module:factory", whose factory
            is called as `factory(engine, **options)`; None: that of the engine's target.
        sku: which of the engine's SKUs to run; None: the executor's choice.
        options: further keyword arguments of the factory.

    Returns:
        None for the executor that is built into the C++ core.

    Raises:
        InvalidArgumentError: not an import string, nothing of that name, a package that is not
            installed, or options that there is no factory to give to.
        EngineMismatchError: the engine has no such SKU, or a target that nothing here runs.
        NotFoundError: there is no device for it, or no driver.
    """
    options = dict(options or {})
    if sku is not None:
        check_sku(engine, sku)
    if executor is None and engine.info.target != BUILT_IN_TARGET:
        executor = TARGET_EXECUTORS.get(engine.info.target)
        if executor is None:
            raise EngineMismatchError(
                f"engine {engine.path!r} is for target {engine.info.target!r}; there are executors "
                f"for {', '.join([BUILT_IN_TARGET, *TARGET_EXECUTORS])}; name one as executor"
            )
    if executor is None or not isinstance(executor, str):
        if options:
            raise InvalidArgumentError(
                f"executor options {', '.join(options)}: are given to a factory, and the executor "
                f"is {'the built-in one' if executor is None else 'an object already'}"
            )
        return executor
    factory = import_factory(executor)
    if sku is not None and engine.info.target != BUILT_IN_TARGET:
        options["sku"] = sku
    try:
        made: Executor = factory(engine, **options)
    except ImportError as error:
        raise _not_installed(executor, error) from error
    except NotFoundError as error:  # no driver, no device
        if executor not in TARGET_EXECUTORS.values():
            raise
        raise NotFoundError(f"{error}; {_EMULATE}") from error
    return made


def check_sku(engine: Engine, sku: str) -> None:
    """Refuses a SKU that the engine was not built for."""
    if sku not in engine.skus:
        raise EngineMismatchError(
            f"sku = {sku!r}: engine {engine.path!r} was built for {', '.join(engine.skus)}; choose "
            f"one of them, or build the checkpoint again with --sku {sku}"
        )


def check_import_string(text: str) -> None:
    """Refuses what is no "package.module:factory"."""
    if not _IMPORT_STRING.fullmatch(text):
        raise InvalidArgumentError(
            f'executor = {text!r}: must be an import string "package.module:factory"'
        )


def import_factory(text: str) -> Callable[..., Executor]:
    """What an import string names; see `make_executor` for what is raised."""
    check_import_string(text)
    module_name, _, name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise _not_installed(text, error) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InvalidArgumentError(
            f"executor = {text!r}: module {module_name} has no callable {name}"
        )
    return factory  # type: ignore[no-any-return]


def _not_installed(text: str, error: ImportError) -> InvalidArgumentError:
    package = (error.name or "").partition(".")[0]
    fix = "install the package that it needs"
    if package in _EXTRAS:
        extras = " or ".join(f"enginery[{extra}]" for extra in _EXTRAS[package])
        fix = f"install {extras}"
    if text in TARGET_EXECUTORS.values():
        fix += f"; {_EMULATE}"
    return InvalidArgumentError(f"executor = {text!r}: {error}; {fix}")
