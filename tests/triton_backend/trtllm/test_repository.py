# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from enginery.runtime.errors import InvalidArgumentError, NotFoundError
from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.layouts import TENSORRT_LLM
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.pbtxt import to_pbtxt
from enginery.triton_backend.repository import Repository, check_repository, write_repository
from enginery.triton_backend.trtllm.options import TrtllmOptions
from enginery.triton_backend.trtllm.repository import served_models

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["ensemble", "postprocessing", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls"]


@pytest.fixture
def repository(engine_dir: Path, tmp_path: Path) -> Repository:
    return write_repository(tmp_path, TrtllmOptions(ModelOptions(str(engine_dir))))


@pytest.mark.parametrize("name", NAMES)
def test_config_is_the_golden_one(name: str) -> None:
    options = ModelOptions("/engines/demo", runtime=RuntimeOptions(max_queue_size=500))
    models = {model.name: model for model in served_models(TrtllmOptions(options), 64)}
    assert sorted(models) == NAMES
    assert to_pbtxt(models[name].config) == (GOLDEN / f"{name}.pbtxt").read_text()


def test_files(repository: Repository) -> None:
    files = sorted(path for path in repository.path.rglob("*") if path.is_file())
    assert [str(path.relative_to(repository.path)) for path in files] == [
        "ensemble/config.pbtxt",
        "postprocessing/1/model.py",
        "postprocessing/config.pbtxt",
        "preprocessing/1/model.py",
        "preprocessing/config.pbtxt",
        "tensorrt_llm/1/model.py",
        "tensorrt_llm/config.pbtxt",
        "tensorrt_llm_bls/1/model.py",
        "tensorrt_llm_bls/config.pbtxt",
    ]
    # Triton server wants a folder for each version, also where there is nothing to put in it.
    assert (repository.path / "ensemble" / "1").is_dir()
    assert not any("${" in path.read_text() for path in files)
    assert (repository.model_name, repository.layout) == ("ensemble", TENSORRT_LLM)


@pytest.mark.parametrize("name", NAMES[1:])
def test_model_py_finds_this_installation(name: str, repository: Repository) -> None:
    """As Triton server runs it: with an interpreter that has none of our paths."""
    code = f"import runpy; runpy.run_path({str(repository.path / name / '1/model.py')!r})"
    command = [sys.executable, "-I", "-S", "-c", code + "['TritonPythonModel'].execute"]
    subprocess.run(command, check=True, cwd="/")


def test_rows_of_a_request_are_bounded_by_the_batch(engine_dir: Path, tmp_path: Path) -> None:
    options = ModelOptions(str(engine_dir), runtime=RuntimeOptions(max_batch_size=3))
    write_repository(tmp_path, TrtllmOptions(options))
    for name in NAMES:
        assert "\nmax_batch_size: 3\n" in (tmp_path / name / "config.pbtxt").read_text()


def test_model_name_names_the_ensemble(engine_dir: Path, tmp_path: Path) -> None:
    options = TrtllmOptions(ModelOptions(str(engine_dir)))
    assert write_repository(tmp_path, options, "llama").model_name == "llama"
    assert (tmp_path / "llama" / "config.pbtxt").read_text().startswith('name: "llama"\n')
    with pytest.raises(InvalidArgumentError, match="'tensorrt_llm': is the name of another model"):
        write_repository(tmp_path, options, "tensorrt_llm")


def test_no_tokenizer(engine_dir: Path, tmp_path: Path) -> None:
    options = ModelOptions(str(engine_dir), tokenizer_dir=str(tmp_path))
    with pytest.raises(NotFoundError, match=r"tokenizer: .*tokenizer\.json is not there"):
        write_repository(tmp_path / "models", TrtllmOptions(options))
    assert not (tmp_path / "models").exists()


def test_one_response_a_request(engine_dir: Path, tmp_path: Path) -> None:
    write_repository(tmp_path, TrtllmOptions(ModelOptions(str(engine_dir)), is_decoupled=False))
    assert "decoupled: false" in (tmp_path / "tensorrt_llm" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("name", "written", "edited", "problem"),
    [
        ("ensemble", 'name: "text_input"', 'name: "text"', "input text_input: is missing"),
        ("ensemble", 'key: "input_ids"', 'key: "ids"', "ensemble_scheduling: is not as it was"),
        ("tensorrt_llm", 'name: "tensorrt_llm"', 'name: "llm"', "name = 'llm': the folder is"),
        (
            "tensorrt_llm",
            'name: "seed"\n  data_type: TYPE_UINT64',
            'name: "seed"\n  data_type: TYPE_INT32',
            "input seed: is ('TYPE_INT32', (1,)), must be ('TYPE_UINT64', (1,))",
        ),
        ("tensorrt_llm", 'key: "engine_dir"', 'key: "gpt_model_path"', "gpt_model_path = "),
        ("tensorrt_llm", '_value: "false"', '_value: "maybe"', "exclude_input_in_output = 'maybe'"),
        (
            "preprocessing",
            '_value: "true"',
            '_value: "?"',
            "add_special_tokens = '?': must be true",
        ),
        ("preprocessing", 'key: "engine_dir"', 'key: "x"', "engine_dir: is missing"),
        ("tensorrt_llm_bls", '_value: "false"', '_value: "?"', "accumulate_tokens = '?': must be"),
        ("tensorrt_llm_bls", 'name: "stream"', 'name: "s"', "input stream: is missing"),
        ("postprocessing", 'name: "OUTPUT"', 'name: "OUT"', "output OUT: the model has no such"),
    ],
)
def test_check_finds_edits(
    name: str, written: str, edited: str, problem: str, repository: Repository
) -> None:
    config = repository.path / name / "config.pbtxt"
    text = config.read_text()
    assert written in text
    config.write_text(text.replace(written, edited))
    with pytest.raises(InvalidArgumentError) as raised:
        check_repository(repository)
    assert f"{name}: " in str(raised.value)
    assert problem in str(raised.value)


def test_check_finds_a_missing_model(repository: Repository) -> None:
    (repository.path / "preprocessing" / "1" / "model.py").unlink()
    with pytest.raises(InvalidArgumentError, match=r"preprocessing: .*model\.py: is missing"):
        check_repository(repository)


def test_native_config_differs_in_the_backend_alone(
    engine_dir: Path, repository: Repository, tmp_path: Path
) -> None:
    options = TrtllmOptions(ModelOptions(str(engine_dir)), is_native=True)
    native = write_repository(tmp_path / "native", options)
    assert (native.layout, native.is_native) == (TENSORRT_LLM, True)
    for name in NAMES:
        python, text = ((r.path / name / "config.pbtxt").read_text() for r in (repository, native))
        is_native = name == "tensorrt_llm"
        if is_native:
            python = python.replace('backend: "python"', 'backend: "enginery"')
        assert text == python
        has_python = name not in ("ensemble", "tensorrt_llm")
        assert (native.path / name / "1" / "model.py").is_file() == has_python
    check_repository(native)
    with pytest.raises(InvalidArgumentError, match="backend = 'enginery': must be 'python'"):
        check_repository(Repository(native.path, native.model_name, native.layout))


def test_native_takes_the_tokenizer_and_refuses_what_python_reads(
    engine_dir: Path, tmp_path: Path
) -> None:
    model = ModelOptions(str(engine_dir), tokenizer_dir=str(engine_dir))
    write_repository(tmp_path, TrtllmOptions(model, is_native=True))
    assert "tokenizer_dir" in (tmp_path / "preprocessing" / "config.pbtxt").read_text()
    assert "tokenizer_dir" not in (tmp_path / "tensorrt_llm" / "config.pbtxt").read_text()
    options = TrtllmOptions(replace(model, num_sender_threads=3), is_native=True)
    with pytest.raises(InvalidArgumentError, match="num_sender_threads = '3': only the Python"):
        write_repository(tmp_path / "refused", options)
    assert not (tmp_path / "refused").exists()
