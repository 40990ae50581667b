# SPDX-License-Identifier: Apache-2.0
"""Sections of tensorrt engines, read back by the runtime's reader of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from enginery.builder.build import PlannedBuild, artifacts_of, plan_build
from enginery.builder.cache import Cache
from enginery.builder.errors import BuildError, SkuError
from enginery.builder.options import BuildRequest
from enginery.builder.progress import KERNELS, PLANS
from enginery.builder.sku import load_sku
from enginery.builder.targets.tensorrt import providers as providers_module
from enginery.builder.targets.tensorrt.archive import read_archive
from enginery.builder.targets.tensorrt.kernels import (
    CompiledKernel,
    Kernel,
    KernelSet,
    check_shared_memory,
    compile_kernels,
)
from enginery.builder.targets.tensorrt.plans import find_tensorrt
from enginery.builder.targets.tensorrt.sections import Artifacts
from enginery.runtime.executors.image import SkuImage
from enginery.runtime.executors.segments_reader import read_segments
from enginery.runtime.executors.sku_reader import read_sku
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.kernel_compiler import FakeCompiler, source_sha256

OPS = {"embed", "kv_append", "gather_rows", "sample"}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return FakeCompiler(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(
        tmp_path_factory.mktemp("model"), "qwen2", sliding_window=9,
        config_overrides={"max_window_layers": 1},
    )  # fmt: skip


def plan(model: Path, cache: Path | None, sku: str = "h200", **options: Any) -> PlannedBuild:
    request = BuildRequest(
        model, sku=sku, cache_dir=cache, no_cache=cache is None, max_num_tokens=64,
        max_batch_size=4, **options,
    )  # fmt: skip
    return plan_build(request)


def make(planned: PlannedBuild) -> Artifacts:
    artifacts = artifacts_of(planned)
    assert isinstance(artifacts, Artifacts)
    artifacts.make()
    return artifacts


def read(artifacts: Artifacts, rank: int = 0) -> dict[str, SkuImage]:
    """What the runtime reads of a rank, by SKU."""
    content = {
        section.name: read_archive(b"".join(map(bytes, section.chunks())))
        for section in artifacts.sections(rank)
    }
    segments = read_segments(content.pop("segments"), "segments")
    return {
        name.removeprefix("sku."): read_sku(members, name, name.removeprefix("sku."), segments)
        for name, members in content.items()
    }


def test_the_runtime_reads_what_was_written(model: Path, compiler: FakeCompiler) -> None:
    (sku,) = read(make(plan(model, None))).values()
    assert (sku.name, sku.compute_capability, sku.providers) == ("h200", (9, 0), ("native",))
    assert sku.tensorrt is None and not sku.plans
    assert set(sku.native) == {"first", "middle", "last", "head"}
    assert set(sku.ops) == OPS | {"paged_attention@0", "paged_attention@9"}
    for kernel in sku.kernels.values():
        assert kernel.source_sha256 == source_sha256(kernel.spec)
        assert kernel.cubin == f"{kernel.name} for (9, 0)".encode()
    assert {kernel.spec for kernel in sku.kernels.values()} == compiler.specs
    named = {name for op in sku.ops.values() for name in op.kernels.values()}
    named |= {
        variant.kernel
        for native in sku.native.values()
        for launch in native.launches
        for variant in launch.variants
    }
    assert named == set(sku.kernels), "a kernel is held that nothing launches"


def test_attention_has_its_roles_for_every_window(model: Path, compiler: FakeCompiler) -> None:
    (sku,) = read(make(plan(model, None))).values()
    for window in (0, 9):
        op = sku.ops[f"paged_attention@{window}"]
        assert set(op.kernels) == {"decode", "prefill", "combine"}
        decode, prefill = sku.kernels[op.kernels["decode"]], sku.kernels[op.kernels["prefill"]]
        assert decode.constant("BLOCK_M") < prefill.constant("BLOCK_M")
        assert decode.constants["SLIDING_WINDOW"] == window
        assert op.numbers["split_tokens"] % decode.constant("BLOCK_N") == 0


def test_skus_of_one_capability_and_ranks_share_kernels(
    model: Path, compiler: FakeCompiler
) -> None:
    artifacts = make(plan(model, None, "h100,h200", tp_size=2))
    assert len({job.name for job in compiler.compiled}) == len(compiler.compiled)
    for rank in (0, 1):
        h100, h200 = read(artifacts, rank).values()
        assert h100.kernels == h200.kernels and h100.native == h200.native
        assert (h100.name, h200.name) == ("h100", "h200")


def test_the_same_build_has_the_same_sections(model: Path, compiler: FakeCompiler) -> None:
    def digests() -> list[str]:
        return [
            hashlib.sha256(b"".join(map(bytes, section.chunks()))).hexdigest()
            for section in make(plan(model, None)).sections(0)
        ]

    assert digests() == digests()


def test_the_cache_spares_what_was_compiled(
    model: Path, compiler: FakeCompiler, tmp_path: Path
) -> None:
    first = make(plan(model, tmp_path))
    num_compiled = len(compiler.compiled)
    assert num_compiled > 10 and first.num_cached == 0

    told: list[tuple[str, int, int]] = []
    again = artifacts_of(plan(model, tmp_path, "h100"))
    again.make(lambda *progress: told.append(progress))
    assert len(compiler.compiled) == num_compiled, "h100 and h200 run the same code"
    assert told[0] == (KERNELS, num_compiled, num_compiled)

    victim = next((tmp_path / "kernels").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    repaired = make(plan(model, tmp_path))
    assert len(compiler.compiled) == num_compiled + 1, "the damaged entry is made again"
    assert [bytes(next(iter(s.chunks()))) for s in repaired.sections(0)] == [
        bytes(next(iter(s.chunks()))) for s in first.sections(0)
    ]

    make(plan(model, None))
    assert len(compiler.compiled) == 2 * num_compiled + 1, "--no_cache compiles everything"


def test_another_source_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = KernelSet()
    types: dict[str, str | None] = dict.fromkeys(("a", "b", "out"), "*fp32")
    name = kernels.add("add", types, {"COLUMNS": 5, "BLOCK": 8}, num_warps=1)
    kernel = kernels.kernels[name]
    keys = {
        kernel.cache_key((9, 0)),
        kernel.cache_key((8, 0)),
        dataclasses.replace(kernel, num_warps=2).cache_key((9, 0)),
        dataclasses.replace(kernel, num_stages=2).cache_key((9, 0)),
        dataclasses.replace(kernel, constants={"COLUMNS": 6, "BLOCK": 8}).cache_key((9, 0)),
    }
    assert len(keys) == 5
    module = "enginery.builder.targets.tensorrt.kernels"
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}._source_sha256", lambda spec: "another")
        keys.add(kernel.cache_key((9, 0)))
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.package_version", lambda name: "9.9.9")
        keys.add(kernel.cache_key((9, 0)))
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}._driver_sha256", lambda: "another")
        keys.add(kernel.cache_key((9, 0)))
    assert len(keys) == 8


def test_manifest_names_sources_and_compilers(model: Path, compiler: FakeCompiler) -> None:
    described = make(plan(model, None, "a100,h100")).manifest()
    json.dumps(described)
    assert described["kernel_sources"]["gemm"] == source_sha256("gemm")
    assert set(described["kernel_sources"]) == compiler.specs
    assert described["skus"]["a100"]["compute_capability"] == [8, 0]
    assert described["skus"]["a100"]["verified"] is None
    assert "native segments" in described["skus"]["h100"]["verified"]


def test_plans_of_the_skus_that_have_them(
    model: Path, compiler: FakeCompiler, tmp_path: Path
) -> None:
    tensorrt = find_tensorrt()
    assert tensorrt is not None
    told: list[tuple[str, int, int]] = []
    artifacts = artifacts_of(plan(model, tmp_path, "l40s,rtx4090,h100"))
    artifacts.make(lambda *progress: told.append(progress))
    assert isinstance(artifacts, Artifacts)
    assert (PLANS, 0, 4) in told and (PLANS, 4, 4) in told, "one capability, four segments"
    skus = read(artifacts)
    for name in ("l40s", "rtx4090"):
        sku = skus[name]
        assert sku.providers == (tensorrt.package,) and not sku.native
        assert sku.tensorrt is not None and sku.tensorrt.version == tensorrt.version
        assert set(sku.plans) == {"first", "middle", "last", "head"}
        assert [len(sku.plans[segment].profiles) for segment in ("middle", "head")] == [2, 1]
        assert all("bf16 x bf16" in text for text in sku.plans["middle"].gemm_operands)
        # Segments are TensorRT's there: no kernel of ours for them.
        assert not any(kernel.spec.startswith("gemm") for kernel in sku.kernels.values())
    assert not skus["h100"].plans and skus["h100"].native
    again = make(plan(model, tmp_path, "rtx4090"))
    assert read(again)["rtx4090"].plans == skus["rtx4090"].plans


def test_a_sku_of_tensorrt_alone_needs_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers_module, "find_tensorrt", lambda: None)
    with pytest.raises(SkuError, match=r"rtx4090: providers: no TensorRT is installed \(pip"):
        providers_module.providers_of(load_sku("rtx4090"))
    assert providers_module.providers_of(load_sku("a100")) == ("native",)


def test_the_compiler_is_not_installed(
    model: Path, compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "enginery.builder.targets.tensorrt.kernels"
    monkeypatch.setattr(f"{module}.package_version", lambda name: None)
    with pytest.raises(
        BuildError, match=r"triton: is not installed \(pip install 'enginery\[rtx\]'"
    ):
        make(plan(model, None))


@pytest.mark.parametrize(("capability", "most"), [((9, 0), 232_448), ((8, 9), 101_376)])
def test_a_kernel_that_takes_too_much_shared_memory(capability: tuple[int, int], most: int) -> None:
    def kernel(num_bytes: int) -> dict[str, CompiledKernel]:
        record = {"spec": "gemm", "shared_bytes": num_bytes, "constants": {"BLOCK_M": 128}}
        return {"gemm_1": CompiledKernel(record, b"")}

    check_shared_memory(kernel(most), capability)
    with pytest.raises(BuildError, match=rf"gemm: takes {most + 1} bytes.*{most}; with BLOCK_M"):
        check_shared_memory(kernel(most + 1), capability)


def test_a_kernel_that_really_compiles(tmp_path: Path) -> None:
    """The one test here that runs the compiler: what it needs and gives is as the fake has it."""
    kernels = KernelSet()
    types: dict[str, str | None] = dict.fromkeys(("a", "b", "out"), "*fp32")
    name = kernels.add("add", types, {"COLUMNS": 100, "BLOCK": 128}, num_warps=1)
    wanted: list[Kernel] = list(kernels.kernels.values())
    compiled = compile_kernels(wanted, (8, 9), Cache(tmp_path))[name]
    assert compiled.cubin.startswith(b"\x7fELF")
    assert compiled.record["source_sha256"] == source_sha256("add")
    assert compiled.record["registers"] > 0 and compiled.record["spill_bytes"] == 0
    assert compiled.record["cubin"] == f"kernels/{name}.cubin"
