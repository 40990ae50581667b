# SPDX-License-Identifier: Apache-2.0
"""Paged attention as PTX, for hosts that launch it with its own arguments and no others.

    python -m enginery.plugins.kernels.ptx < shape.json

compiles in a process of its own: one that interprets kernels cannot (see `spec`).
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from .attention_tiles import prefill_tile
from .spec import compiler_environment, require_compiler

NUM_SCRATCH = 2  # trailing pointers that the compiler adds for itself


@dataclass(frozen=True)
class AttentionShape:
    """What paged attention has compiled in."""

    act: str
    """"bf16" or "fp16"."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    tokens_per_block: int
    scale: float
    sliding_window: int
    """0: none."""
    capability: int
    """Ten times the compute capability: 90 for 9.0."""


@dataclass(frozen=True)
class AttentionPtx:
    """The compiled kernel and how it is launched, one program per work item and KV head."""

    entry: str
    ptx: str
    num_threads: int
    shared_bytes: int


def attention_ptx(shape: AttentionShape) -> AttentionPtx:
    """Compiles `plugin_entry.paged_attention_entry`.

    Raises:
        RuntimeError: it does not compile; the message ends with the compiler's.
    """
    done = subprocess.run(
        # -P: what lies in the working directory is not to be imported.
        [sys.executable, "-P", "-m", __name__],
        input=json.dumps(dataclasses.asdict(shape)),
        env=compiler_environment(), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{shape} does not compile: {done.stderr.strip()[-1000:]}")
    return AttentionPtx(**json.loads(done.stdout))


def drop_scratch(ptx: str) -> str:
    """Removes the compiler's scratch pointers from the end of the entry's parameters.

    Raises:
        RuntimeError: the kernel reads one, and so cannot do without.
    """
    entry = re.search(r"(\.entry\s+[\w$]+\s*\()([^)]*)(\))", ptx)
    assert entry is not None, "PTX without an entry"
    parameters = entry.group(2).split(",")
    for parameter in parameters[-NUM_SCRATCH:]:
        name = parameter.split()[-1]
        if re.search(rf"\[{re.escape(name)}[\]+]", ptx):
            raise RuntimeError(f"the kernel uses the scratch memory {name}")
    kept = ",".join(parameters[:-NUM_SCRATCH]) + "\n"
    return ptx[: entry.start(2)] + kept + ptx[entry.end(2) :]


def compile_here(shape: AttentionShape) -> AttentionPtx:
    """Compiles in this process, which must not interpret kernels."""
    require_compiler()
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from .compiler import ALIGNMENT, PTX_VERSION
    from .plugin_entry import paged_attention_entry

    group_block = power_of_two(shape.num_heads // shape.num_kv_heads)
    tile = prefill_tile(divmod(shape.capability, 10), "act", group_block)
    act = f"*{shape.act}"
    types = dict.fromkeys(("qkv", "k_cache", "v_cache"), act)
    types |= dict.fromkeys(("work", "block_tables", "context_lens", "positions"), "*i32")
    types |= {"table_width": "i32", "out": act}
    constants = {
        "SCALE": shape.scale,
        "SLIDING_WINDOW": shape.sliding_window,
        "NUM_HEADS": shape.num_heads,
        "NUM_KV_HEADS": shape.num_kv_heads,
        "HEAD_DIM": shape.head_dim,
        "HEAD_BLOCK": power_of_two(shape.head_dim),
        "GROUP_BLOCK": group_block,
        "TOKENS_PER_BLOCK": shape.tokens_per_block,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
    }
    options: dict[str, Any] = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    if shape.capability >= 90:
        options["ptx_version"] = PTX_VERSION
    pointers = [i for i, kind in enumerate(types.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=paged_attention_entry,
        signature=types | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", ALIGNMENT]] for i in pointers},
    )
    compiled = triton.compile(
        source, target=GPUTarget("cuda", shape.capability, 32), options=options
    )
    return AttentionPtx(
        entry=compiled.metadata.name,
        ptx=drop_scratch(compiled.asm["ptx"]),
        num_threads=32 * compiled.metadata.num_warps,
        shared_bytes=compiled.metadata.shared,
    )


def power_of_two(count: int) -> int:
    """The least power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(compile_here(AttentionShape(**json.load(sys.stdin))))))
