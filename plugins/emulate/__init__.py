# SPDX-License-Identifier: Apache-2.0
"""Runs tensorrt engines on the CPU, to check them where there is no GPU.

executor      EmulatedExecutor, for `Runtime` and `LLM`
device        the CPU as a device of the segmented executor
interpreter   kernels in the Triton language's interpreter
onnx_segment  segments in onnxruntime
"""

from __future__ import annotations

from .executor import EmulatedExecutor

__all__ = ["EmulatedExecutor"]
