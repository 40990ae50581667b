# SPDX-License-Identifier: Apache-2.0
"""The tables of `tensorrt_llm` are those that the native backend has in C++.

Both sides are compared with one golden file, here and in
tests/cpp/triton_backend/trtllm/trtllm_contract_test.cc. After a change in Python run this file as a
module to write it anew (python -m tests.triton_backend.trtllm.test_native_contract), then follow in
C++.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.tensors import TensorSpec
from enginery.triton_backend.trtllm.options import TrtllmOptions, tensorrt_llm_parameters
from enginery.triton_backend.trtllm.tensors import (
    ENSEMBLE_INPUTS,
    TENSORRT_LLM_INPUTS,
    TENSORRT_LLM_OUTPUTS,
)

GOLDEN = Path(__file__).parent / "golden" / "native_contract.txt"


def contract() -> Iterator[str]:
    """One line per entry of a table."""
    for spec in TENSORRT_LLM_INPUTS:
        needed = "optional" if spec.is_optional else "required"
        yield f"input {_signature(spec)} {needed} {spec.option or '-'}"
    for spec in TENSORRT_LLM_INPUTS:
        if spec.refusal:
            (off,) = spec.off or (None,)
            yield f"refused {spec.name} {'-' if off is None else json.dumps(off)} {spec.refusal}"
    for output in TENSORRT_LLM_OUTPUTS:
        yield f"output {_signature(output)}"
    for name, _, target in ENSEMBLE_INPUTS:
        yield f"ensemble {name} {target}"
    options = ModelOptions("x")
    for name in tensorrt_llm_parameters(TrtllmOptions(options)).keys() - options.to_parameters():
        yield f"parameter {name}"


def _signature(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.data_type} {list(spec.dims)}"


def test_golden_file_has_the_tables() -> None:
    assert GOLDEN.read_text().splitlines() == list(contract())


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in contract()))
