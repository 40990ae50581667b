# SPDX-License-Identifier: Apache-2.0
"""Every scheme and every dtype of the KV cache on every SKU: it plans, or is refused in words.

What to expect is written out here and not read from configs/schemes.toml, and what people read
(README.md, docs/) is compared with the same tables.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.builder.build import plan_build
from enginery.builder.errors import OptionError
from enginery.builder.matrix import KV_CACHE_DTYPES
from enginery.builder.options import BuildRequest
from enginery.builder.sku import load_sku, sku_names
from enginery.quantization import SCHEMES
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.scales import add_scales

ROOT = Path(__file__).resolve().parents[2]

GPUS = {"a100", "h100", "h200", "b200", "l40s", "rtx4090", "rtx5090"}
FP8_GPUS = {"h100", "h200", "b200", "l40s", "rtx4090", "rtx5090"}
SKUS = ("cpu", *sorted(GPUS))

# Scheme -> the SKUs that it is built for.
BUILT = {
    "none": {"cpu"} | GPUS,
    "int8_wo": {"cpu"} | GPUS,
    "int8_dynamic": {"cpu"},
    "w4a8_dynamic": {"cpu"},
    "int4_wo": {"cpu"} | GPUS,
    "int4_awq": {"cpu"} | GPUS,
    "w4a8_awq": {"cpu"},
    "int8_sq": {"cpu"} | GPUS,
    "fp8": {"cpu"} | FP8_GPUS,
}
# Where it is not, what a refusal names.
NEAREST = {
    "int8_dynamic": "int8_sq",
    "w4a8_dynamic": "int4_wo",
    "w4a8_awq": "int4_awq",
    "fp8": "int8_sq",
}

BUILT_KV = {
    "float32": {"cpu"},
    "bfloat16": {"cpu"} | GPUS,
    "float16": GPUS,
    "fp8": {"cpu"} | FP8_GPUS,
    "int8": {"cpu"} | GPUS,
}
NEAREST_KV = {"float32": "auto", "float16": "bfloat16", "fp8": "int8"}

Write = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a checkpoint that has what (qformat, kv_cache_dtype) takes, once for each pair."""

    @functools.cache
    def write(qformat: str, kv_cache_dtype: str) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint") / "model"
        # INT4 blocks take 128 inputs.
        write_tiny_checkpoint(folder, "llama", hidden_size=128, intermediate_size=256)
        return add_scales(folder, qformat, kv_cache_dtype)

    return write


def test_the_tables_are_complete() -> None:
    assert set(BUILT) == set(SCHEMES)
    assert set(BUILT_KV) == set(KV_CACHE_DTYPES)
    assert set(SKUS) == set(sku_names())


@pytest.mark.parametrize("sku", SKUS)
@pytest.mark.parametrize("qformat", SCHEMES)
def test_every_scheme_on_every_sku(
    tmp_path: Path, checkpoint: Write, qformat: str, sku: str
) -> None:
    model = checkpoint(qformat, "auto")
    request = BuildRequest(model, tmp_path / "engine", sku, qformat=qformat)
    if sku in BUILT[qformat]:
        # Of codes that calibration chose the shapes suffice here: tests of their formats read them.
        reads_weights = not SCHEMES[qformat].needs_codes
        planned = plan_build(request, reads_weights=reads_weights)
        assert planned.options.qformat == qformat and planned.has_weights == reads_weights
        linears = [node for node in planned.network.nodes if node.op == "linear"]
        stored = SCHEMES[qformat].weight_dtype or "bf16"
        assert stored in {node.weight(1).dtype for node in linears}
    else:
        assert sku in BUILT[NEAREST[qformat]]
        check_refused(request, "qformat", qformat, NEAREST[qformat])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sku", SKUS)
@pytest.mark.parametrize("kv_cache_dtype", KV_CACHE_DTYPES)
def test_every_kv_cache_dtype_on_every_sku(
    tmp_path: Path, checkpoint: Write, kv_cache_dtype: str, sku: str
) -> None:
    # On a GPU a cache that holds no codes has the build dtype.
    dtype = "float16" if kv_cache_dtype == "float16" and sku != "cpu" else "bfloat16"
    request = BuildRequest(
        checkpoint("none", kv_cache_dtype), tmp_path / "engine", sku, dtype,
        kv_cache_dtype=kv_cache_dtype,
    )  # fmt: skip
    if sku in BUILT_KV[kv_cache_dtype]:
        planned = plan_build(request)
        assert planned.options.kv_cache_dtype == kv_cache_dtype and planned.checked is not None
    else:
        nearest = NEAREST_KV[kv_cache_dtype]
        assert nearest == "auto" or sku in BUILT_KV[nearest]
        check_refused(request, "kv_cache_dtype", kv_cache_dtype, nearest)
    assert not list(tmp_path.iterdir())


