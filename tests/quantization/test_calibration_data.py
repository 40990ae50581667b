# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.quantization.calibration_data import (
    CalibrationData,
    CalibrationError,
    read_calibration_data,
    read_texts,
)
from tests.support.tokenizer import BOS_TOKEN_ID, TOKENIZER_VOCAB_SIZE, write_tiny_tokenizer

# No merge applies to digits: one token per byte.
TEXT = "0123456789" * 10


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    write_tiny_tokenizer(directory, adds_bos=True)
    return directory


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, model: Path, **changes: Any) -> CalibrationData:
    options: dict[str, Any] = {
        "num_windows": 1000,
        "max_seq_length": 8,
        "max_position_embeddings": 512,
        "vocab_size": TOKENIZER_VOCAB_SIZE,
        "seed": 0,
    }
    return read_calibration_data(path, model, **(options | changes))


def ids_of(data: CalibrationData) -> list[list[int]]:
    return [window.tolist() for window in data.windows]


def test_windows_hold_every_token_once_after_a_begin_of_text_token(
    model: Path, tmp_path: Path
) -> None:
    data = read(write(tmp_path / "a.txt", TEXT), model)
    assert [len(window) for window in data.windows] == [8] * 14 + [3]
    assert all(window[0] == BOS_TOKEN_ID for window in data.windows)
    tokens = [token for window in data.windows for token in window[1:].tolist()]
    assert sorted(tokens) == sorted(TEXT.encode())
    assert data.num_tokens == 115 and data.num_available == 15


def test_a_tokenizer_without_begin_of_text_gives_none(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path, adds_bos=False)
    data = read(write(tmp_path / "a.txt", "0123"), tmp_path)
    assert ids_of(data) == [list(b"0123")]


def test_the_choice_follows_from_the_seed_alone(model: Path, tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", "".join(f"{number:07d}" for number in range(100)))
    first, again = (read(text, model, num_windows=5) for _ in range(2))
    assert ids_of(first) == ids_of(again) and len(first.windows) == 5
    assert first.num_available == 100
    assert ids_of(read(text, model, num_windows=5, seed=1)) != ids_of(first)
    # The order that numpy's generator gives everywhere.
    order = np.random.default_rng(0).permutation(100)[:5]
    assert [bytes(window[1:]) for window in ids_of(first)] == [b"%07d" % i for i in order]


def test_one_sample_of_one_token_works(model: Path, tmp_path: Path) -> None:
    assert ids_of(read(write(tmp_path / "a.txt", "7"), model)) == [[BOS_TOKEN_ID, ord("7")]]


def test_records_have_windows_of_their_own(model: Path, tmp_path: Path) -> None:
    lines = [
        {"text": "11"},
        {"prompt": "2", "completion": "3"},
        {"prompt": "4", "completion": None},
    ]
    content = "\n\n".join(map(json.dumps, lines)) + "\n"
    data = read(write(tmp_path / "a.jsonl", content), model)
    assert sorted(bytes(window[1:]) for window in ids_of(data)) == [b"11", b"23", b"4"]


def test_a_record_may_hold_any_line_separator_of_unicode(tmp_path: Path) -> None:
    line = json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False)
    assert read_texts(write(tmp_path / "a.jsonl", line))[0] == ["a\u2028b\x85c"]


def test_a_folder_is_its_text_files_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "b.txt", "second")
    write(folder / "a.jsonl", '{"text": "first"}')
    write(folder / "notes.md", "not read")
    texts, identity = read_texts(folder)
    assert texts == ["first", "second"]
    write(folder / "notes.md", "changed")
    assert read_texts(folder)[1] == identity
    (folder / "b.txt").rename(folder / "c.txt")
    assert read_texts(folder)[1] != identity


def test_the_identity_of_a_file_is_its_hash(tmp_path: Path) -> None:
    identity = read_texts(write(tmp_path / "a.txt", "abc"))[1]
    assert identity == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_batches_hold_every_window_once_and_nothing_else(model: Path, tmp_path: Path) -> None:
    content = "\n".join(json.dumps({"text": "1" * n}) for n in (3, 7, 3, 5, 7, 7))
    data = read(write(tmp_path / "a.jsonl", content), model)
    batches = list(data.batches(2))
    assert [batch.shape for batch in batches] == [(2, 8), (1, 8), (1, 6), (2, 4)]
    assert [row.tolist() for batch in batches for row in batch] == ids_of(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "holds no text"),
        ("a.jsonl", "\n", "holds no text"),
        ("a.txt", b"abc\xff", "is not UTF-8 at byte 3"),
        ("a.jsonl", '{"text": "a"}\n{"text": }', "a.jsonl:2: is not valid JSON"),
        ("a.jsonl", "[1]", 'a.jsonl:1: has neither "text" nor "prompt"'),
        ("a.jsonl", '{"completion": "a"}', 'a.jsonl:1: has neither "text" nor "prompt"'),
        ("a.jsonl", '{"text": 1}', "a.jsonl:1: text is not a string"),
        ("a.jsonl", '{"prompt": "a", "completion": 1}', "prompt or completion is not a string"),
    ],
)
def test_a_malformed_set_is_refused(
    model: Path, tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(CalibrationError, match="calib_dataset") as error:
        read(write(tmp_path / name, content), model)
    assert message in str(error.value)


def test_what_is_not_there_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"nowhere\.txt cannot be read: No such file"):
        read(tmp_path / "nowhere.txt", model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match=r"no file named \*\.txt or \*\.jsonl"):
        read(tmp_path / "empty", model)


def test_windows_must_fit_the_model(model: Path, tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", TEXT)
    with pytest.raises(CalibrationError, match=r"513 is beyond .* max_position_embeddings, 512"):
        read(text, model, max_seq_length=513)
    with pytest.raises(CalibrationError, match="1 leaves no room for text"):
        read(text, model, max_seq_length=1)
    with pytest.raises(CalibrationError, match=r"the token id 314, beyond .* vocab_size 314"):
        read(text, model, vocab_size=BOS_TOKEN_ID)


def test_a_model_without_a_tokenizer_is_refused(model: Path, tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", TEXT)
    write(model / "tokenizer.json", "{}")
    with pytest.raises(CalibrationError, match=r"tokenizer\.json cannot be read"):
        read(text, model)
    (model / "tokenizer.json").unlink()
    with pytest.raises(CalibrationError, match=r"has no tokenizer\.json"):
        read(text, model)
