# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enginery.runtime.errors import EngineryError, InvalidArgumentError
from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.pbtxt import to_pbtxt
from enginery.triton_backend.repository import (
    Repository,
    check_repository,
    model_config,
    write_repository,
)
from tests.support.schemes import build_tiny_engine

GOLDEN = Path(__file__).parent / "golden" / "config.pbtxt"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_engine(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def repository(engine: Path, tmp_path: Path) -> Repository:
    return write_repository(tmp_path, ModelOptions(str(engine)), "llm")


def test_config_is_the_golden_one() -> None:
    options = ModelOptions("/engines/demo", runtime=RuntimeOptions(max_queue_size=500))
    assert to_pbtxt(model_config(options, "llm")) == GOLDEN.read_text()


def test_files(repository: Repository) -> None:
    files = sorted(path for path in repository.path.rglob("*") if path.is_file())
    names = [str(path.relative_to(repository.path)) for path in files]
    assert names == ["llm/1/model.py", "llm/config.pbtxt"]
    assert "${" not in files[1].read_text()


def test_relative_engine_becomes_absolute(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(engine.parent)
    write_repository(tmp_path, ModelOptions(engine.name))
    assert f'"{engine}"' in (tmp_path / "enginery" / "config.pbtxt").read_text()


def test_model_py_finds_this_installation(repository: Repository) -> None:
    """As Triton server runs it: with an interpreter that has none of our paths."""
    code = f"import runpy; runpy.run_path({str(repository.path / 'llm/1/model.py')!r})"
    command = [sys.executable, "-I", "-S", "-c", code + "['TritonPythonModel'].execute"]
    subprocess.run(command, check=True, cwd="/")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "ü", "a" * 129, "a\n"])
def test_bad_model_name(name: str, engine: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="model_name = "):
        write_repository(tmp_path, ModelOptions(str(engine)), name)
    assert not list(tmp_path.iterdir())


def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineryError, match="nowhere"):
        write_repository(tmp_path, ModelOptions(str(tmp_path / "nowhere")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("written", "edited", "problem"),
    [
        ("decoupled: true", "decoupled: false", "decoupled: must be true"),
        ('name: "llm"', 'name: "other"', "name = 'other': the folder is 'llm'"),
        ('name: "top_k"', 'name: "topk"', "input topk: the model has no such tensor"),
        ('name: "top_k"', 'name: "topk"', "input top_k: is missing"),
        (
            'name: "seed"\n  data_type: TYPE_UINT64',
            'name: "seed"\n  data_type: TYPE_INT32',
            "input seed: is ('TYPE_INT32', (1,)), must be ('TYPE_UINT64', (1,))",
        ),
        (
            'name: "output_ids"\n  data_type: TYPE_INT32\n  dims: [ -1 ]',
            'name: "output_ids"\n  data_type: TYPE_INT32\n  dims: [ 1 ]',
            "output output_ids: is ('TYPE_INT32', (1,))",
        ),
        ('key: "engine_dir"', 'key: "gpt_model_path"', "gpt_model_path = "),
        ("input {", "input {{", "config.pbtxt"),
    ],
)
def test_check_finds_edits(written: str, edited: str, problem: str, repository: Repository) -> None:
    config = repository.path / "llm" / "config.pbtxt"
    text = config.read_text()
    assert written in text
    config.write_text(text.replace(written, edited))
    with pytest.raises(InvalidArgumentError) as raised:
        check_repository(repository)
    assert problem in str(raised.value)


def test_check_finds_a_missing_model(repository: Repository) -> None:
    (repository.path / "llm" / "1" / "model.py").unlink()
    with pytest.raises(InvalidArgumentError, match=r"model\.py: is missing"):
        check_repository(repository)
