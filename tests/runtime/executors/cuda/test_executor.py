# SPDX-License-Identifier: Apache-2.0
"""The executor over the stand-in of the driver: which SKU, what memory, what is enqueued."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import EngineMismatchError, InvalidArgumentError, OutOfMemoryError
from enginery.runtime.executor import ChoosesKvCache, Limits
from enginery.runtime.executors.cuda.device import CudaDevice
from enginery.runtime.executors.cuda.driver import Driver
from enginery.runtime.executors.cuda.executor import GRAPH_BYTES, TensorRTExecutor, cache_file
from enginery.runtime.executors.cuda.memory import HostStaging
from enginery.runtime.executors.memory import KvLayout
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams
from tests.runtime.executors.cuda.fake_driver import FakeDriver
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.emulation import build_emulated

LIMITS = Limits(
    max_batch_size=6, max_num_tokens=48, max_logit_rows=48, max_seq_len=112, tokens_per_block=16
)
FREE = 2 << 30


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A tiny llama for h100, h200 (compute capability 9.0), l40s and rtx4090 (8.9)."""
    folder = tmp_path_factory.mktemp("cuda")
    checkpoint = write_tiny_checkpoint(folder / "checkpoint", "llama")
    path = build_emulated(checkpoint, folder / "engine", sku="h100,h200,l40s,rtx4090")
    with Engine(path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def executor_on(engine: Engine, fake: FakeDriver, sku: str | None = None) -> TensorRTExecutor:
    return TensorRTExecutor(engine, device=CudaDevice(driver=Driver(fake)), sku=sku)


@pytest.mark.parametrize(
    ("name", "capability", "sku"),
    [
        ("NVIDIA H200", (9, 0), "h200"),
        ("NVIDIA H100 80GB HBM3", (9, 0), "h100"),
        ("NVIDIA GH200 480GB", (9, 0), "h200"),
        ("NVIDIA of another name", (9, 0), "h100"),
        ("NVIDIA L40S", (8, 9), "l40s"),
        ("NVIDIA L4", (8, 9), "l40s"),
        ("NVIDIA GeForce RTX 4090", (8, 9), "rtx4090"),
    ],
)
def test_the_sku_that_fits(
    engine: Engine, name: str, capability: tuple[int, int], sku: str
) -> None:
    executor = executor_on(engine, FakeDriver(device_name=name, capability=capability))
    assert executor.images[0].sku.name == sku
    executor.close()


def test_a_named_sku_is_taken(engine: Engine) -> None:
    executor = executor_on(engine, FakeDriver(device_name="NVIDIA H200"), sku="h100")
    assert executor.images[0].sku.name == "h100"
    executor.close()


@pytest.mark.parametrize(("sku", "built"), [(None, "h100 .*9.0.*l40s .*8.9"), ("h200", "h200")])
def test_another_compute_capability(engine: Engine, sku: str | None, built: str) -> None:
    fake = FakeDriver(device_name="NVIDIA B200", capability=(10, 0))
    with pytest.raises(EngineMismatchError, match=rf"built for {built}.*B200.*10\.0.*--sku"):
        executor_on(engine, fake, sku)
    assert "cuMemAlloc" not in fake.calls
    assert fake.live == {}


def test_an_unknown_sku(engine: Engine) -> None:
    fake = FakeDriver()
    with pytest.raises(EngineMismatchError, match="'a100'"):
        executor_on(engine, fake, "a100")
    assert fake.live == {}


def test_requests_run_to_their_end(engine: Engine) -> None:
    fake = FakeDriver(free=FREE)
    executor = executor_on(engine, fake)
    options = RuntimeOptions(kv_cache_bytes=128 * engine.info.kv_bytes_per_token)
    with Runtime(engine, options, executor=executor) as runtime:
        params = SamplingParams(max_tokens=5, ignore_eos=True)
        ids = [runtime.submit([1, 2, 3], params), runtime.submit([4] * 20, params)]
        tokens: dict[int, list[int]] = {request: [] for request in ids}
        ended = 0
        while ended < len(ids):
            for event in runtime.poll(5000):
                assert not event.error
                tokens[event.request_id] += event.token_ids
                ended += event.is_last
        # Nothing is computed: the tokens are the zeros that memory begins with.
        assert tokens == {request: [0] * 5 for request in ids}
        assert fake.calls.count("cuStreamBeginCapture") >= 1
        assert fake.calls.count("cuGraphLaunch") >= 2
        assert sys.getswitchinterval() < 1e-3
    assert fake.live == {}


def test_every_address_that_kernels_get_is_in_an_allocation(engine: Engine) -> None:
    fake = FakeDriver(free=FREE)
    executor = executor_on(engine, fake)
    pointers: list[tuple[str, str, int]] = []
    options = RuntimeOptions(kv_cache_bytes=128 * engine.info.kv_bytes_per_token)
    with Runtime(engine, options, executor=executor) as runtime:
        for kernel in executor.device._kernels:
            pack = kernel.pack

            def checked(arguments, pack=pack, kernel=kernel):  # type: ignore[no-untyped-def]
                address = pack(arguments)
                for index, (name, kind, _) in enumerate(kernel._parameters):
                    if kind == 0:
                        pointers.append((kernel.name, name, kernel._cells[index]))
                return address

            kernel.pack = checked  # type: ignore[method-assign]
        runtime.submit([1, 2, 3], SamplingParams(max_tokens=3, ignore_eos=True))
        while not any(event.is_last for event in runtime.poll(5000)):
            pass
        memories = [
            each.buffer if isinstance(each, HostStaging) else each
            for each in executor.device._memories
        ]
        spans = [(each.address, each.address + each.num_bytes) for each in memories]
    assert len(pointers) > 50
    for kernel_name, name, address in pointers:
        assert address % 16 == 0, (kernel_name, name)
        assert any(low <= address < high for low, high in spans), (kernel_name, name)


def test_too_little_memory_is_refused_before_anything_is_allocated(engine: Engine) -> None:
    fake = FakeDriver(free=1 << 20)
    executor = executor_on(engine, fake)
    with pytest.raises(OutOfMemoryError, match="KV cache"):
        executor.init(LIMITS, 1 << 21)
    assert "cuMemAlloc" not in fake.calls
    executor.close()
    assert fake.live == {}


def test_default_kv_cache(engine: Engine) -> None:
    executor = executor_on(engine, FakeDriver(free=FREE))
    assert isinstance(executor, ChoosesKvCache)
    half, all_of_it = (executor.default_kv_cache_bytes(share, LIMITS) for share in (0.5, 1.0))
    assert abs(all_of_it - 2 * half) <= 1
    assert 0.9 * (FREE - GRAPH_BYTES) < all_of_it < FREE - GRAPH_BYTES - engine.info.weight_bytes
    # What it leaves is enough for the rest.
    executor.init(replace(LIMITS), all_of_it // 16)
    executor.close()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01])
def test_a_fraction_out_of_range(engine: Engine, fraction: float) -> None:
    executor = executor_on(engine, FakeDriver(free=FREE))
    with pytest.raises(InvalidArgumentError, match="fraction"):
        executor.default_kv_cache_bytes(fraction, LIMITS)
    executor.close()


def test_nothing_left_for_the_kv_cache(engine: Engine) -> None:
    executor = executor_on(engine, FakeDriver(free=GRAPH_BYTES + 100))
    with pytest.raises(OutOfMemoryError, match="nothing is left for the KV cache"):
        executor.default_kv_cache_bytes(0.9, LIMITS)
    executor.close()
    assert KvLayout(executor.images[0]).block_bytes > 0


def test_the_jit_cache_lies_beside_the_engine(tmp_path: Path) -> None:
    rank = tmp_path / "rank0.engine"
    rank.touch()
    assert cache_file(str(tmp_path)) == tmp_path / "tensorrt_rtx.cache"
    assert cache_file(str(rank)) == tmp_path / "tensorrt_rtx.cache"
