# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib import resources

import pytest

from enginery.builder.errors import OptionError, SkuError
from enginery.builder.sku import (
    PROVIDERS,
    Sku,
    load_matrix,
    load_sku,
    load_skus,
    parse_sku,
    sku_names,
)
from enginery.builder.targets.registry import TARGETS

FOLDER = resources.files("enginery.configs") / "skus"
CPU = (FOLDER / "cpu.toml").read_text(encoding="utf-8")
A100 = (FOLDER / "a100.toml").read_text(encoding="utf-8")


def parse(name: str, text: str) -> Sku:
    return parse_sku(name, text, load_matrix())


@pytest.mark.parametrize("name", sku_names())
def test_every_sku_file_is_valid(name: str) -> None:
    sku = load_sku(name)
    assert sku.name == name
    assert sku.target in TARGETS
    assert sku.tokens_per_block in sku.accepted_tokens_per_block


def test_the_cpu_defaults() -> None:
    sku = load_sku("cpu")
    assert (sku.max_batch_size, sku.max_num_tokens, sku.tokens_per_block) == (64, 2048, 32)
    assert sku.accepted_tokens_per_block == (16, 32, 64, 128)
    assert sku.memory_bytes is None


def test_a_sku_that_is_not_there() -> None:
    with pytest.raises(OptionError, match=r"sku: 'abacus' is not known; known are a100, .*cpu"):
        load_sku("abacus")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "cpu"', 'name = "gpu"', "name: 'gpu' is not 'cpu'"),
        ('target = "cpu"', "", "target: is missing"),
        ('bytes = "host"', 'bytes = "lots"', "memory.bytes: 'lots' is not host or a size"),
        ('bytes = "host"', "bytes = -1", "memory.bytes: -1 is not"),
        ("kv_cache_fraction = 0.5", "kv_cache_fraction = 1.5", "1.5 is not above 0"),
        ("target", 'qformats = ["none"]\ntarget', "qformats: is not an entry of a SKU file"),
        ("max_batch_size = 64", "max_batch_size = 0", "0 is not a positive integer"),
        ("max_batch_size = 64", "max_batch = 64", "defaults.max_batch: is not an entry"),
        ("[defaults]", "colour = 1\n[defaults]", "memory.colour: is not an entry"),
        ("[16, 32, 64, 128]", "[16, true]", "is not a list of positive integers"),
        ("[memory]", "[[memory]]", "memory: .* is not a table"),
        ("[memory]", "[memory", "is not valid TOML"),
    ],
)
def test_malformed_files(old: str, new: str, message: str) -> None:
    assert old in CPU
    with pytest.raises(SkuError, match=message):
        parse("cpu", CPU.replace(old, new))


def test_all_problems_of_a_file_are_told_at_once() -> None:
    text = CPU.replace("max_batch_size = 64", "").replace("[memory]", "x = 1\n[memory]")
    with pytest.raises(SkuError) as error:
        parse("cpu", text)
    assert {problem.field for problem in error.value.problems} == {"x", "defaults.max_batch_size"}


def test_a_sku_with_memory_of_its_own() -> None:
    assert parse("cpu", CPU.replace('bytes = "host"', "bytes = 4096")).memory_bytes == 4096


def test_every_gpu_has_what_decides_kernels_and_plans() -> None:
    gpus = {name: load_sku(name) for name in sku_names() if name != "cpu"}
    assert {"a100", "h100", "h200", "b200", "l40s", "rtx4090", "rtx5090"} <= set(gpus)
    for name, sku in gpus.items():
        assert sku.gpu is not None and sku.target == "tensorrt", name
        assert sku.memory_bytes is not None and sku.reserved_bytes < sku.memory_bytes // 8, name
        has_fp8 = sku.gpu.sm >= 89
        assert ("fp8" in sku.qformats) == ("fp8" in sku.gpu.peak_rates) == has_fp8, name
        assert ("fp8" in sku.kv_cache_dtypes) == has_fp8, name
        assert set(sku.gpu.providers) <= set(PROVIDERS) and sku.gpu.providers, name
        # TensorRT-RTX refuses these cards.
        assert sku.gpu.sm not in (90, 100) or sku.gpu.providers == ("native",), name
    assert [name for name, sku in gpus.items() if sku.is_verified] == ["h100"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[8, 0]", "[8]", "gpu.compute_capability: .* is not a list"),
        ("[8, 0]", "[8, -1]", "gpu.compute_capability"),
        ("num_sms = 108", "", "gpu.num_sms: is missing"),
        ("bandwidth = 2039e9", "bandwidth = 0", "gpu.bandwidth: 0 is not a positive number"),
        ('providers = ["tensorrt_rtx", "native"]', 'providers = ["cutlass"]', "gpu.providers"),
        ('providers = ["tensorrt_rtx", "native"]', "providers = []", "gpu.providers"),
        ("int8 = ", "int4 = ", "gpu.peak_rates.int4: is not an entry"),
        ("num_sms", "cores = 1\nnum_sms", "gpu.cores: is not an entry"),
        ("reserved_bytes", "spare_bytes", "memory.reserved_bytes: is missing"),
        ('target = "tensorrt"', 'target = "cpu"', "gpu: is not an entry of a SKU file"),
    ],
)
def test_malformed_gpus(old: str, new: str, message: str) -> None:
    assert old in A100
    with pytest.raises(SkuError, match=message):
        parse("a100", A100.replace(old, new))


def test_several_skus_of_one_engine() -> None:
    assert [sku.name for sku in load_skus("h200, l40s,rtx4090")] == ["h200", "l40s", "rtx4090"]
    for names, message in (
        ("h200,h200", "h200 is named twice"),
        ("h200,cpu", "cpu has no engine in common with h200"),
        ("cpu,h200", "h200 has no engine in common with cpu"),
        ("h200,", "'' is not known"),
    ):
        with pytest.raises(OptionError, match=message):
            load_skus(names)
