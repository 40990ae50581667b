# SPDX-License-Identifier: Apache-2.0
"""`from enginery import LLM` on a checkpoint, built on the fly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import enginery
from enginery import LLM, KvCacheConfig, SamplingParams
from enginery.builder.errors import BuildError
from enginery.runtime.errors import EngineryError, InvalidArgumentError
from tests.support.checkpoints import write_tiny_checkpoint

GPU_ENGINE = Path(__file__).parents[1] / "golden" / "tiny_tensorrt.engine"
GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


def test_everything_that_is_exported_is_there() -> None:
    for name in enginery.__all__:
        assert getattr(enginery, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        enginery.no_such  # noqa: B018


def test_builds_in_a_temporary_directory_and_removes_it(checkpoint: Path) -> None:
    with LLM(checkpoint, max_batch_size=3) as llm:
        info = llm.engine.info
        assert (info.dtype, info.max_batch_size) == ("float32", 3)
        assert len(llm.generate("the sea", GREEDY).outputs[0].token_ids) == 8
        path = Path(llm.engine.path)
        assert path.is_dir()
    assert not path.parent.exists()


def test_an_object_that_is_dropped_leaves_nothing(checkpoint: Path) -> None:
    llm = LLM(checkpoint)
    path = Path(llm.engine.path)
    del llm
    assert not path.parent.exists()


def test_build_options(checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "engine"
    config = KvCacheConfig(dtype="float32", max_tokens=128)
    with LLM(
        checkpoint,
        engine_dir=directory,
        dtype="bfloat16",
        qformat="int8_wo",
        tensor_parallel_size=2,
        max_seq_len=100,
        max_input_len=50,
        tokens_per_block=32,
        kv_cache_config=config,
    ) as llm:
        info = llm.engine.info
        assert (info.dtype, info.qformat, info.kv_cache_dtype) == ("bfloat16", "int8_wo", "float32")
        assert (info.tp_size, info.max_seq_len, info.max_input_len) == (2, 100, 50)
        assert llm.stats().num_blocks == 4
        expected = llm.generate("the sea", GREEDY).outputs[0].token_ids
    # The engine stays, and is opened as what it is.
    with LLM(directory, dtype="bfloat16", tensor_parallel_size=2) as again:
        assert again.generate("the sea", GREEDY).outputs[0].token_ids == expected
    with pytest.raises(InvalidArgumentError, match="engine already"):
        LLM(directory, engine_dir=tmp_path / "other")
    with pytest.raises(InvalidArgumentError, match="'int8_wo'"):
        LLM(directory, qformat="none")


def test_save(checkpoint: Path, tmp_path: Path) -> None:
    with LLM(checkpoint) as llm:
        expected = llm.generate("the sea", GREEDY).outputs[0].text
        saved = llm.save(tmp_path / "saved")
        with pytest.raises(FileExistsError):
            llm.save(tmp_path / "saved")
    with LLM(saved) as again:
        assert again.generate("the sea", GREEDY).outputs[0].text == expected


@pytest.mark.parametrize(
    ("model", "message"), [("meta-llama/Llama-3.2-1B", "nothing is downloaded"), ("", "rank0")]
)
def test_no_model_there(model: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        LLM(tmp_path / model)


def test_build_errors_come_through(checkpoint: Path) -> None:
    with pytest.raises(BuildError, match="max_seq_len"):
        LLM(checkpoint, max_seq_len=10**6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emulate": True, "executor": "a:b"}, "emulate, executor: give one of them"),
        ({"emulate": True}, "built for a100, h200; choose one"),
        ({"sku": "l40s"}, "was built for a100, h200"),
    ],
)
def test_how_an_engine_for_a_gpu_is_run(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineryError, match=message):
        LLM(GPU_ENGINE, **options)


@pytest.mark.parametrize("sku", [None, "cpu", "h200,l40s"])
def test_nothing_is_built_that_could_not_be_emulated(
    checkpoint: Path, tmp_path: Path, sku: str | None
) -> None:
    with pytest.raises(InvalidArgumentError, match="must be one GPU's"):
        LLM(checkpoint, engine_dir=tmp_path / "engine", sku=sku, emulate=True)
    assert not (tmp_path / "engine").exists()
