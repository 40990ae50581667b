# SPDX-License-Identifier: Apache-2.0
"""Builds LLM inference engines ahead of time and serves them.

>>> from enginery import LLM, SamplingParams
>>> llm = LLM("path/to/engine")
>>> llm.generate(["The field"], SamplingParams(max_tokens=16))
"""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery.llm import LLM
    from enginery.runtime.llm_config import KvCacheConfig, SchedulerConfig
    from enginery.runtime.outputs import CompletionOutput, RequestOutput
    from enginery.runtime.sampling_params import SamplingParams

__all__ = [
    "LLM",
    "CompletionOutput",
    "KvCacheConfig",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
    "__version__",
]

# Loaded on first use, so that `import enginery` and the command line start at once.
_EXPORTS = {
    "LLM": "enginery.llm",
    "CompletionOutput": "enginery.runtime.outputs",
    "KvCacheConfig": "enginery.runtime.llm_config",
    "RequestOutput": "enginery.runtime.outputs",
    "SamplingParams": "enginery.runtime.sampling_params",
    "SchedulerConfig": "enginery.runtime.llm_config",
}

__version__ = importlib.metadata.version("enginery")


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(f"{__name__}."):
            raise
        folder = Path(__file__).parents[1]
        raise ImportError(
            f"{folder} is enginery's source, which Python found before what is installed: start "
            f"Python in another folder, or install it in place, `pip install -e {folder}`"
        ) from None


def __dir__() -> list[str]:
    return sorted(__all__)
