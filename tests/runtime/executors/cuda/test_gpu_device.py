# SPDX-License-Identifier: Apache-2.0
"""The device on a GPU: what only the real driver can say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import OutOfMemoryError
from enginery.runtime.executors.cuda.device import CudaDevice
from enginery.runtime.executors.cuda.driver import Driver, DriverError
from enginery.runtime.executors.cuda.executor import fitting_sku
from enginery.runtime.executors.device import View
from enginery.runtime.executors.image import KernelImage
from enginery.runtime.executors.image_reader import read_image

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    made = CudaDevice()
    yield made
    made.close()


@pytest.fixture
def gather_rows(demo_engines: Path, device: CudaDevice) -> KernelImage:
    """out[row, :COLUMNS] = x[logit_rows[row], :COLUMNS], BLOCK columns per program."""
    with Engine(demo_engines / "bf16") as engine:
        sku = read_image(engine, fitting_sku(engine, device, None))[0].sku
    return sku.kernels[sku.ops["gather_rows"].kernels["kernel"]]


def test_upload_and_fetch(device: CudaDevice) -> None:
    data = np.random.default_rng(0).integers(-(2**31), 2**31, 50_000_001, np.int32)
    buffer = device.upload("data", data.view(np.uint8))
    fetched = device.fetch(View(buffer, 0, "i32", data.shape))()
    assert np.array_equal(fetched, data)


def test_allocations_are_zero(device: CudaDevice) -> None:
    buffer = device.allocate("values", 1 << 24)
    assert not device.fetch(View(buffer, 0, "i32", (1 << 22,)))().any()


def test_more_memory_than_there_is(device: CudaDevice) -> None:
    _, total = device.free_bytes()
    with pytest.raises(OutOfMemoryError, match=r"weights: .* bytes of GPU memory"):
        device.allocate("weights", 2 * total)
    device.allocate("values", 1 << 20)  # and the device is as usable as before


def test_a_kernel_in_a_graph_reads_what_memory_holds(
    device: CudaDevice, gather_rows: KernelImage
) -> None:
    columns, block = gather_rows.constant("COLUMNS"), gather_rows.constant("BLOCK")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, columns)).astype(np.float32)
    source = device.upload("x", x.view(np.uint8).ravel())
    out = device.allocate("out", 7 * columns * 4)
    staging = device.staging(7 * 4)
    handle = device.load_kernel(gather_rows)
    arguments = {
        "x": View(source, 0, "f32", x.shape),
        "logit_rows": View(staging.buffer, 0, "i32", (7,)),
        "out": View(out, 0, "f32", (7, columns)),
    }

    def work() -> None:
        device.launch(handle, 7 * -(-columns // block), arguments)

    for key in (None, "key", "key", "key"):
        rows = rng.integers(0, 50, 7).astype(np.int32)
        staging.host[:] = rows.view(np.uint8)
        staging.commit(28)
        device.run(key, work)
        result = device.fetch(View(out, 0, "f32", (7, columns)))()
        assert np.array_equal(result, x[rows])


def test_rows_are_copied_in_every_plane(device: CudaDevice) -> None:
    planes, rows, elements = 6, 11, 96
    data = np.random.default_rng(2).integers(0, 1000, (planes, rows, elements), np.int32)
    buffer = device.upload("KV cache", data.view(np.uint8).ravel())
    view = View(buffer, 0, "i32", (planes * rows, elements))
    pairs = np.array([[0, 10], [10, 3], [1, 2]], np.int32)
    device.copy_rows(view, pairs, elements * 4, rows * elements * 4, planes)
    expected = data.copy()
    for source, target in pairs:
        expected[:, target] = expected[:, source]
    assert np.array_equal(device.fetch(view)().reshape(expected.shape), expected)


def test_waiting_lets_other_threads_run(device: CudaDevice) -> None:
    large = device.allocate("large", 1 << 30)
    view = View(large, 0, "i8", (1 << 30,))
    pairs = np.array([[0, 1]] * 200, np.int32)
    device.synchronize()
    ticks, is_done = 0, False

    def tick() -> None:
        nonlocal ticks
        while not is_done:
            ticks += 1
            time.sleep(0)

    thread = threading.Thread(target=tick)
    device.copy_rows(view, pairs, 1 << 29, 1 << 30, 1)  # some 60 ms of copies
    wait = device.fetch(View(large, 0, "i32", (1,)))
    thread.start()
    before = ticks
    wait()
    during = ticks - before
    is_done = True
    thread.join()
    assert during > 100


def test_a_cubin_of_nothing_is_refused(device: CudaDevice) -> None:
    with pytest.raises(DriverError, match="CUDA_ERROR_"):
        Driver().call("cuModuleLoadData", b"not a cubin" * 100)
    device.synchronize()
