# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.runtime.errors import InvalidArgumentError
from enginery.triton_backend.trtllm.refusals import refuse_parameters, refuse_unsupported
from enginery.triton_backend.trtllm.tensors import BLS_INPUTS, INPUTS, InputSpec

ALL = [*(spec for specs in INPUTS.values() for spec in specs), *BLS_INPUTS]
REFUSED = [spec for spec in ALL if spec.refusal]
DTYPES: dict[str, Any] = {
    "STRING": np.object_, "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64,
    "UINT8": np.uint8, "FP32": np.float32, "FP16": np.float16, "BOOL": np.bool_,
}  # fmt: skip


def array(spec: InputSpec, value: Any) -> npt.NDArray[Any]:
    """One row that holds `value` everywhere."""
    shape = [1, *(dim if dim > 0 else 2 for dim in spec.dims)]
    result = np.empty(shape, DTYPES[spec.data_type])
    result[...] = value.encode() if isinstance(value, str) else value
    return result


def on_value(spec: InputSpec) -> Any:
    return {"STRING": "json", "BOOL": True}.get(spec.data_type, 3)


@pytest.mark.parametrize("spec", REFUSED, ids=lambda spec: spec.name)
def test_refused_by_name_when_set(spec: InputSpec) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        refuse_unsupported(REFUSED, {spec.name: array(spec, on_value(spec))})
    assert spec.name in str(raised.value)
    assert spec.refusal in str(raised.value)


@pytest.mark.parametrize("spec", REFUSED, ids=lambda spec: spec.name)
def test_taken_when_off(spec: InputSpec) -> None:
    refuse_unsupported(REFUSED, {})
    for off in spec.off:
        refuse_unsupported(REFUSED, {spec.name: array(spec, off)})
    refuse_unsupported(REFUSED, {spec.name: np.empty((1, 0), DTYPES[spec.data_type])})


def test_every_scalar_has_a_value_that_leaves_it_off() -> None:
    for spec in REFUSED:
        assert spec.off or spec.dims != (1,), spec.name


def test_lists_all_and_names_the_ensembles_input() -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "len_penalty": np.array([[0.5]], np.float32),
        "lora_task_id": np.array([[1], [2]], np.uint64),
    }
    with pytest.raises(InvalidArgumentError) as raised:
        refuse_unsupported(REFUSED, arrays)
    message = str(raised.value)
    assert "2 problems" in message
    assert "len_penalty (length_penalty of the ensemble) = 0.5: beam search is not" in message
    assert "lora_task_id = [1, 2]: adapters are not built" in message


def test_long_values_are_cut() -> None:
    arrays = {"draft_input_ids": np.ones((1, 10_000), np.int32)}
    with pytest.raises(InvalidArgumentError) as raised:
        refuse_unsupported(REFUSED, arrays)
    assert len(str(raised.value)) < 200


def test_parameters() -> None:
    refuse_parameters("")
    refuse_parameters('{"Streaming": true, "id": "a", "triton_enable_empty_final_response": true}')
    with pytest.raises(InvalidArgumentError) as raised:
        refuse_parameters('{"tmeperature": 2, "zzz": 1}')
    assert "tmeperature: there is no such option; did you mean temperature?" in str(raised.value)
    assert "zzz: there is no such option" in str(raised.value)
