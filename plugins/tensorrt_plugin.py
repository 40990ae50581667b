# SPDX-License-Identifier: Apache-2.0
"""Paged attention as a plugin of the full `tensorrt` package, compiled ahead of time.

NEVER EXECUTED: written against the interface of `tensorrt.plugin` of TensorRT 11.4, whose own
checks of the declaration it passes, but no network with it was ever built or run. Engines of this
project do not use it; it is for networks of one's own:

    from enginery.plugins.tensorrt_plugin import register
    plugin = register()
    attention = network.add_plugin(plugin(qkv, k_cache, v_cache, work, block_tables, context_lens,
        positions, num_heads=32, ..., capability=90), aot=True)

The tensors are those of the kernel (`plugins/kernels/paged_attention.py`), the caches of the type
of qkv, and work without splits: partial_index is -1 in every row, num_query at most BLOCK_M /
GROUP_BLOCK of `attention_tiles.prefill_tile`.
"""

# Annotations are read by TensorRT as types, so they must not become strings.

from typing import Any

from .kernels.ptx import AttentionShape, attention_ptx

PLUGIN_ID = "enginery::paged_attention"


def register() -> Any:
    """Registers the plugin, and returns what makes a layer of it.

    Raises:
        ImportError: the full tensorrt package is not installed.
    """
    try:
        import tensorrt as trt
        import tensorrt.plugin as trtp
    except ImportError as error:
        raise ImportError(
            f"tensorrt: {error}; the plugin needs the full package: pip install enginery[tensorrt]"
        ) from error

    def describe(
        qkv: trtp.TensorDesc,
        k_cache: trtp.TensorDesc,
        v_cache: trtp.TensorDesc,
        work: trtp.TensorDesc,
        block_tables: trtp.TensorDesc,
        context_lens: trtp.TensorDesc,
        positions: trtp.TensorDesc,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        tokens_per_block: int,
        scale: float,
        sliding_window: int,
        capability: int,
    ) -> trtp.TensorDesc:
        """Attention [T, num_heads head_dim] of the type of qkv."""
        out = qkv.like()
        out.shape_expr[1] = num_heads * head_dim
        return out

    def compile_ahead(
        qkv: trtp.TensorDesc,
        k_cache: trtp.TensorDesc,
        v_cache: trtp.TensorDesc,
        work: trtp.TensorDesc,
        block_tables: trtp.TensorDesc,
        context_lens: trtp.TensorDesc,
        positions: trtp.TensorDesc,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        tokens_per_block: int,
        scale: float,
        sliding_window: int,
        capability: int,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs]:
        """The kernel's PTX, a program per row of work and key-value head."""
        names = {trt.DataType.BF16: "bf16", trt.DataType.HALF: "fp16"}
        if qkv.dtype not in names or k_cache.dtype != qkv.dtype or v_cache.dtype != qkv.dtype:
            raise ValueError(
                f"qkv is {qkv.dtype}, k_cache {k_cache.dtype}, v_cache {v_cache.dtype}: all must "
                "be BF16, or all HALF"
            )
        kernel = attention_ptx(
            AttentionShape(
                act=names[qkv.dtype],
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                tokens_per_block=tokens_per_block,
                scale=scale,
                sliding_window=sliding_window,
                capability=capability,
            )
        )
        launch = trtp.KernelLaunchParams()
        launch.grid_x = work.shape_expr[0] * num_kv_heads
        launch.block_x = kernel.num_threads
        launch.shared_mem = kernel.shared_bytes
        sizes = trtp.SymIntExprs(1)
        sizes[0] = trtp.SymInt32(block_tables.shape_expr[1])
        return kernel.entry, kernel.ptx, launch, sizes

    trtp.register(PLUGIN_ID)(describe)
    trtp.aot_impl(PLUGIN_ID)(compile_ahead)
    return trtp.op.enginery.paged_attention
