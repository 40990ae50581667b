# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
from typing import Any

import pytest

from enginery.runtime.errors import EngineMismatchError, NotFoundError
from enginery.runtime.executors.cuda.driver import (
    EXPLANATIONS,
    Driver,
    DriverError,
    DriverNotFoundError,
)
from tests.runtime.executors.cuda.fake_driver import CUresult, FakeDriver


def test_results_come_without_their_status() -> None:
    driver = Driver(FakeDriver())
    assert driver.version == (13, 0)
    assert driver.call("cuMemGetInfo") == (1 << 30, 1 << 30)
    assert driver.call("cuCtxSetCurrent", "context") is None


def test_an_error_names_the_function_and_explains() -> None:
    fake = FakeDriver(fail={"cuStreamSynchronize": CUresult.CUDA_ERROR_ILLEGAL_ADDRESS})
    with pytest.raises(DriverError) as caught:
        Driver(fake).call("cuStreamSynchronize", 0)
    assert caught.value.name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert caught.value.status == "EXECUTOR_FAILED"
    expected = EXPLANATIONS["CUDA_ERROR_ILLEGAL_ADDRESS"]
    assert str(caught.value) == f"cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS: {expected}"


def test_explained_errors_are_the_drivers() -> None:
    names = {entry.name for entry in importlib.import_module("cuda.bindings.driver").CUresult}
    assert set(EXPLANATIONS) <= names


def test_no_gpu_is_refused() -> None:
    fake = FakeDriver(fail={"cuInit": CUresult.CUDA_ERROR_NO_DEVICE})
    with pytest.raises(DriverNotFoundError, match="CUDA_VISIBLE_DEVICES"):
        Driver(fake)


def test_no_libcuda_is_refused() -> None:
    class WithoutLibrary(FakeDriver):
        def cuInit(self, flags: int) -> None:
            raise RuntimeError("libcuda.so.1: cannot open shared object file")

    with pytest.raises(DriverNotFoundError, match=r"libcuda\.so\.1.*for CUDA 12\.0 or newer"):
        Driver(WithoutLibrary())


def test_an_old_driver_is_refused() -> None:
    with pytest.raises(EngineMismatchError, match=r"CUDA 11\.8.*12\.0 or newer"):
        Driver(FakeDriver(version=11080))


def test_missing_bindings_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(NotFoundError, match=r"enginery\[rtx\]"):
        Driver()


@pytest.mark.parametrize("ordinal", [-1, 2])
def test_an_unknown_gpu_is_refused(ordinal: int) -> None:
    with pytest.raises(NotFoundError, match=f"device = {ordinal}: there are 2 GPUs"):
        Driver(FakeDriver(num_devices=2)).card(ordinal)


def test_card() -> None:
    card = Driver(FakeDriver()).card(0)
    assert (card.name, card.compute_capability) == ("NVIDIA H200", (9, 0))
    assert (card.num_multiprocessors, card.shared_bytes) == (132, 227 << 10)


def test_the_stand_in_has_only_functions_of_the_real_module() -> None:
    real = importlib.import_module("cuda.bindings.driver")
    names = [name for name in dir(FakeDriver) if name.startswith("cu")]
    assert len(names) > 25
    assert [name for name in names if not hasattr(real, name)] == []
    for enumeration in ("CUdevice_attribute", "CUfunction_attribute", "CUstream_flags",
                        "CUevent_flags", "CUstreamCaptureMode", "CUmemorytype",
                        "CUlaunchAttributeID"):  # fmt: skip
        for name in vars(getattr(FakeDriver(), enumeration)):
            assert hasattr(getattr(real, enumeration), name)
    fake = FakeDriver()
    config = Driver(fake)._early_config(128, 1000, 77)
    for given, real_class in (
        (config, real.CUlaunchConfig),
        (config.attrs[0], real.CUlaunchAttribute),
        (config.attrs[0].value, real.CUlaunchAttributeValue),
    ):
        for name in vars(given):
            assert hasattr(real_class(), name)
    for name in vars(FakeDriver.CUDA_MEMCPY2D):
        if not name.startswith("__"):
            assert hasattr(real.CUDA_MEMCPY2D, name)