def check_refused(request: BuildRequest, option: str, value: str, nearest: str) -> None:
    """Checks that the one problem of `request` names option, value, SKU, a reason and `nearest`."""
    with pytest.raises(OptionError) as error:
        plan_build(request)
    (problem,) = error.value.problems
    assert problem.field == option
    assert re.match(
        f"'{value}' is not built for SKU {request.sku}: \\w.*; accepted", problem.message
    )
    assert problem.fix.split(";")[0] == f"the nearest that is built is {nearest}"


# ---- What people read ----
def rows_of(file: str, heading: str) -> dict[str, str]:
    """The rows of the Markdown table whose first column is `heading`, by their first word of code.

    Returns:
        name -> all other cells of the row, with the bars between them.
    """
    _, found, rest = (ROOT / file).read_text(encoding="utf-8").partition(f"\n| {heading} |")
    assert found, f"{file} has no table of {heading}"
    table = rest.split("\n\n")[0].splitlines()[2:]
    rows: dict[str, str] = {}
    for line in table:
        first, others = line.strip("| ").split(" | ", 1)
        name = re.findall(r"`(\w+)`", first)[0]
        rows[name] = f"{rows[name]} | {others}" if name in rows else others
    return rows


def skus_of(cell: str, skus: set[str]) -> set[str]:
    """Those of `skus`, which are of one target, that a cell says something is built for."""
    if re.match(r"no\b", cell):
        return set()
    least = re.search(r"compute capability (\d+)\.(\d+)", cell)
    if least is None:
        return skus
    gpus = {name: load_sku(name).gpu for name in skus}
    capability = int(least[1]), int(least[2])
    return {
        n for n, gpu in gpus.items() if gpu is not None and gpu.compute_capability >= capability
    }


@pytest.mark.parametrize(
    ("heading", "built"), [("`--qformat`", BUILT), ("`--kv_cache_dtype`", BUILT_KV)]
)
def test_the_readme_says_what_is_built(heading: str, built: dict[str, set[str]]) -> None:
    told = {}
    for name, row in rows_of("README.md", heading).items():
        cpu, tensorrt = row.split(" | ")[-2:]
        told[name] = skus_of(cpu, {"cpu"}) | skus_of(tensorrt, GPUS)
    assert told == built


def test_the_readme_has_every_sku() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n| SKU |")[1].split("\n\n")[0]
    first = [line.split("|")[1] for line in text.splitlines()[2:]]
    assert sorted(re.findall(r"`(\w+)`", " ".join(first))) == sorted(SKUS)


def test_the_page_of_gpus_has_the_schemes_of_gpus() -> None:
    rows = rows_of("docs/tensorrt.md", "`--qformat`")
    assert {name: skus_of(row, GPUS) for name, row in rows.items()} == {
        name: skus & GPUS for name, skus in BUILT.items() if skus & GPUS
    }


def test_the_architecture_has_the_schemes_of_cpu() -> None:
    rows = rows_of("docs/architecture.md", "`--qformat`")
    assert set(rows) == {name for name, skus in BUILT.items() if "cpu" in skus}


def test_the_page_of_schemes_names_the_gpus_that_build_fp8() -> None:
    text = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"\| a GPU from compute capability 8\.9 \((.*?)\) \| `fp8`", text)
    assert {name.replace(" ", "").lower() for name in row.split(", ")} == FP8_GPUS


def test_the_format_has_every_scheme_and_dtype_that_is_built() -> None:
    text = (ROOT / "docs" / "engine-format.md").read_text(encoding="utf-8")
    for name, built in (("qformat", BUILT), ("kv_cache_dtype", BUILT_KV)):
        (row,) = re.findall(rf"\n\| {name} \| string \| (.*) \|", text)
        assert set(re.findall(r"`(\w+)`", row)) == {key for key, skus in built.items() if skus}
    (beside,) = re.findall(r"tensorrt `bfloat16` and `float16` with all schemes but (.*)\.\n", text)
    of_cpu_alone = {name for name, skus in BUILT.items() if skus == {"cpu"}}
    assert set(re.findall(r"`(\w+)`", beside)) == of_cpu_alone
