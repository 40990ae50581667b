# SPDX-License-Identifier: Apache-2.0
"""The `parameters` of `config.pbtxt`: what the served model needs to know, as strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enginery.runtime.abi import POLICIES
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.executor_choice import check_import_string
from enginery.runtime.runtime import RuntimeOptions

from .request_log import FORMATS

_OWN_PARAMETERS = ("engine_dir", "tokenizer_dir", "num_sender_threads", "log_requests")
# Names that users of TensorRT-LLM's Triton backend have in their files, and ours.
_RUNTIME_PARAMETERS = {
    "kv_cache_bytes": "kv_cache_bytes",
    "max_batch_size": "max_batch_size",
    "max_num_tokens": "max_num_tokens",
    "max_queue_size": "max_queue_size",
    "batch_scheduler_policy": "policy",
    "enable_chunked_context": "enable_chunked_context",
    "enable_kv_cache_reuse": "enable_block_reuse",
    "max_chunk_tokens": "max_chunk_tokens",
    "num_threads": "num_threads",
    "pin_threads": "pin_threads",
    "isa": "isa",
    "executor": "executor",
    "sku": "sku",
    "kv_cache_free_gpu_mem_fraction": "free_gpu_memory_fraction",
    "watchdog_timeout_ms": "watchdog_timeout_ms",
    "watchdog_dir": "watchdog_dir",
}
_TEXTS = ("isa", "executor", "sku", "watchdog_dir")
_POLICIES = {name.lower(): name for name in POLICIES}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class ModelOptions:
    """What a model instance is started with.

    Attributes:
        engine_dir: the engine directory.
        tokenizer_dir: where `tokenizer.json` is; empty: the engine directory.
        num_sender_threads: threads that hand responses to Triton server.
        log_requests: "text" or "json": a line per request at its end; "": none.
        runtime: options of the runtime.
    """

    engine_dir: str
    tokenizer_dir: str = ""
    num_sender_threads: int = 2
    log_requests: str = ""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)

    def to_parameters(self) -> dict[str, str]:
        """The parameters that `from_parameters` reads back; defaults are left out."""
        parameters = {"engine_dir": self.engine_dir}
        if self.tokenizer_dir:
            parameters["tokenizer_dir"] = self.tokenizer_dir
        if self.num_sender_threads != 2:
            parameters["num_sender_threads"] = str(self.num_sender_threads)
        if self.log_requests:
            parameters["log_requests"] = self.log_requests
        defaults = RuntimeOptions()
        for name, option in _RUNTIME_PARAMETERS.items():
            value = getattr(self.runtime, option)
            if value != getattr(defaults, option):
                parameters[name] = str(value) if option in _TEXTS else str(value).lower()
        return parameters

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> ModelOptions:
        """Reads parameters.

        Raises:
            InvalidArgumentError: lists every unknown key and every value that is not accepted.
        """
        problems: list[str] = []
        runtime: dict[str, object] = {}
        own: dict[str, object] = {}
        for name, text in parameters.items():
            try:
                if name in ("engine_dir", "tokenizer_dir"):
                    own[name] = text
                elif name == "num_sender_threads":
                    own[name] = _integer(text, 1, 64)
                elif name == "log_requests":
                    own[name] = _log_format(text)
                elif name in _RUNTIME_PARAMETERS:
                    runtime[_RUNTIME_PARAMETERS[name]] = _value(_RUNTIME_PARAMETERS[name], text)
                else:
                    known = ", ".join(_OWN_PARAMETERS)
                    raise ValueError(
                        f"there is no such parameter; there are {known}, "
                        + ", ".join(_RUNTIME_PARAMETERS)
                    )
            except ValueError as error:
                problems.append(f"{name} = {text!r}: {error}")
        if not own.get("engine_dir"):
            problems.append("engine_dir: is missing; name the engine directory")
        if problems:
            raise InvalidArgumentError.from_problems("parameters", problems)
        return cls(**own, runtime=RuntimeOptions(**runtime))  # type: ignore[arg-type]


def _log_format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(f"must be one of {', '.join(FORMATS)}; leave it out for no lines")
    return text


def _value(option: str, text: str) -> object:
    if option == "policy":
        if text.lower() not in _POLICIES:
            raise ValueError(f"must be one of {', '.join(_POLICIES)}")
        return _POLICIES[text.lower()]
    if option == "executor":
        try:
            check_import_string(text)
        except InvalidArgumentError as error:
            raise ValueError('must be an import string "package.module:factory"') from error
    if option in _TEXTS:
        return text
    if option == "free_gpu_memory_fraction":
        return _fraction(text)
    if option.startswith("enable_") or option == "pin_threads":
        if text.lower() not in _TRUTH:
            raise ValueError("must be true or false")
        return _TRUTH[text.lower()]
    return _integer(text, 0, 2**63 - 1)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if not 0 < value < 1:
        raise ValueError("must be above 0 and below 1")
    return value


def _integer(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError("must be an integer") from None
    if not low <= value <= high:
        raise ValueError(f"must be {low} .. {high}")
    return value
