# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib import resources

import pytest

from enginery.builder.errors import OptionError, SkuError
from enginery.builder.sku import load_sku, parse_sku, sku_names
from enginery.builder.targets.registry import TARGETS
from enginery.quantization import SCHEMES

CPU = (resources.files("enginery.configs") / "skus" / "cpu.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sku_names())
def test_every_sku_file_is_valid(name: str) -> None:
    sku = load_sku(name)
    assert sku.name == name
    assert sku.target in TARGETS
    assert set(sku.qformats) <= set(SCHEMES)
    assert sku.tokens_per_block in sku.accepted_tokens_per_block


def test_the_cpu_defaults() -> None:
    sku = load_sku("cpu")
    assert (sku.max_batch_size, sku.max_num_tokens, sku.tokens_per_block) == (64, 2048, 32)
    assert sku.accepted_tokens_per_block == (16, 32, 64, 128)
    assert sku.memory_bytes is None


def test_a_sku_that_is_not_there() -> None:
    with pytest.raises(OptionError, match="sku: 'abacus' is not known; known are cpu"):
        load_sku("abacus")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "cpu"', 'name = "gpu"', "name: 'gpu' is not 'cpu'"),
        ('target = "cpu"', "", "target: is missing"),
        ('bytes = "host"', 'bytes = "lots"', "memory.bytes: 'lots' is not host or a size"),
        ('bytes = "host"', "bytes = -1", "memory.bytes: -1 is not"),
        ("kv_cache_fraction = 0.5", "kv_cache_fraction = 1.5", "1.5 is not above 0"),
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
        parse_sku("cpu", CPU.replace(old, new))


def test_all_problems_of_a_file_are_told_at_once() -> None:
    text = CPU.replace("max_batch_size = 64", "").replace("[memory]", "x = 1\n[memory]")
    with pytest.raises(SkuError) as error:
        parse_sku("cpu", text)
    assert {problem.field for problem in error.value.problems} == {"x", "defaults.max_batch_size"}


def test_a_sku_with_memory_of_its_own() -> None:
    assert parse_sku("cpu", CPU.replace('bytes = "host"', "bytes = 4096")).memory_bytes == 4096
