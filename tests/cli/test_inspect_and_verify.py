# SPDX-License-Identifier: Apache-2.0
"""`enginery inspect` and `enginery verify` on whole and damaged engines, by the C++ reader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginery.cli.main import main
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engine_reader import Engine
from tests.support.engines import build_tiny


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "engine"


@pytest.fixture
def engines(tmp_path: Path, output: Path) -> list[Engine]:
    """Both ranks of an engine at `output`."""
    model = write_tiny_checkpoint(tmp_path / "model", "qwen3")
    return build_tiny(model, output, tp_size=2, qformat="int8_dynamic")


def test_both_readers_of_the_format_see_the_same(
    output: Path, engines: list[Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    """The C++ reader's description of each rank is that of the Python reader of the tests."""
    assert main(["inspect", str(output), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["manifest"]["tp_size"] == len(document["ranks"]) == 2
    for engine, described in zip(engines, document["ranks"], strict=True):
        expected: dict[str, Any] = engine.describe()
        for part in ("sections", "attributes", "values", "steps"):
            assert described[part] == expected[part], part
        assert described["header"].items() <= expected["header"].items()
        assert described["header"]["tp_rank"] == expected["header"]["tp_rank"]
        for got, wanted in zip(described["tensors"], expected["tensors"], strict=True):
            # A section is named, where the file numbers it.
            assert got.pop("section") in (wanted.pop("section"), "weights")
            assert got == wanted


def test_an_engine_in_int4_is_inspected_and_verified(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "qwen2", hidden_size=136)
    (engine,) = build_tiny(model, output, qformat="w4a8_dynamic")
    assert main(["inspect", str(output), "--json"]) == 0
    (described,) = json.loads(capsys.readouterr().out)["ranks"]
    assert described["steps"] == engine.describe()["steps"]
    expected = [(t.name, t.dtype, t.layout, list(t.shape), t.num_bytes) for t in engine.tensors]
    fields = ("name", "dtype", "layout", "shape", "bytes")
    assert [tuple(t[f] for f in fields) for t in described["tensors"]] == expected
    assert main(["verify", str(output)]) == 0


def test_inspect_shows_a_rank_as_text(
    output: Path, engines: list[Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(output), "--rank", "1"]) == 0
    text = capsys.readouterr().out
    for part in ("Header", "Memory plan", "Program (33 steps)", "all_reduce(", "n16k4"):
        assert part in text


@pytest.mark.parametrize("rank", ["2", "-1"])
def test_inspect_of_a_rank_that_is_not_there(
    output: Path, engines: list[Engine], capsys: pytest.CaptureFixture[str], rank: str
) -> None:
    assert main(["inspect", str(output), "--rank", rank]) == 2
    assert "rank" in capsys.readouterr().err


def test_verify_of_a_whole_engine(
    output: Path, engines: list[Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(output)]) == 0
    assert "6 files and 6 sections are intact" in capsys.readouterr().out
    assert main(["verify", str(output), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_sections"] == [3, 3] and len(result["files"]) == 6


def forge_manifest(output: Path) -> None:
    """Makes the manifest agree with a changed rank file, as who changed it could."""
    path = output / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["files"]:
        data = (output / entry["name"]).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)


def forge(output: Path) -> None:
    flip_last_byte(output / "rank1.engine")
    forge_manifest(output)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda out: flip_last_byte(out / "rank1.engine"), "rank1.engine: was changed"),
    "truncated": (
        lambda out: (out / "rank0.engine").write_bytes((out / "rank0.engine").read_bytes()[:-64]),
        "bytes long; the manifest says",
    ),
    "rank_missing": (lambda out: (out / "rank1.engine").unlink(), "rank1.engine: is missing"),
    "manifest_missing": (lambda out: (out / "manifest.json").unlink(), "manifest.json: is missing"),
    "not_an_engine": (
        lambda out: (out / "manifest.json").write_text('{"files": []}'),
        "is not that of an engine",
    ),
    "forged": (
        forge,
        "weights",  # the section's own hash still tells
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_verify_of_damaged_engines(
    output: Path, engines: list[Engine], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    damage, message = DAMAGE[case]
    damage(output)
    assert main(["verify", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("memory_plan", None),
        ("memory_plan", {"weight_bytes": "8 MiB"}),
        ("memory_plans", [{}]),
        ("memory_plans", {"h100": {"weight_bytes": 1.5}}),
        ("checkpoint", "demo"),
        ("checkpoint", {"name": "demo", "config_sha256": "00", "weights": [{"name": 1}]}),
    ],
)
def test_inspect_of_a_malformed_manifest(
    output: Path, engines: list[Engine], capsys: pytest.CaptureFixture[str], entry: str, value: Any
) -> None:
    path = output / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {entry: value}))
    assert main(["inspect", str(output)]) == 2
    assert f"entry {entry}" in capsys.readouterr().err


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("inspect", "verify"):
        assert main([command, str(tmp_path / "nowhere")]) == 2
        assert "manifest.json: is missing (name an engine dir" in capsys.readouterr().err
