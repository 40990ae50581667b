# SPDX-License-Identifier: Apache-2.0
"""Kernels meet their arguments: what fits is launched as it should be, the rest is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from enginery.runtime.errors import EngineMismatchError
from enginery.runtime.executors.device import View
from enginery.runtime.executors.image import KernelImage, LaunchImage, NativeImage, VariantImage
from enginery.runtime.executors.launches import KernelLibrary


class RecordingDevice:
    """Keeps what was launched: (kernel, grid, the numbers among the arguments)."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.launches: list[tuple[str, int, dict[str, int]]] = []

    def load_kernel(self, kernel: KernelImage) -> str:
        self.loaded.append(kernel.name)
        return kernel.name

    def launch(self, handle: str, grid: int, arguments: Mapping[str, Any]) -> None:
        numbers = {key: value for key, value in arguments.items() if isinstance(value, int)}
        self.launches.append((handle, grid, numbers))


def kernel(name: str, **constants: Any) -> KernelImage:
    return KernelImage(
        name=name, spec="gemm", version=1, source_sha256="", cubin=b"", entry="gemm", num_warps=4,
        num_stages=1, shared_bytes=0, num_params=3, registers=0, spill_bytes=0,
        signature=(
            ("x", "*bf16"), ("weight", "*i8"), ("scale", "constexpr"), ("rows", "i32"),
            ("N", "constexpr"),
        ),
        constants={"scale": None, "N": 48, **constants},
    )  # fmt: skip


def view(dtype: str) -> View:
    return View(np.zeros(1), 0, dtype, (64, 48))


ARGUMENTS: dict[str, Any] = {"x": view("bf16"), "weight": view("i8"), "scale": None, "rows": 5}


@pytest.fixture
def device() -> RecordingDevice:
    return RecordingDevice()


@pytest.fixture
def library(device: RecordingDevice) -> KernelLibrary:
    kernels = {name: kernel(name) for name in ("small", "large")}
    return KernelLibrary(device, kernels)  # type: ignore[arg-type]


def test_a_bound_kernel_is_loaded_once(library: KernelLibrary, device: RecordingDevice) -> None:
    first = library.bind("step 1", "small", ARGUMENTS, {"N": 48})
    library.bind("step 2", "small", ARGUMENTS, {})
    first(12)
    assert device.loaded == ["small"]
    assert device.launches == [("small", 12, {"rows": 5})]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, r"step 1: kernel 'small': arguments missing: \['x'\]"),
        ({"scale": view("f32")}, r"not taken: \['scale'\]"),
        ({"bias": view("f32")}, r"not taken: \['bias'\]"),
        ({"x": view("f16")}, r"x is \*bf16, the step has f16"),
        ({"x": 3}, r"x is \*bf16, the step has the number 3"),
        ({"rows": view("i32")}, "rows is i32, the step has i32"),
        ({"rows": 2.5}, "rows is i32, the step has the number 2.5"),
    ],
)
def test_arguments_of_another_kernel_are_refused(
    changes: dict[str, Any], message: str, library: KernelLibrary, device: RecordingDevice
) -> None:
    with pytest.raises(EngineMismatchError, match=message):
        library.bind("step 1", "small", {**ARGUMENTS, **changes}, {})
    assert device.loaded == []


def test_a_kernel_for_other_sizes_is_refused(library: KernelLibrary) -> None:
    with pytest.raises(EngineMismatchError, match="step 1: kernel 'small': N = 48, not 64"):
        library.bind("step 1", "small", ARGUMENTS, {"N": 64})


def test_packed_int4_is_bytes(library: KernelLibrary) -> None:
    library.bind("step 1", "small", {**ARGUMENTS, "weight": view("i4")}, {})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(1, ("small", 3)), (16, ("small", 3)), (17, ("large", 2)), (64, ("large", 2)),
     (65, ("large", 4))],
)  # fmt: skip
def test_the_variant_follows_the_rows(
    rows: int, expected: tuple[str, int], library: KernelLibrary, device: RecordingDevice
) -> None:
    variants = (VariantImage(16, "small", 16, 3), VariantImage(None, "large", 64, 2))
    args = {"x": "y", "weight": "w", "rows": "#rows"}
    launch = LaunchImage(args, variants)
    operands = {"y": view("bf16"), "w": view("i8")}
    run = library.native_segment("step 1", NativeImage((), (launch, launch)), operands)
    run(rows)
    assert device.launches == [(*expected, {"rows": rows})] * 2
