# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enginery.runtime.errors import EngineMismatchError, OutOfMemoryError
from enginery.runtime.executors.cuda import memory
from enginery.runtime.executors.cuda.device import CudaDevice
from enginery.runtime.executors.cuda.driver import Driver, DriverError
from enginery.runtime.executors.device import Argument, View
from enginery.runtime.executors.image import KernelImage
from tests.runtime.executors.cuda.fake_driver import CUresult, FakeDriver

KERNEL = KernelImage(
    name="gemm_1",
    spec="gemm",
    version=1,
    source_sha256="0" * 64,
    cubin=b"\x7fELF",
    entry="gemm",
    num_warps=8,
    num_stages=3,
    shared_bytes=100_000,
    num_params=6,
    registers=128,
    spill_bytes=0,
    signature=(
        ("x", "*bf16"),
        ("scale", "constexpr"),
        ("rows", "i32"),
        ("slots", "i64"),
        ("factor", "fp32"),
        ("N", "constexpr"),
    ),
    constants={"scale": None, "N": 64},
)


@pytest.fixture
def fake() -> FakeDriver:
    return FakeDriver(num_params=KERNEL.num_params)


@pytest.fixture
def device(fake: FakeDriver) -> Iterator[CudaDevice]:
    made = CudaDevice(driver=Driver(fake))
    yield made
    made.close()
    assert fake.live == {}, "something was not freed"


def contents(view: View) -> bytes:
    import ctypes

    return ctypes.string_at(view.buffer.address + view.offset, view.num_bytes)


def view_of(buffer: Any, num_bytes: int, offset: int = 0) -> View:
    return View(buffer, offset, "i8", (num_bytes,))


def test_allocations_are_zero_and_aligned(device: CudaDevice) -> None:
    buffer = device.allocate("values", 1001)
    assert buffer.address % 256 == 0
    assert contents(view_of(buffer, 1001)) == bytes(1001)


def test_allocation_of_nothing_has_an_address(device: CudaDevice) -> None:
    assert device.allocate("nothing", 0).address


