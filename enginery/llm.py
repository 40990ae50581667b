# SPDX-License-Identifier: Apache-2.0
"""`LLM` on an engine directory or, built on the fly, on a Hugging Face checkpoint."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from enginery.builder.build import build, plan_build
from enginery.builder.options import BuildRequest
from enginery.emulation import emulated_executor
from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.executor import Executor
from enginery.runtime.llm import LLM as EngineLLM
from enginery.runtime.llm_config import KvCacheConfig
from enginery.runtime.tokenizer import Tokenizer


class LLM(EngineLLM):
    """An engine with its serving loop and tokenizer, as `enginery.runtime.llm.LLM`.

    Args:
        model: an engine directory, or a checkpoint directory, from which an engine is built first.
        tokenizer: a directory with `tokenizer.json`, or a `Tokenizer`; None: the model's own.
        kv_cache_config: how large the KV cache is, and its dtype when an engine is built.
        max_batch_size: sequences in a step; None: the engine's, or the SKU's when one is built.
        max_num_tokens: packed tokens in a step; None: likewise.
        engine_dir: where the engine is built, to be opened again later; None: in a temporary
            directory that lives as long as this object. It must not be there yet.
        dtype: "float32", "bfloat16", "float16" or "auto" (as the checkpoint). For an engine
            directory, these options must be what it was built with, or None.
        qformat: the quantisation scheme, one of those that the SKU has.
        tensor_parallel_size: ranks, all of them in this process.
        max_seq_len: tokens of a sequence, prompt and output; None: the model's.
        max_input_len: tokens of a prompt; None: `max_seq_len`.
        tokens_per_block: tokens in a KV block; None: the SKU's.
        sku: what to build for, "h200,l40s" for several, and which SKU of an engine for several to
            run; None: "cpu" to build, the executor's choice to run.
        emulate: runs an engine for a GPU on the CPU, to check it; slow, with the extra `emulate`.
        options: further options of `enginery.runtime.llm.LLM`.

    Raises:
        InvalidArgumentError: an option is out of range, unsupported or unknown.
        BuildError: what `build-engine` would say of the checkpoint and the options.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
        *,
        kv_cache_config: KvCacheConfig | None = None,
        max_batch_size: int | None = None,
        max_num_tokens: int | None = None,
        engine_dir: str | os.PathLike[str] | None = None,
        dtype: str | None = None,
        qformat: str | None = None,
        tensor_parallel_size: int | None = None,
        max_seq_len: int | None = None,
        max_input_len: int | None = None,
        tokens_per_block: int | None = None,
        sku: str | None = None,
        emulate: bool = False,
        executor: Executor | str | None = None,
        **options: Any,
    ) -> None:
        path = Path(model)
        if emulate and executor is not None:
            raise InvalidArgumentError("LLM: emulate, executor: give one of them")
        fixed: dict[str, Any] = {}
        kv_cache_config = kv_cache_config or KvCacheConfig()
        if is_engine(path):
            if engine_dir is not None:
                raise InvalidArgumentError(
                    f"LLM: engine_dir = {str(engine_dir)!r}: the model is an engine already"
                )
            fixed = {
                "dtype": dtype,
                "qformat": qformat,
                "tensor_parallel_size": tensor_parallel_size,
                "max_seq_len": max_seq_len,
                "max_input_len": max_input_len,
                "tokens_per_block": tokens_per_block,
            }
        else:
            check_checkpoint(path)
            if emulate and (sku is None or sku == "cpu" or "," in sku):
                raise InvalidArgumentError(
                    f"LLM: emulate, sku = {sku!r}: must be one GPU's to build for, e.g. 'h100'"
                )
            if engine_dir is None:
                temporary = tempfile.mkdtemp(prefix="enginery-")
                # Made before the engine is opened, hence run after it is closed.
                self._remove_temporary = weakref.finalize(
                    self, shutil.rmtree, temporary, ignore_errors=True
                )
                engine_dir = Path(temporary) / "engine"
            request = BuildRequest(
                model=path,
                output=Path(engine_dir),
                sku=sku or "cpu",
                dtype=dtype or "auto",
                qformat=qformat or "none",
                tp_size=tensor_parallel_size or 1,
                max_batch_size=max_batch_size,
                max_num_tokens=max_num_tokens,
                max_seq_len=max_seq_len,
                max_input_len=max_input_len,
                tokens_per_block=tokens_per_block,
                kv_cache_dtype=kv_cache_config.dtype,
                kv_cache_bytes=kv_cache_config.kv_cache_bytes,
                skip_tokenizer=not (path / "tokenizer.json").is_file(),
            )
            build(plan_build(request))
            path = Path(engine_dir)
        if emulate:
            with Engine(path) as engine:
                executor = emulated_executor(engine, sku)
        super().__init__(
            path,
            tokenizer,
            kv_cache_config=kv_cache_config,
            max_batch_size=max_batch_size,
            max_num_tokens=max_num_tokens,
            sku=None if sku is not None and "," in sku else sku,
            executor=executor,
            **fixed,
            **options,
        )

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Copies the engine directory to `directory`, which must not be there yet."""
        return Path(shutil.copytree(self.engine.path, directory))

    def close(self) -> None:
        """Cancels what runs, frees everything and removes a temporary engine."""
        super().close()
        if hasattr(self, "_remove_temporary"):
            self._remove_temporary()

    shutdown = close


def is_engine(path: Path) -> bool:
    """Whether `path` is an engine directory or one of its rank files."""
    return path.suffix == ".engine" or (path / "rank0.engine").is_file()


def check_checkpoint(path: Path) -> None:
    """Refuses a model that is no directory, or holds neither an engine nor a checkpoint."""
    if not path.is_dir():
        raise InvalidArgumentError(
            f"LLM: model = {str(path)!r}: is not a directory; give an engine directory or a "
            "checkpoint directory (nothing is downloaded)"
        )
    if not (path / "config.json").is_file():
        raise InvalidArgumentError(
            f"LLM: model = {str(path)!r}: has neither rank0.engine nor config.json; give an engine "
            "directory or a Hugging Face checkpoint directory"
        )
