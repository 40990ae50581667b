# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.tokenizer import Tokenizer
from enginery.triton_backend.trtllm.preprocessing import Preprocessor
from enginery.triton_backend.trtllm.tensors import PREPROCESSING_OUTPUTS
from enginery.triton_backend.trtllm.word_lists import read_word_list
from tests.support.tokenizer import BOS_TOKEN_ID, EOS_TOKEN_ID


@pytest.fixture(scope="module")
def tokenizer(engine: Engine) -> Tokenizer:
    return Tokenizer(engine.path)


@pytest.fixture
def preprocess(engine: Engine, tokenizer: Tokenizer) -> Any:
    def run(queries: tuple[str, ...] = ("ab",), adds: bool = True, **arrays: Any) -> Any:
        preprocessor = Preprocessor(tokenizer, engine.info, adds)
        lengths = np.full((len(queries), 1), 7, np.int32)
        return preprocessor.tensors(
            {"QUERY": texts(*([q] for q in queries)), "REQUEST_OUTPUT_LEN": lengths, **arrays}
        )

    return run


def test_text_that_cannot_fit_is_refused_by_its_bytes(engine: Engine) -> None:
    tokenizer = Tokenizer(engine.path, max_input_len=engine.info.max_input_len)
    preprocessor = Preprocessor(tokenizer, engine.info, True)
    lengths = np.full((1, 1), 7, np.int32)
    with pytest.raises(InvalidArgumentError, match=r"^QUERY .*: has 3000000 bytes, so at least"):
        preprocessor.tensors({"QUERY": texts(["x" * 3_000_000]), "REQUEST_OUTPUT_LEN": lengths})


def texts(*rows: list[str]) -> npt.NDArray[Any]:
    return np.array([[text.encode() for text in row] for row in rows], np.object_)


def test_defaults(preprocess: Any) -> None:
    tensors = preprocess()
    assert {name: array.tolist() for name, array in tensors.items()} == {
        "INPUT_ID": [[BOS_TOKEN_ID, ord("a"), ord("b")]],
        "REQUEST_INPUT_LEN": [[3]],
        "DECODER_INPUT_ID": [[]],
        "REQUEST_DECODER_INPUT_LEN": [[0]],
        "BAD_WORDS_IDS": [[[], []]],
        "STOP_WORDS_IDS": [[[], []]],
        "EMBEDDING_BIAS": [[]],
        "REQUEST_OUTPUT_LEN": [[7]],
        "OUT_END_ID": [[EOS_TOKEN_ID]],
        "OUT_PAD_ID": [[EOS_TOKEN_ID]],
    }
    assert tensors.keys() == {spec.name for spec in PREPROCESSING_OUTPUTS} - {
        "OUT_PROMPT_TABLE_EXTRA_IDS"
    }
    for spec in PREPROCESSING_OUTPUTS:
        if spec.name in tensors:
            assert tensors[spec.name].ndim == 1 + len(spec.dims), spec.name


def test_rows_are_padded(preprocess: Any) -> None:
    tensors = preprocess(("abc", "x"), adds=False, PAD_ID=np.array([[7], [8]], np.int32))
    assert tensors["INPUT_ID"].tolist() == [[97, 98, 99], [120, 8, 8]]
    assert tensors["REQUEST_INPUT_LEN"].tolist() == [[3], [1]]
    assert tensors["OUT_PAD_ID"].tolist() == [[7], [8]]


def test_end_id_is_handed_on(preprocess: Any) -> None:
    assert preprocess(END_ID=np.array([[5]], np.int32))["OUT_END_ID"].tolist() == [[5]]


def test_words(preprocess: Any, tokenizer: Tokenizer) -> None:
    tensors = preprocess(
        ("ab", "cd"),
        STOP_WORDS_DICT=texts(["é", " the"], ["x", ""]),
        BAD_WORDS_DICT=texts([""], [""]),
    )
    stops = [read_word_list("stop", row) for row in tensors["STOP_WORDS_IDS"]]
    the = tokenizer.encode(" the", add_special_tokens=False)
    assert stops == [[[0xC3, 0xA9], the], [[ord("x")]]]
    assert tensors["BAD_WORDS_IDS"].tolist() == [[[0], [-1]]] * 2


def test_embedding_bias(preprocess: Any, engine: Engine) -> None:
    tensors = preprocess(
        EMBEDDING_BIAS_WORDS=texts(["a", "aa", "q"]),
        EMBEDDING_BIAS_WEIGHTS=np.array([[1.0, 0.5, -2.0]], np.float32),
    )
    bias = tensors["EMBEDDING_BIAS"]
    assert bias.shape == (1, engine.info.vocab_size)
    assert {int(i): float(bias[0, i]) for i in np.flatnonzero(bias[0])} == {97: 2.0, 113: -2.0}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"QUERY": texts([""])}, "QUERY (text_input of the ensemble): is empty"),
        ({"QUERY": np.array([[b"\xff"]], np.object_)}, "QUERY: is not UTF-8"),
        ({"STOP_WORDS_DICT": np.array([[b"\xff"]], np.object_)}, "STOP_WORDS_DICT: is not UTF-8"),
        ({"EMBEDDING_BIAS_WORDS": texts(["a"])}, "give both, with a weight for each word"),
        (
            {
                "EMBEDDING_BIAS_WORDS": texts(["a", "b"]),
                "EMBEDDING_BIAS_WEIGHTS": np.ones((1, 1), np.float32),
            },
            "give both, with a weight for each word",
        ),
        (
            {"DECODER_QUERY": texts(["x"])},
            "DECODER_QUERY (decoder_text_input of the ensemble) = 'x': there are no encoder",
        ),
    ],
)
def test_refused(arrays: dict[str, npt.NDArray[Any]], reason: str, preprocess: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        preprocess(**arrays)
    assert reason in str(raised.value)
