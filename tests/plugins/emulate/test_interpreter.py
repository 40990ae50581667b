# SPDX-License-Identifier: Apache-2.0
"""Kernels of an engine in the interpreter: on their own operands alone, from any thread."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from enginery.plugins.emulate.device import EmulatedDevice
from enginery.plugins.emulate.interpreter import source_sha256
from enginery.plugins.emulate.memory import array_of
from enginery.plugins.kernels.spec import KERNELS
from enginery.runtime.errors import EngineMismatchError
from enginery.runtime.executors.device import View
from enginery.runtime.executors.image import KernelImage

ROWS, COLUMNS = 3, 5


def add_kernel(columns: int) -> KernelImage:
    constants = {"COLUMNS": columns, "BLOCK": 8}
    signature = KERNELS["add"].signature(dict.fromkeys(("a", "b", "out"), "*fp32"), constants)
    return KernelImage(
        name="add_1", spec="add", version=1, source_sha256=source_sha256("add"), cubin=b"",
        entry="add", num_warps=1, num_stages=1, shared_bytes=0, num_params=3, registers=0,
        spill_bytes=0, signature=tuple(signature), constants=constants,
    )  # fmt: skip


def operands(device: EmulatedDevice, seed: int) -> dict[str, View]:
    views = {
        name: View(device.allocate(name, 4 * ROWS * COLUMNS), 0, "f32", (ROWS, COLUMNS))
        for name in ("a", "b", "out")
    }
    for name in ("a", "b"):
        values = np.random.default_rng(seed).standard_normal((ROWS, COLUMNS))
        array_of(views[name], np.float32)[:] = values
    return views


@pytest.mark.parametrize(("columns", "grid"), [(COLUMNS + 1, ROWS), (COLUMNS, ROWS + 1)])
def test_constants_that_do_not_fit_reach_no_other_memory(columns: int, grid: int) -> None:
    device = EmulatedDevice()
    handle = device.load_kernel(add_kernel(columns))
    with pytest.raises(EngineMismatchError, match="'add_1' reaches outside its operands"):
        device.launch(handle, grid, operands(device, 0))
    # The language is as it was.
    views = operands(device, 1)
    device.launch(device.load_kernel(add_kernel(COLUMNS)), ROWS, views)
    assert (array_of(views["out"], np.float32) == 2 * array_of(views["a"], np.float32)).all()


def test_several_threads_launch_at_once() -> None:
    problems: list[Any] = []

    def work(seed: int) -> None:
        device = EmulatedDevice()
        handle = device.load_kernel(add_kernel(COLUMNS))
        views = operands(device, seed)
        out = array_of(views["out"], np.float32)
        for _ in range(20):
            out[:] = 0
            try:
                device.launch(handle, ROWS, views)
            except Exception as error:  # whatever the interpreter raises
                problems.append(error)
                return
            if not np.array_equal(out, 2 * array_of(views["a"], np.float32)):
                problems.append(out.copy())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


@pytest.mark.parametrize("num_columns", [384, 400])
def test_large_tiles_read_no_columns_past_the_last(num_columns: int) -> None:
    rows, depth = 3, 16
    constants: dict[str, Any] = {
        "N": num_columns, "K": depth, "WEIGHT": "same", "BLOCK_M": 128, "BLOCK_N": 256,
        "BLOCK_K": 16, "GROUP_M": 1, "INTERPRET": False,
    }  # fmt: skip
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "x": ("i8", (rows, depth)), "weight": ("i8", (num_columns, depth)),
        "scale": ("f32", (num_columns,)), "bias": ("f32", (num_columns,)),
        "residual": ("f32", (rows, num_columns)), "y": ("f32", (rows, num_columns)),
    }  # fmt: skip
    types = {name: "*i8" if kind == "i8" else "*fp32" for name, (kind, _) in shapes.items()}
    signature = KERNELS["gemm"].signature(types | {"rows": "i32"}, constants)
    kernel = KernelImage(
        name="gemm_1", spec="gemm", version=1, source_sha256=source_sha256("gemm"), cubin=b"",
        entry="gemm", num_warps=8, num_stages=3, shared_bytes=0, num_params=7, registers=0,
        spill_bytes=0, signature=tuple(signature), constants=constants,
    )  # fmt: skip
    device, rng = EmulatedDevice(), np.random.default_rng(0)
    views, values = {}, {}
    for name, (kind, shape) in shapes.items():
        dtype = np.dtype(np.int8 if kind == "i8" else np.float32)
        buffer = device.allocate(name, dtype.itemsize * int(np.prod(shape)))
        views[name] = View(buffer, 0, kind, shape)
        values[name] = array_of(views[name], dtype)
        values[name][:] = rng.integers(-9, 9, shape)
    x, weight = (values[name].astype(np.float32) for name in ("x", "weight"))
    expected = x @ weight.T * values["scale"] + values["bias"] + values["residual"]
    device.launch(device.load_kernel(kernel), 2, views | {"rows": rows})
    np.testing.assert_array_equal(values["y"], expected)
