# SPDX-License-Identifier: Apache-2.0
"""The engine directory: complete, described, atomic, and made in little memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from enginery.builder import build as build_module
from enginery.builder.build import build
from enginery.builder.engine.verification import verify_files
from enginery.builder.errors import CheckpointError, EngineFileError, OutputError
from tests.support.checkpoints import tensor_shapes, write_safetensors, write_tiny_checkpoint
from tests.support.engines import build_tiny, plan_tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "tiny-llama", "llama")


def nothing_is_left(tmp_path: Path) -> bool:
    return [path.name for path in tmp_path.iterdir()] == ["tiny-llama"]


def test_the_directory(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "engine"
    build_tiny(model, output, tp_size=2, qformat="int8_dynamic", max_batch_size=3)
    assert sorted(path.name for path in output.iterdir()) == [
        "config.json", "generation_config.json", "manifest.json", "rank0.engine", "rank1.engine",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert oct(output.stat().st_mode)[-3:] == "755"
    assert (output / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()

    config = json.loads((output / "config.json").read_text())
    assert set(config) == {"version", "pretrained_config", "build_config"}
    assert config["build_config"]["max_batch_size"] == 3
    assert config["build_config"]["plugin_config"]["tokens_per_block"] == 32
    assert config["pretrained_config"]["mapping"]["tp_size"] == 2
    assert config["pretrained_config"]["head_size"] == 32

    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["target"] == manifest["sku"] == "cpu"
    assert manifest["quantization"]["qformat"] == "int8_dynamic"
    assert manifest["checkpoint"]["name"] == "tiny-llama"
    weights = (model / "model.safetensors").read_bytes()
    assert manifest["checkpoint"]["weights"] == [
        {
            "name": "model.safetensors",
            "bytes": len(weights),
            "sha256": hashlib.sha256(weights).hexdigest(),
        }
    ]
    assert {entry["name"] for entry in manifest["files"]} == {
        path.name for path in output.iterdir() if path.name != "manifest.json"
    }


def test_an_engine_without_a_tokenizer(tmp_path: Path, model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (engine,) = build_tiny(model, tmp_path / "engine", skip_tokenizer=True)
    assert engine.tokens == [(b"", 2)] * 320
    assert not (tmp_path / "engine" / "tokenizer_config.json").exists()


def test_progress_reaches_its_end(tmp_path: Path, model: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build(plan_tiny(model, tmp_path / "engine"), lambda *told: seen.append(told))
    assert seen == sorted(seen) and len(seen) > 10
    assert seen[0][:2] == ("weights", 0)
    assert len({(stage, total) for stage, _, total in seen}) == 1
    assert seen[-1][1] == seen[-1][2]


def test_a_weight_that_is_not_finite_stops_the_build_and_leaves_nothing(
    tmp_path: Path, model: Path
) -> None:
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = np.array([np.nan], np.float32).tobytes()
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: row 319 holds a NaN"):
        build_tiny(model, tmp_path / "engine", qformat="int8_wo")
    assert nothing_is_left(tmp_path)


def test_a_failure_at_the_last_moment_leaves_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(build_module, "manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        build_tiny(model, tmp_path / "engine")
    assert nothing_is_left(tmp_path)


def test_what_is_in_the_way_is_not_replaced(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "engine"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds something else"):
            build_tiny(model, output, overwrite=overwrite)
    assert (output / "thesis.tex").read_text() == "years of work"
    with pytest.raises(OutputError, match="is a file"):
        build_tiny(model, output / "thesis.tex")


def test_an_engine_is_replaced_only_when_asked(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "engine"
    output.mkdir()  # an empty directory is in nobody's way
    build_tiny(model, output)
    with pytest.raises(OutputError, match="give --overwrite"):
        build_tiny(model, output, qformat="int8_wo")
    (engine,) = build_tiny(model, output, qformat="int8_wo", overwrite=True)
    assert engine.attributes["qformat"] == "int8_wo"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "tiny-llama"]


def test_verification_tells_every_file_that_changed(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "engine"
    build_tiny(model, output)
    seen: list[str] = []
    verify_files(output, lambda name, size: seen.append(name))
    assert len(seen) == 5
    data = bytearray((output / "rank0.engine").read_bytes())
    data[-1] ^= 1
    (output / "rank0.engine").write_bytes(data)
    (output / "tokenizer.json").unlink()
    (output / "config.json").write_text("{}")
    (output / "rank1.engine").write_bytes(b"")
    with pytest.raises(EngineFileError) as error:
        verify_files(output, lambda name, size: None)
    found = {problem.field: problem.message for problem in error.value.problems}
    assert found.keys() == {"rank0.engine", "tokenizer.json", "config.json", "rank1.engine"}
    assert found["rank0.engine"].startswith("was changed")
    assert found["tokenizer.json"] == "is missing"
    assert found["config.json"].startswith("is 2 bytes long; the manifest says ")
    assert found["rank1.engine"] == "is not in the manifest"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", 5])
def test_a_manifest_that_leads_out_of_the_engine(tmp_path: Path, model: Path, name: object) -> None:
    output = tmp_path / "engine"
    build_tiny(model, output)
    manifest = json.loads((output / "manifest.json").read_text())
    manifest["files"][0]["name"] = name
    (output / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineFileError, match="malformed entry"):
        verify_files(output, lambda name, size: None)


WATCHED = """
import sys
from enginery.cli.build_engine import main
status = main(sys.argv[1:])
assert not {"torch", "safetensors", "transformers", "tokenizers"} & set(sys.modules)
sys.exit(status)
"""


@pytest.mark.parametrize("qformat", ["none", "int8_dynamic"])
def test_peak_memory_and_no_torch(tmp_path: Path, qformat: str) -> None:
    """420 MB of weights are built in a process that may take the two largest tensors and 200 MB."""
    model = write_tiny_checkpoint(
        tmp_path / "model", "llama", config_overrides={
            "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8,
            "num_key_value_heads": 8, "vocab_size": 40_000, "num_hidden_layers": 8,
        }
    )  # fmt: skip
    shapes = dict(
        tensor_shapes(
            "llama", hidden_size=1024, intermediate_size=4096, num_heads=8, num_kv_heads=8,
            num_layers=8, head_dim=128, vocab_size=40_000, tie=False,
        )
    )  # fmt: skip
    ones = np.broadcast_to(np.uint16(0x3F80), (40_000, 4096))  # bfloat16, no memory of its own
    write_safetensors(
        model / "model.safetensors",
        {
            name: ones[: shape[0], : shape[-1]] if len(shape) == 2 else ones[0, : shape[0]]
            for name, shape in shapes.items()
        },
        dict.fromkeys(shapes, "BF16"),
    )
    total = (model / "model.safetensors").stat().st_size
    options = ["--model", str(model), "--output", str(tmp_path / "engine"), "--json"]
    options += ["--qformat", qformat]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *options], check=True, capture_output=True, text=True
    )
    summary = json.loads(done.stdout)["summary"]
    two_largest = sum(summary["largest_tensor_bytes"])
    assert two_largest == 2 * 2 * 40_000 * 1024
    assert 10_000_000 < summary["peak_anonymous_bytes"] <= two_largest + 200_000_000 < total
