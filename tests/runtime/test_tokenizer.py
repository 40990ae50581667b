# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from enginery.runtime.errors import InvalidArgumentError, NotFoundError
from enginery.runtime.tokenizer import Tokenizer
from tests.support.tokenizer import BOS_TOKEN_ID, write_tiny_tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_tiny_tokenizer(tmp_path, adds_bos=True)
    return tmp_path


def test_adds_bos_as_the_files_say(directory: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(directory)
    with_bos = tokenizer.encode("the end")
    assert with_bos[0] == BOS_TOKEN_ID
    assert tokenizer.encode("the end", add_special_tokens=False) == with_bos[1:]
    (tmp_path / "qwen").mkdir()
    write_tiny_tokenizer(tmp_path / "qwen", adds_bos=False)
    assert Tokenizer(tmp_path / "qwen").encode("the end") == with_bos[1:]


@pytest.mark.parametrize("text", ["", "plain", "späte Züge — 火車 🚂", "<|user|>x<|end|>"])
def test_round_trip(directory: Path, text: str) -> None:
    tokenizer = Tokenizer(directory)
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == text


def test_long_text_has_the_tokens_of_its_parts(directory: Path) -> None:
    tokenizer = Tokenizer(directory)
    part = tokenizer.encode("<|user|>späte 火車<|end|>", add_special_tokens=False)
    long = tokenizer.encode("<|user|>späte 火車<|end|>" * 1000)
    assert long == [BOS_TOKEN_ID, *part * 1000]


def test_long_text_lets_other_threads_run(directory: Path) -> None:
    tokenizer = Tokenizer(directory)
    has_ended = threading.Event()

    def encode() -> None:
        tokenizer.encode("ab " * 300_000)
        has_ended.set()

    encoding = threading.Thread(target=encode)
    encoding.start()
    turns = 0
    while not has_ended.is_set():
        has_ended.wait(0.01)
        turns += 1
    encoding.join()
    # Hundreds; one or two when the interpreter's lock is held meanwhile.
    assert turns > 5


def test_padding_and_truncation_of_the_file_are_not_applied(directory: Path) -> None:
    path = directory / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    settings["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    path.write_text(json.dumps(settings))
    assert len(Tokenizer(directory).encode("zzzzzzzz")) == 9


def test_bad_words_with_and_without_a_space(directory: Path) -> None:
    tokenizer = Tokenizer(directory)
    sequences = tokenizer.bad_token_sequences(["the", "zz"])
    texts = [tokenizer.decode(sequence) for sequence in sequences]
    assert texts == ["the", " the", "zz", " zz"]


def test_chat_template(directory: Path) -> None:
    tokenizer = Tokenizer(directory)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    expected = "<|begin_of_text|><|system|>Be brief.<|end|><|user|>Hi<|end|>"
    assert tokenizer.apply_chat_template(messages) == expected + "<|assistant|>"
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=False) == expected


def test_chat_template_in_its_own_file(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text(
        "{%- for message in messages -%}\n"
        "  {%- if loop.index > 2 -%}{%- break -%}{%- endif -%}\n"
        "  {{ message | tojson }}\n"
        "{%- endfor %}{{ tools | length }}"
    )
    text = Tokenizer(directory).apply_chat_template(
        [{"role": "user", "content": "é<"}] * 3, tools=["a"]
    )
    assert text == '{"role": "user", "content": "é<"}' * 2 + "1"


def test_chat_template_refuses(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidArgumentError, match="roles must alternate"):
        Tokenizer(directory).apply_chat_template([])


def test_chat_template_runs_in_a_sandbox(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    with pytest.raises(InvalidArgumentError, match="unsafe"):
        Tokenizer(directory).apply_chat_template([])


def test_no_chat_template(directory: Path) -> None:
    (directory / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer(directory)
    assert not tokenizer.has_chat_template
    with pytest.raises(NotFoundError, match=r"chat_template\.jinja"):
        tokenizer.apply_chat_template([])


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
    write_tiny_tokenizer(tmp_path, adds_bos=True)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InvalidArgumentError, match=r"tokenizer_config\.json"):
        Tokenizer(tmp_path)
