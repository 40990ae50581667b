# SPDX-License-Identifier: Apache-2.0
"""An engine directory, opened and memory-mapped by the C++ reader."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from . import abi
from .errors import ShutDownError
from .library import check, load_library, take_string

SKU_PREFIX = "sku."
"""Sections with the payload of one SKU begin so."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself; names and units as in `enginery_engine_info`."""

    target: str
    sku: str
    variant: str
    builder_version: str
    architecture: str
    dtype: str
    qformat: str
    kv_cache_dtype: str
    tp_size: int
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    """Per rank."""
    head_dim: int
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    max_input_len: int
    tokens_per_block: int
    bos_token_id: int | None
    pad_token_id: int | None
    eos_token_ids: tuple[int, ...]
    weight_bytes: int
    """Of all ranks."""
    kv_bytes_per_token: int
    """Of all ranks."""


class Engine:
    """An opened engine; read-only, usable from any thread and by several runtimes.

    Args:
        path: an engine directory, or one rank file of an engine with `tp_size` 1.

    Raises:
        NotFoundError: there is no such file.
        EngineFileError: a file breaks the format; `status` names the rule.
        EngineMismatchError: the rank files do not belong together.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._library = load_library()
        handle = ctypes.c_void_p()
        check(self._library.enginery_engine_open(os.fsencode(self.path), ctypes.byref(handle)))
        self._handle: ctypes.c_void_p | None = handle
        self.info = self._read_info()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """The same as `Engine(path)`."""
        return cls(path)

    @property
    def handle(self) -> ctypes.c_void_p:
        """The `enginery_engine*`, for other calls of the C interface."""
        if self._handle is None:
            raise ShutDownError(f"engine {self.path!r} is closed")
        return self._handle

    @functools.cached_property
    def skus(self) -> tuple[str, ...]:
        """The SKUs that it can run on, sorted: those it has payloads for, else that of `info`."""
        names = sorted(
            section["name"].removeprefix(SKU_PREFIX)
            for section in self.describe()["sections"]
            if section["name"].startswith(SKU_PREFIX)
        )
        return tuple(names) or (self.info.sku,)

    def describe(self, rank: int = 0) -> dict[str, Any]:
        """Header, section table and program of a rank, shaped as `enginery.h` says."""
        text = ctypes.c_void_p()
        check(self._library.enginery_engine_describe_json(self.handle, rank, ctypes.byref(text)))
        description: dict[str, Any] = json.loads(take_string(text))
        return description

    def section(self, name: str, rank: int = 0) -> npt.NDArray[np.uint8]:
        """The mapped bytes of a section, uint8 [bytes], read-only and not copied.

        The array must not be used after `close`.

        Raises:
            NotFoundError: the rank has no section of that name.
        """
        data = ctypes.c_void_p()
        num_bytes = ctypes.c_uint64()
        check(
            self._library.enginery_engine_section(
                self.handle, rank, name.encode(), ctypes.byref(data), ctypes.byref(num_bytes)
            )
        )
        if num_bytes.value == 0:
            array = np.empty(0, np.uint8)
        else:
            buffer = (ctypes.c_uint8 * num_bytes.value).from_address(data.value or 0)
            array = np.frombuffer(memoryview(buffer), np.uint8)
        array.flags.writeable = False
        return array

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Hashes every section of every rank and compares with the section tables.

        Args:
            progress: called on this thread with (bytes done, bytes in all).

        Raises:
            EngineFileError: a section's bytes are not those that were written.
        """
        error: BaseException | None = None

        def report(_: int | None, done: int, total: int) -> None:
            # C cannot be left by an exception: it is kept and raised when C has returned.
            nonlocal error
            try:
                if progress is not None and error is None:
                    progress(done, total)
            except BaseException as raised:
                error = raised

        callback = abi.VerifyProgress(report) if progress is not None else abi.VerifyProgress()
        status = self._library.enginery_engine_verify(self.handle, callback, None)
        if error is not None:
            raise error
        check(status)

    def close(self) -> None:
        """Unmaps the files. Runtimes of this engine must be closed before; twice is harmless."""
        if self._handle is not None:
            self._library.enginery_engine_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    def _read_info(self) -> EngineInfo:
        raw = abi.EngineInfo(abi_size=ctypes.sizeof(abi.EngineInfo))
        check(self._library.enginery_engine_get_info(self.handle, ctypes.byref(raw)))
        fields: dict[str, Any] = {}
        for name in EngineInfo.__dataclass_fields__:
            value = getattr(raw, name)
            fields[name] = value.decode() if isinstance(value, bytes) else value
        fields["eos_token_ids"] = tuple(raw.eos_token_ids[: raw.num_eos_token_ids])
        for name in ("bos_token_id", "pad_token_id"):
            fields[name] = None if fields[name] < 0 else fields[name]
        return EngineInfo(**fields)