def test_too_little_memory_names_what(fake: FakeDriver, device: CudaDevice) -> None:
    fake.fail["cuMemAlloc"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    fake.free = 5000
    with pytest.raises(OutOfMemoryError, match=r"KV cache: 123456 bytes .*5000 of 1073741824"):
        device.allocate("KV cache", 123456)


@pytest.mark.parametrize("num_bytes", [0, 1, 999, 1000, 1001, 4321])
def test_upload_in_pieces(
    device: CudaDevice, monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    monkeypatch.setattr(memory, "UPLOAD_CHUNK_BYTES", 1000)
    data = np.random.default_rng(0).integers(0, 256, num_bytes, np.uint8)
    seen: list[tuple[int, int]] = []
    device._progress = lambda done, total: seen.append((done, total))
    buffer = device.upload("weights", data)
    assert contents(view_of(buffer, num_bytes)) == data.tobytes()
    assert [done for done, _ in seen] == [
        min(at + 1000, num_bytes) for at in range(0, num_bytes, 1000)
    ]


def test_arguments_are_packed_in_the_order_of_the_cubin(
    fake: FakeDriver, device: CudaDevice
) -> None:
    handle = device.load_kernel(KERNEL)
    buffer = device.allocate("x", 4096)
    arguments: dict[str, Argument] = {
        "factor": 0.75,
        "slots": -2,
        "rows": -1,
        "x": View(buffer, 256, "bf16", (8, 4)),
    }
    device.launch(handle, 33, arguments)
    (launch,) = fake.launches
    factor = struct.unpack("<I", struct.pack("<f", 0.75))[0]
    # The two parameters after the declared ones are the language's scratch pointers.
    expected = [buffer.address + 256, 2**32 - 1, 2**64 - 2, factor, 0, 0]
    assert launch.cells == expected
    assert (launch.grid, launch.threads, launch.shared_bytes) == ((33, 1, 1), 256, 100_000)
    assert launch.function.shared_bytes == 100_000


@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.parametrize("can_wait", [True, False])
def test_only_a_kernel_that_waits_is_launched_early(
    fake: FakeDriver, is_wanted: bool, can_wait: bool
) -> None:
    device = CudaDevice(driver=Driver(fake), programmatic_launch=is_wanted)
    kernel = replace(KERNEL, signature=(("rows", "i32"),), programmatic_launch=can_wait)
    handle = device.load_kernel(kernel)
    for grid in (3, 4):
        device.launch(handle, grid, {"rows": grid})
    assert [(launch.grid, launch.cells[0]) for launch in fake.launches] == [
        ((3, 1, 1), 3),
        ((4, 1, 1), 4),
    ]
    assert [launch.threads for launch in fake.launches] == [256, 256]
    assert fake.early_launches == (2 if is_wanted and can_wait else 0)
    device.close()


def test_a_second_launch_sees_its_own_arguments(fake: FakeDriver, device: CudaDevice) -> None:
    handle = device.load_kernel(replace(KERNEL, signature=(("rows", "i32"),)))
    for rows in (5, 6):
        device.launch(handle, 1, {"rows": rows})
    assert [launch.cells[0] for launch in fake.launches] == [5, 6]


@pytest.mark.parametrize(
    "arguments",
    [
        {"rows": 1, "slots": 2, "factor": 1.0},
        {"x": 7, "rows": 1, "slots": 2, "factor": 1.0},
        {"x": "view", "rows": "view", "slots": 2, "factor": 1.0},
        {"x": "view", "rows": 1.5, "slots": 2, "factor": 1.0},
    ],
)
def test_arguments_of_the_wrong_kind(device: CudaDevice, arguments: dict[str, Any]) -> None:
    handle = device.load_kernel(KERNEL)
    view = view_of(device.allocate("x", 8), 8)
    given = {name: view if value == "view" else value for name, value in arguments.items()}
    with pytest.raises(TypeError, match=r"kernel 'gemm_1' takes .x: a view, rows: an int"):
        device.launch(handle, 1, given)


def test_a_kernel_that_the_driver_refuses(fake: FakeDriver, device: CudaDevice) -> None:
    fake.fail["cuModuleLoadData"] = CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU
    with pytest.raises(
        EngineMismatchError, match=r"'gemm_1'.*NO_BINARY_FOR_GPU.*another compute.*CUDA 13\.0"
    ):
        device.load_kernel(KERNEL)


def test_a_kernel_with_more_shared_memory_than_there_is(device: CudaDevice) -> None:
    with pytest.raises(EngineMismatchError, match=r"300000 bytes of shared memory.*232448"):
        device.load_kernel(replace(KERNEL, shared_bytes=300_000))


def test_a_parameter_type_that_cannot_be_passed(device: CudaDevice) -> None:
    with pytest.raises(EngineMismatchError, match="'tensordesc'"):
        device.load_kernel(replace(KERNEL, signature=(("x", "tensordesc"),)))


def test_a_refused_launch(fake: FakeDriver, device: CudaDevice) -> None:
    handle = device.load_kernel(replace(KERNEL, signature=()))
    fake.fail["cuLaunchKernel"] = CUresult.CUDA_ERROR_INVALID_VALUE
    with pytest.raises(DriverError, match="cuLaunchKernel: CUDA_ERROR_INVALID_VALUE"):
        device.launch(handle, 1, {})


def test_staging_takes_over_what_was_committed(device: CudaDevice) -> None:
    staging = device.staging(100)
    assert not staging.host.any()
    staging.host[:] = np.arange(100)
    staging.commit(40)
    taken = contents(view_of(staging.buffer, 100))
    assert taken[:40] == bytes(range(40))
    assert taken[40:41] != bytes([40])
    with pytest.raises(ValueError, match="101 bytes: staging has 100"):
        staging.commit(101)


def test_fetch_gives_the_view_as_an_array(device: CudaDevice) -> None:
    expected = np.random.default_rng(1).standard_normal((3, 7)).astype(np.float32)
    buffer = device.upload("logits", expected.view(np.uint8).ravel())
    fetched = device.fetch(View(buffer, 28, "f32", (2, 7)))()
    assert np.array_equal(fetched, expected[1:])
    # A larger view of the same address needs more room.
    fetched = device.fetch(View(buffer, 28, "f32", (2, 7)))()
    assert np.array_equal(fetched, expected[1:])
    assert device.fetch(View(buffer, 0, "i32", (0,)))().shape == (0,)


def test_a_growing_fetch(device: CudaDevice) -> None:
    data = np.arange(5000, dtype=np.int32)
    buffer = device.upload("tokens", data.view(np.uint8))
    for count in (3, 5000, 1200):
        assert np.array_equal(device.fetch(View(buffer, 0, "i32", (count,)))(), data[:count])


def test_a_fetch_after_one_that_had_no_memory(fake: FakeDriver, device: CudaDevice) -> None:
    data = np.arange(5000, dtype=np.int32)
    buffer = device.upload("tokens", data.view(np.uint8))
    device.fetch(View(buffer, 0, "i32", (3,)))()
    fake.fail["cuMemAllocHost"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(OutOfMemoryError, match="page-locked"):
        device.fetch(View(buffer, 0, "i32", (5000,)))
    fake.fail.clear()
    assert device.fetch(View(buffer, 0, "i32", (3,)))().tolist() == [0, 1, 2]


def test_staging_without_memory_keeps_none(fake: FakeDriver, device: CudaDevice) -> None:
    before = set(fake.live)
    fake.fail["cuMemAlloc"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(OutOfMemoryError, match="staging"):
        device.staging(100)
    assert set(fake.live) == before


@pytest.mark.parametrize("max_pitch", [1 << 31, 100])
def test_rows_are_copied_in_every_plane(max_pitch: int) -> None:
    fake = FakeDriver(max_pitch=max_pitch)
    device = CudaDevice(driver=Driver(fake))
    planes, rows, row_bytes = 3, 5, 32
    data = np.random.default_rng(2).integers(0, 256, (planes, rows, row_bytes), np.uint8)
    buffer = device.upload("KV cache", data.ravel())
    pairs = np.array([[0, 4], [4, 2]], np.int32)  # the second copy reads what the first wrote
    view = View(buffer, 0, "i8", (planes * rows, row_bytes))
    device.copy_rows(view, pairs, row_bytes, rows * row_bytes, planes)
    expected = data.copy()
    expected[:, 4] = expected[:, 0]
    expected[:, 2] = expected[:, 4]
    assert contents(view) == expected.tobytes()
    assert ("cuMemcpy2DAsync" in fake.calls) == (max_pitch > 100)
    device.close()


def test_work_with_a_key_is_recorded_once(fake: FakeDriver, device: CudaDevice) -> None:
    handle = device.load_kernel(replace(KERNEL, signature=(("rows", "i32"),)))
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        device.launch(handle, 1, {"rows": calls})

    for _ in range(4):
        device.run("key", work)
    assert calls == 2, "once to run, once to record"
    # The first run is not recorded; replays carry the arguments of the recording.
    assert [launch.cells[0] for launch in fake.launches] == [1, 2, 2, 2]
    device.run(None, work)
    device.run("other", work)
    assert calls == 5


def test_without_graphs_work_is_enqueued_each_time(fake: FakeDriver) -> None:
    device = CudaDevice(driver=Driver(fake), cuda_graphs=False)
    calls: list[int] = []
    for _ in range(3):
        device.run("key", lambda: calls.append(1))
    assert len(calls) == 3
    assert "cuStreamBeginCapture" not in fake.calls
    device.close()


def test_a_failed_recording_is_ended(fake: FakeDriver, device: CudaDevice) -> None:
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ValueError("in the recording")

    with pytest.raises(ValueError, match="in the recording"):
        device.run("key", work)
    assert fake.recording is None
    device.run("key", work)
    device.run("key", work)
    assert calls == 4


def test_each_thread_gets_the_context(fake: FakeDriver, device: CudaDevice) -> None:
    before = len(fake.contexts)
    device.synchronize()
    device.synchronize()
    assert len(fake.contexts) == before
    thread = threading.Thread(target=device.synchronize)
    thread.start()
    thread.join()
    assert len(fake.contexts) == before + 1


def test_a_thread_that_has_the_number_of_one_that_ended(
    fake: FakeDriver, device: CudaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(fake.contexts)
    monkeypatch.setattr(threading, "get_ident", lambda: 7)
    for number in (1, 2):
        thread = threading.Thread(target=device.synchronize)
        thread.start()
        thread.join()
        assert len(fake.contexts) == before + number


def test_two_devices_on_one_thread() -> None:
    contexts: list[str] = []
    devices = []
    for name in ("first", "second"):
        fake = FakeDriver()
        devices.append(CudaDevice(driver=Driver(fake)))
        devices[-1]._context = name
        fake.contexts = contexts
    first, second = devices
    for device in (first, first, second, first):
        device.synchronize()
    assert contexts == ["first", "second", "first"]
    for device in devices:
        device.close()


def test_close_twice(fake: FakeDriver) -> None:
    device = CudaDevice(driver=Driver(fake))
    device.staging(10)
    device.fetch(View(device.allocate("x", 8), 0, "i32", (2,)))()
    device.load_kernel(KERNEL)
    device.run("key", lambda: None)
    device.close()
    device.close()
    assert fake.live == {}


def test_several_ranks_are_refused(device: CudaDevice) -> None:
    view = view_of(device.allocate("x", 8), 8)
    with pytest.raises(EngineMismatchError, match="tp_size 2"):
        device.all_reduce([view, view])
