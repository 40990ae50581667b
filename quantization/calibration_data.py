# SPDX-License-Identifier: Apache-2.0
"""The text that activations are measured on, as windows of token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.quantization.scaling import QuantizationError

TEXT_SUFFIX = ".txt"
LINES_SUFFIX = ".jsonl"
TOKENIZER_FILE = "tokenizer.json"
# A few megabytes are plenty; a larger set is a mistake that would take minutes to tokenise.
MAX_BYTES = 1 << 30


class CalibrationError(QuantizationError):
    """What the user gave cannot be calibrated with; the message says what to do."""


@dataclass(frozen=True)
class CalibrationData:
    """The windows that calibration reads.

    Attributes:
        name: of the file or folder they are from.
        sha256: of the file; of a folder, of its files' names and hashes.
        windows: token ids int64 `[n]` each, the longest first.
        num_available: windows that there were to choose from.
    """

    name: str
    sha256: str
    windows: tuple[npt.NDArray[np.int64], ...]
    num_available: int

    @property
    def num_tokens(self) -> int:
        """Tokens of all windows."""
        return sum(map(len, self.windows))

    def batches(self, batch_size: int) -> Iterator[npt.NDArray[np.int64]]:
        """Yields token ids `[batch, n]`, at most `batch_size` windows of one length at a time.

        Nothing is padded: activations of padding would count in every statistic.
        """
        begin = 0
        while begin < len(self.windows):
            length = len(self.windows[begin])
            end = begin + 1
            while (
                end < min(begin + batch_size, len(self.windows))
                and len(self.windows[end]) == length
            ):
                end += 1
            yield np.stack(self.windows[begin:end])
            begin = end


def read_calibration_data(
    path: Path,
    model: Path,
    *,
    num_windows: int,
    max_seq_length: int,
    max_position_embeddings: int,
    vocab_size: int,
    seed: int,
) -> CalibrationData:
    """Reads a calibration set and chooses windows of it.

    Args:
        path: a UTF-8 text, JSON lines with "text" or "prompt" and "completion", or a folder of
            such files.
        model: directory of the checkpoint, whose `tokenizer.json` is taken.
        num_windows: how many to choose; all of them where there are fewer.
        max_seq_length: tokens of a window at most, a begin-of-text token included.
        max_position_embeddings: of the model; no window may be longer.
        vocab_size: of the model; no token id may be beyond it.
        seed: of the choice; the same one chooses the same windows on every machine.

    Raises:
        CalibrationError: the set is missing, empty or malformed, or does not fit the model.
    """
    if max_seq_length > max_position_embeddings:
        raise CalibrationError(
            f"calib_max_seq_length: {max_seq_length} is beyond the model's "
            f"max_position_embeddings, {max_position_embeddings} (give at most that)"
        )
    texts, sha256 = read_texts(path)
    tokenizer = _open_tokenizer(model)
    prefix = _begin_of_text(tokenizer)
    if max_seq_length <= len(prefix):
        raise CalibrationError(
            f"calib_max_seq_length: {max_seq_length} leaves no room for text after the tokenizer's "
            f"{len(prefix)} begin-of-text tokens (give at least {len(prefix) + 1})"
        )
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    windows = [
        window for encoding in encodings for window in _cut(encoding.ids, prefix, max_seq_length)
    ]
    if not windows:
        raise CalibrationError(f"calib_dataset: {path} holds no text (give a set with some)")
    largest = max(int(window.max()) for window in windows)
    if largest >= vocab_size:
        raise CalibrationError(
            f"calib_dataset: {path} has the token id {largest}, beyond the model's vocab_size "
            f"{vocab_size} (give the checkpoint the tokenizer it was trained with)"
        )
    order = np.random.default_rng(seed).permutation(len(windows))[:num_windows]
    chosen = sorted((windows[index] for index in order), key=len, reverse=True)
    return CalibrationData(path.resolve().name, sha256, tuple(chosen), len(windows))


def read_texts(path: Path) -> tuple[list[str], str]:
    """Returns the texts of a calibration set and its SHA-256; see `read_calibration_data`.

    Raises:
        CalibrationError: the set is missing, empty or malformed.
    """
    if not path.is_dir():
        content = _read_bytes(path)
        return _texts_of(path, content), hashlib.sha256(content).hexdigest()
    files = sorted(
        file for file in path.iterdir() if file.suffix in (TEXT_SUFFIX, LINES_SUFFIX)
    )  # fmt: skip
    if not files:
        raise CalibrationError(
            f"calib_dataset: the folder {path} has no file named *{TEXT_SUFFIX} or "
            f"*{LINES_SUFFIX} (give one that has)"
        )
    identity = hashlib.sha256()
    texts: list[str] = []
    for file in files:
        content = _read_bytes(file)
        texts += _texts_of(file, content)
        identity.update(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n".encode())
    return texts, identity.hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CalibrationError(
                f"calib_dataset: {path} has {size} bytes; at most {MAX_BYTES} are read (give a "
                "part of it)"
            )
        return path.read_bytes()
    except OSError as error:
        raise CalibrationError(
            f"calib_dataset: {path} cannot be read: {error.strerror} (give a text file, JSON "
            "lines, or a folder of such files)"
        ) from None


def _texts_of(path: Path, content: bytes) -> list[str]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"calib_dataset: {path} is not UTF-8 at byte {error.start} (convert it)"
        ) from None
    if path.suffix != LINES_SUFFIX:
        return [text]
    # JSON may hold line separators of Unicode, so that `splitlines` would cut strings.
    lines = enumerate(text.split("\n"), 1)
    return [_record_text(f"{path}:{number}", line) for number, line in lines if line.strip()]


def _record_text(place: str, line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"calib_dataset: {place}: is not valid JSON: {error}") from None
    keys = ("text",) if isinstance(record, dict) and "text" in record else ("prompt", "completion")
    if not isinstance(record, dict) or keys[0] not in record:
        raise CalibrationError(
            f'calib_dataset: {place}: has neither "text" nor "prompt" (give an object with one)'
        )
    parts = [record[key] for key in keys if record.get(key) is not None]
    if not all(isinstance(part, str) for part in parts):
        raise CalibrationError(f"calib_dataset: {place}: {' or '.join(keys)} is not a string")
    return "".join(parts)


def _open_tokenizer(model: Path) -> Any:
    from tokenizers import Tokenizer

    path = model / TOKENIZER_FILE
    if not path.is_file():
        raise CalibrationError(
            f"model: {model} has no {TOKENIZER_FILE}, which the calibration set is tokenised with "
            "(save the tokenizer beside the checkpoint)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise CalibrationError(f"model: {path} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _begin_of_text(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before every text."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = list(tokenizer.encode("a").ids)
    places = range(len(full) - len(plain) + 1)
    return full[: next(i for i in places if full[i : i + len(plain)] == plain)]


def _cut(
    ids: Sequence[int], prefix: Sequence[int], max_seq_length: int
) -> Iterator[npt.NDArray[np.int64]]:
    step = max_seq_length - len(prefix)
    for begin in range(0, len(ids), step):
        yield np.array([*prefix, *ids[begin : begin + step]], np.int64)
