# SPDX-License-Identifier: Apache-2.0
"""The native backend on the side of Python: its repository, its files, what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from enginery.cli.main import main
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend import layouts, native_backend, server
from enginery.triton_backend.errors import ServerError
from enginery.triton_backend.installation import find_tritonserver
from enginery.triton_backend.native_backend import (
    BACKEND_LIBRARY,
    NativeOptions,
    native_backend_files,
)
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import Repository, check_repository, write_repository
from enginery.triton_backend.server import ServerOptions, TritonServer
from tests.support.schemes import build_tiny_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_engine(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def repository(engine: Path, tmp_path: Path) -> Repository:
    return write_repository(tmp_path, NativeOptions(ModelOptions(str(engine))), "llm")


def test_config_differs_in_the_backend_alone(
    engine: Path, repository: Repository, tmp_path: Path
) -> None:
    native = (repository.path / "llm" / "config.pbtxt").read_text()
    write_repository(tmp_path / "python", ModelOptions(str(engine)), "llm")
    python = (tmp_path / "python" / "llm" / "config.pbtxt").read_text()
    assert native == python.replace('backend: "python"', 'backend: "enginery"')
    assert (repository.layout, repository.is_native) == (layouts.ENGINERY, True)


def test_no_python_is_left_in_the_model(engine: Path, tmp_path: Path) -> None:
    write_repository(tmp_path, ModelOptions(str(engine)), "llm")
    assert (tmp_path / "llm" / "1" / "model.py").is_file()
    write_repository(tmp_path, NativeOptions(ModelOptions(str(engine))), "llm")
    assert (tmp_path / "llm" / "1").is_dir()
    assert not list((tmp_path / "llm" / "1").iterdir())


def test_one_response_a_request(engine: Path, tmp_path: Path) -> None:
    options = NativeOptions(ModelOptions(str(engine)), is_decoupled=False)
    write_repository(tmp_path, options, "llm")
    assert "decoupled: false" in (tmp_path / "llm" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("written", "edited", "problem"),
    [
        ('backend: "enginery"', 'backend: "python"', "backend = 'python': must be 'enginery'"),
        ('name: "top_k"', 'name: "topk"', "input top_k: is missing"),
        ('key: "engine_dir"', 'key: "gpt_model_path"', "gpt_model_path = "),
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


def test_options_of_the_python_backend_are_refused(engine: Path, tmp_path: Path) -> None:
    options = ModelOptions(
        str(engine),
        tokenizer_dir="/t",
        num_sender_threads=3,
        runtime=RuntimeOptions(executor="a.b:c", sku="cpu", free_gpu_memory_fraction=0.5),
    )
    with pytest.raises(InvalidArgumentError) as raised:
        write_repository(tmp_path, NativeOptions(options))
    for name in native_backend.PYTHON_PARAMETERS:
        assert f"{name} = " in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_flag_chooses_the_backend(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, backend in (
        ((), "python"),
        (("--backend", "auto"), "python"),
        (("--backend", "python"), "python"),
        (("--backend", "native"), "enginery"),
    ):
        assert main(["serve", str(engine), "--dry_run", *flags]) == 0
        assert f'backend: "{backend}"\n' in capsys.readouterr().out
    own = ["--layout", "tensorrt_llm", "--backend", "native", "--model_repository", str(tmp_path)]
    assert main(["serve", str(engine), "--dry_run", *own]) == 0
    assert 'backend: "enginery"\n' in (tmp_path / "tensorrt_llm" / "config.pbtxt").read_text()


def test_backends_lie_beside_each_other(tmp_path: Path) -> None:
    find_tritonserver().assemble_backends(tmp_path / "backends")
    assert (tmp_path / "backends" / "python" / "triton_python_backend_stub").is_file()
    files = sorted(path.name for path in (tmp_path / "backends" / "enginery").iterdir())
    assert files == ["libenginery.so", BACKEND_LIBRARY]


def test_installation_without_the_backend(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        package = sys.modules["enginery.triton_backend"]
        patch.setattr(package, "__path__", [str(tmp_path)])
        patch.setattr(sys, "path", [])
        assert native_backend_files() is None
    monkeypatch.setattr(server, "native_backend_files", lambda: None)
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with pytest.raises(ServerError, match=f"{BACKEND_LIBRARY} is not installed"):
        TritonServer(repository, options).start()
