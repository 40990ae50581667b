# SPDX-License-Identifier: Apache-2.0
"""What the cpu target refuses before a weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginery.builder.errors import OptionError
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engines import plan_tiny


def test_ranks_must_cut_int4_rows_between_groups(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path, "llama", num_heads=8, num_kv_heads=4, head_dim=32)
    plan_tiny(model, qformat="w4a8_dynamic", tp_size=2)
    with pytest.raises(OptionError) as error:
        plan_tiny(model, qformat="w4a8_dynamic", tp_size=4)
    messages = [str(problem) for problem in error.value.problems]
    assert messages == [
        f"qformat: w4a8_dynamic scales groups of 128 inputs; {name} takes 64 of a rank of 4 "
        "(choose another --tp_size, or --qformat int8_dynamic)"
        for name in ("o_proj", "down_proj")
    ]
    plan_tiny(model, qformat="int8_dynamic", tp_size=4)


def test_int4_wo_takes_whole_blocks(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path, "llama", intermediate_size=320)
    with pytest.raises(OptionError) as error:
        plan_tiny(model, qformat="int4_wo", dtype="bfloat16")
    assert [str(problem) for problem in error.value.problems] == [
        (
            "qformat: int4_wo scales blocks of 128 inputs; down_proj takes 320 (choose "
            "w4a8_dynamic, which takes any number, or int8_wo)"
        ),
    ]


def test_rows_of_any_length_are_taken_whole(tmp_path: Path) -> None:
    """And by every rank of a layer that is cut along its outputs."""
    model = write_tiny_checkpoint(
        tmp_path, "llama", hidden_size=200, num_heads=4, num_kv_heads=2, head_dim=64
    )
    plan_tiny(model, qformat="w4a8_dynamic")
    plan_tiny(model, qformat="w4a8_dynamic", tp_size=2)
