# SPDX-License-Identifier: Apache-2.0
"""Float32 references of the attention kernels, token by token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Heads:
    """What the kernels have compiled in."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    def split(self, qkv: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns views q [T, heads, d], k and v [T, kv heads, d] of qkv [T, (heads + 2 kv) d]."""
        heads = qkv.reshape(len(qkv), -1, self.head_dim)
        q, k, v = np.split(heads, [self.num_heads, self.num_heads + self.num_kv_heads], axis=1)
        return q, k, v


def kv_append(
    qkv: FloatArray,
    inv_freq: FloatArray,
    q_norm: FloatArray | None,
    k_norm: FloatArray | None,
    k_scale: float,
    v_scale: float,
    positions: IntArray,
    slot_mapping: IntArray,
    k_cache: FloatArray,
    v_cache: FloatArray,
    *,
    rope_scale: float,
    epsilon: float,
    heads: Heads,
) -> None:
    """Rotates q of `qkv` in place and writes k / k_scale and v / v_scale to the caches.

    What is written is not rounded to what a cache stores. Shapes as for the kernel: qkv
    [T, (heads + 2 kv) d], caches [num_blocks, kv heads, tokens_per_block, d]. Tokens whose slot is
    negative are left alone.
    """
    q, k, v = heads.split(qkv)
    tokens_per_block = k_cache.shape[2]
    for token in np.flatnonzero(slot_mapping >= 0):
        angle = np.float32(positions[token]) * inv_freq
        block, offset = divmod(int(slot_mapping[token]), tokens_per_block)
        q[token] = rotate(normalise(q[token], q_norm, epsilon), angle, rope_scale)
        key = rotate(normalise(k[token], k_norm, epsilon), angle, rope_scale)
        k_cache[block, :, offset] = key / np.float32(k_scale)
        v_cache[block, :, offset] = v[token] / np.float32(v_scale)


def normalise(head: FloatArray, weight: FloatArray | None, epsilon: float) -> FloatArray:
    """Returns heads [n, d] over the root of their mean square, times `weight` [d]."""
    if weight is None:
        return head
    mean = np.mean(head * head, axis=-1, keepdims=True)
    result: FloatArray = head / np.sqrt(mean + np.float32(epsilon)) * weight
    return result


def rotate(head: FloatArray, angle: FloatArray, rope_scale: float) -> FloatArray:
    """Returns heads [n, d], component i turned with component i + d / 2 by `angle` [d / 2]."""
    # In float64: the reference of what is accurate at any angle.
    cos = (np.cos(angle.astype(np.float64)) * rope_scale).astype(np.float32)
    sin = (np.sin(angle.astype(np.float64)) * rope_scale).astype(np.float32)
    first, second = np.split(head, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def paged_attention(
    qkv: FloatArray,
    k_cache: FloatArray,
    v_cache: FloatArray,
    block_tables: IntArray,
    positions: IntArray,
    sequences: IntArray,
    *,
    scale: float,
    sliding_window: int,
    heads: Heads,
) -> FloatArray:
    """Returns float32 [T, heads d]: what each token sees of its sequence up to its own position.

    Args:
        qkv: [T, (heads + 2 kv) d], as `kv_append` leaves it.
        k_cache: real values (not divided by a scale) [num_blocks, kv heads, tokens_per_block, d].
        v_cache: likewise.
        block_tables: [sequences, width].
        positions: [T].
        sequences: [T], the row of the block table of each token.
        scale: of the scores.
        sliding_window: positions seen, the token's own included; 0: all.
        heads: the numbers of heads and their size.
    """
    q, _, _ = heads.split(qkv)
    group = heads.num_heads // heads.num_kv_heads
    tokens_per_block = k_cache.shape[2]
    out = np.empty_like(q)
    for token, (position, sequence) in enumerate(zip(positions, sequences, strict=True)):
        oldest = max(0, int(position) - sliding_window + 1) if sliding_window else 0
        seen = np.arange(oldest, int(position) + 1)
        block, offset = block_tables[sequence, seen // tokens_per_block], seen % tokens_per_block
        keys = np.repeat(k_cache[block, :, offset], group, axis=1)  # [seen, heads, d]
        values = np.repeat(v_cache[block, :, offset], group, axis=1)
        score = np.einsum("hd,shd->hs", q[token], keys) * np.float32(scale)
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        out[token] = np.einsum("hs,shd->hd", weight, values)
    return out.reshape(len(q), -1)


def combine(partial: FloatArray, partial_stats: FloatArray, merge: IntArray) -> FloatArray:
    """Returns float32 [merges, heads, d], the merged splits of each row of `merge`.

    partial [index, heads, d] is unnormalised; partial_stats [index, heads, 2] holds the largest
    score times log2(e) and the sum of weights; merge [merges, 4]: token, first index, count, 0,
    count at least 1.
    """
    out = np.empty((len(merge), *partial.shape[1:]), np.float32)
    for row, (_, first, count, _) in enumerate(merge):
        stats = partial_stats[first : first + count]
        weight = np.exp2(stats[..., 0] - stats[..., 0].max(axis=0))
        total = (weight * stats[..., 1]).sum(axis=0)
        merged = (weight[..., None] * partial[first : first + count]).sum(axis=0)
        out[row] = merged / total[:, None]
    return out
