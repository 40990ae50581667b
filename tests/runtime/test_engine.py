# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import EngineFileError, NotFoundError, ShutDownError
from tests.support.engine_reader import read_engine
from tests.support.tokenizer import BOS_TOKEN_ID, EOS_TOKEN_ID


def test_info(engine: Engine) -> None:
    info = engine.info
    assert (info.target, info.sku, info.architecture) == ("cpu", "cpu", "LlamaForCausalLM")
    assert (info.dtype, info.qformat, info.kv_cache_dtype) == ("float32", "none", "float32")
    assert (info.vocab_size, info.hidden_size, info.num_layers) == (320, 128, 2)
    assert (info.num_kv_heads, info.head_dim, info.tp_size) == (2, 32, 1)
    assert (info.max_batch_size, info.max_num_tokens, info.max_seq_len) == (8, 64, 256)
    assert info.tokens_per_block == 16
    assert info.bos_token_id == BOS_TOKEN_ID
    assert info.eos_token_ids == (EOS_TOKEN_ID,)
    assert info.pad_token_id is None
    # K and V, layers, heads, head_dim, float32.
    assert info.kv_bytes_per_token == 2 * 2 * 2 * 32 * 4
    assert info.weight_bytes > 0


def test_describe(engine: Engine) -> None:
    description = engine.describe()
    assert description["header"]["target"] == "cpu"
    assert description["attributes"]["vocab_size"] == 320
    names = [section["name"] for section in description["sections"]]
    assert {"program", "token_bytes"} <= set(names)
    assert description["steps"][0]["op"] == "embed"
    for section in description["sections"]:
        assert engine.section(section["name"]).nbytes == section["bytes"]


def test_section_is_the_file_itself(engine: Engine, engine_path: Path) -> None:
    section = engine.section("program")
    entry = next(e for e in engine.describe()["sections"] if e["name"] == "program")
    written = (engine_path / "rank0.engine").read_bytes()
    assert bytes(section) == written[entry["offset"] : entry["offset"] + entry["bytes"]]
    with pytest.raises(ValueError, match="read-only"):
        section[0] = 1


def test_unknown_section_and_rank(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="no_such"):
        engine.section("no_such")
    with pytest.raises((NotFoundError, ValueError), match="rank"):
        engine.describe(1)


def test_verify_tells_progress(engine: Engine) -> None:
    seen: list[tuple[int, int]] = []
    engine.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    engine.verify()


def test_verify_raises_what_the_callback_raised(engine: Engine) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.verify(stop)


def test_verify_finds_a_flipped_bit_in_the_weights(engine_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(engine_path, tmp_path / "engine"))
    file = copy / "rank0.engine"
    content = bytearray(file.read_bytes())
    content[-4096] ^= 1
    file.write_bytes(content)
    with Engine(copy) as engine, pytest.raises(EngineFileError) as caught:
        engine.verify()
    assert caught.value.status == "CHECKSUM_MISMATCH"


def test_no_engine_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        Engine(tmp_path / "nothing")


def test_a_file_that_is_no_engine(tmp_path: Path) -> None:
    file = tmp_path / "rank0.engine"
    file.write_bytes(b"not an engine" * 100)
    with pytest.raises(EngineFileError) as caught:
        Engine(file)
    assert caught.value.status == "BAD_MAGIC"


def test_closed(engine_path: Path) -> None:
    engine = Engine.open(engine_path)
    engine.close()
    engine.close()
    with pytest.raises(ShutDownError, match="closed"):
        engine.describe()


@pytest.mark.parametrize("name", ["tiny", "tiny_tensorrt"])
def test_two_readers_agree_on_the_golden_engines(name: str) -> None:
    path = Path(__file__).parents[1] / "golden" / f"{name}.engine"
    second = read_engine(path)
    description = second.describe()
    for tensor in description["tensors"]:
        tensor["section"] = description["sections"][tensor["section"]]["name"]
    with Engine(path) as engine:
        assert engine.describe() == json.loads(json.dumps(description))


def test_int4_tensors_are_two_in_a_byte() -> None:
    path = Path(__file__).parents[1] / "golden" / "tiny_tensorrt.engine"
    tensor = read_engine(path).tensor("layers.0.down")
    with Engine(path) as engine:
        first = int(engine.section("weights")[tensor.offset])
    assert tensor.array.shape == (16, 24)
    assert ((tensor.array[0, 0] & 15) | (tensor.array[0, 1] & 15) << 4) % 256 == first
