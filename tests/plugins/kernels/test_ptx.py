# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import pytest

from enginery.plugins.kernels.ptx import AttentionShape, attention_ptx, drop_scratch

ENTRY = """.visible .entry k(
	.param .u64 .ptr .global .align 1 k_param_0,
	.param .u32 k_param_1,
	.param .u64 .ptr .global .align 1 k_param_2,
	.param .u64 .ptr .global .align 1 k_param_3
)
.reqntid 128
{{
	ld.param.b64 	%rd1, [k_param_{read}];
}}
"""


def test_scratch_is_dropped() -> None:
    kept = drop_scratch(ENTRY.format(read=0))
    assert re.findall(r"k_param_\d", kept) == ["k_param_0", "k_param_1", "k_param_0"]
    assert re.search(r"k_param_1\s*\)\s*\.reqntid 128", kept)


@pytest.mark.parametrize("read", [2, 3])
def test_scratch_in_use_is_kept(read: int) -> None:
    with pytest.raises(RuntimeError, match=f"scratch memory k_param_{read}"):
        drop_scratch(ENTRY.format(read=read))


def test_attention_has_the_parameters_of_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What lies in the working directory is not taken for what is installed.
    (tmp_path / "triton.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    shape = AttentionShape(
        act="bf16", num_heads=8, num_kv_heads=2, head_dim=64, tokens_per_block=32, scale=0.125,
        sliding_window=0, capability=90,
    )  # fmt: skip
    kernel = attention_ptx(shape)
    entry = re.search(r"\.entry\s+(\w+)\s*\(([^)]*)\)", kernel.ptx)
    assert entry is not None
    assert entry.group(1) == kernel.entry
    kinds = re.findall(r"\.param \.(\w+)", entry.group(2))
    assert kinds == ["u64"] * 7 + ["u32", "u64"]
    assert kernel.num_threads == 256
    assert kernel.shared_bytes > 0


def test_what_does_not_compile_is_named() -> None:
    shape = AttentionShape("bf16", 8, 2, 64, 32, 0.125, 0, capability=75)
    with pytest.raises(
        RuntimeError, match=r"capability=75\) does not compile: (?s:.*)has no tiles"
    ):
        attention_ptx(shape)
