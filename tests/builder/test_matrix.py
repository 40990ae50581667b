# SPDX-License-Identifier: Apache-2.0
"""The reader of configs/schemes.toml: whatever is malformed or undecided is told."""

from __future__ import annotations

from importlib import resources

import pytest

from enginery.builder.errors import MatrixError
from enginery.builder.matrix import KV_CACHE_DTYPES, parse_matrix
from enginery.builder.memory_plan import KV_ITEM_BYTES
from enginery.builder.refusals import nearest_without_scales
from enginery.builder.sku import load_sku, sku_names
from enginery.quantization import SCHEMES

TEXT = (resources.files("enginery.configs") / "schemes.toml").read_text(encoding="utf-8")
FP8 = '[schemes.fp8]\nskus = ["cpu", "h100", '
REFUSED = '[[schemes.fp8.refused]]\nskus = ["a100"]\n'
NEAREST = 'nearest = ["int8_sq", "int8_dynamic", "int8_wo", "none"]'


def test_the_file_has_a_row_for_all_there_is_to_choose() -> None:
    matrix = parse_matrix(TEXT, sku_names())
    assert set(matrix.schemes) == set(SCHEMES)
    assert set(matrix.kv_cache_dtypes) == set(KV_CACHE_DTYPES) == set(KV_ITEM_BYTES)
    for sku in map(load_sku, sku_names()):
        assert matrix.qformats_of(sku.name) == sku.qformats
        assert matrix.kv_cache_dtypes_of(sku.name) == sku.kv_cache_dtypes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[schemes.int8_wo]", "[schemes.int9_wo]", r"schemes\.int8_wo: is missing"),
        ("[schemes.fp8]", "[schemes.fp9]", r"schemes\.fp9: is not an entry of schemes\.toml"),
        ("[schemes.fp8]", "[fp8]", r"fp8: is not an entry of schemes\.toml"),
        ("[kv_cache_dtypes.int8]", "[kv_cache_dtypes.int4]", r"kv_cache_dtypes\.int8: is missing"),
        ("[kv_cache_dtypes.int8]", "[kv_cache_dtypes.int4]", r"kv_cache_dtypes\.int4: is not an"),
        (
            FP8,
            FP8.replace("h100", "h10"),
            r"schemes\.fp8: 'h10' is not a SKU; there are a100, b200",
        ),
        (FP8, FP8.replace('"h100", ', ""), r"fp8: does not decide SKU h100 \(add it to skus or to"),
        (FP8, FP8 + '"h100", ', r"schemes\.fp8: decides SKU h100 more than once"),
        (FP8, FP8 + '"a100", ', r"schemes\.fp8: decides SKU a100 more than once"),
        (FP8, FP8.replace("skus =", "sku ="), r"schemes\.fp8\.skus: is missing"),
        (FP8, FP8.replace("skus =", "sku ="), r"schemes\.fp8\.sku: is not an entry"),
        (FP8, "[schemes.fp8]\nskus = [1, ", r"schemes\.fp8\.skus: .* is not a list of strings"),
        (REFUSED, REFUSED.replace("[[", "[").replace("]]", "]"), "refused: .* not a list of table"),
        (REFUSED, REFUSED + "why = 1\n", r"schemes\.fp8\.refused\[0\]\.why: is not an entry"),
        (REFUSED, REFUSED.replace('"a100"', ""), r"schemes\.fp8\.refused\[0\]\.skus: names no SKU"),
        (REFUSED, REFUSED + 'reason = ""\n#', r"schemes\.fp8\.refused\[0\]\.reason: is empty"),
        (REFUSED, REFUSED + "#", r"schemes\.fp8\.refused\[0\]\.reason: is missing"),
        (NEAREST, NEAREST.replace("int8_wo", "w8"), r"schemes\.fp8\.nearest: 'w8' is not one of"),
        (NEAREST, NEAREST.replace("none", "fp8"), r"schemes\.fp8\.nearest: 'fp8' is not one of"),
        (NEAREST, NEAREST.replace("none", "auto"), r"schemes\.fp8\.nearest: 'auto' is not one of"),
        (NEAREST, "nearest = []", r"schemes\.fp8\.nearest: names nothing that is built for a100"),
        (NEAREST, 'nearest = ["int8_dynamic"]', "nearest: names nothing that is built for a100"),
        (NEAREST, "", r"schemes\.fp8\.nearest: is missing"),
        ("[schemes.none]", "[schemes.none", "file: is not valid TOML"),
    ],
)
def test_malformed_files(old: str, new: str, message: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(MatrixError, match=message):
        parse_matrix(TEXT.replace(old, new), sku_names())


def test_no_tables_at_all() -> None:
    with pytest.raises(MatrixError) as error:
        parse_matrix("schemes = 1", sku_names())
    problems = {problem.field: problem.message for problem in error.value.problems}
    assert problems["schemes"] == "1 is not a table"
    assert problems["kv_cache_dtypes"] == "is missing"


def test_an_empty_row_decides_nothing() -> None:
    rows = TEXT.split("\n\n")
    kept = [row for row in rows if "schemes.fp8" not in row]
    assert len(rows) - len(kept) == 2
    with pytest.raises(MatrixError) as error:
        parse_matrix("\n\n".join([*kept, "[schemes.fp8]"]), sku_names())
    found = {problem.field for problem in error.value.problems}
    assert found == {"schemes.fp8", "schemes.fp8.skus", "schemes.fp8.nearest"}


def test_a_new_sku_is_told_of_every_row_that_leaves_it_open() -> None:
    with pytest.raises(MatrixError) as error:
        parse_matrix(TEXT, [*sku_names(), "abacus"])
    assert {problem.field for problem in error.value.problems} == {
        *(f"schemes.{name}" for name in SCHEMES),
        *(f"kv_cache_dtypes.{name}" for name in KV_CACHE_DTYPES),
    }
    assert all("does not decide SKU abacus" in problem.message for problem in error.value.problems)


def test_without_scales_a_scheme_gives_way_to_one_that_all_its_skus_build() -> None:
    # The nearer int8_dynamic is of cpu alone.
    assert nearest_without_scales("fp8") == nearest_without_scales("int8_sq") == "int8_wo"
