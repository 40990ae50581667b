# SPDX-License-Identifier: Apache-2.0
"""Why a SKU does not build a scheme or KV cache dtype, and which to take instead."""

from __future__ import annotations

from collections.abc import Sequence

from enginery.builder.matrix import AUTO
from enginery.builder.sku import Sku, load_matrix
from enginery.quantization import SCHEMES


def qformat_refusal(qformat: str, sku: Sku, accepted: Sequence[str]) -> tuple[str, str]:
    """Returns (reason, fix) for a scheme that `sku` does not build; empty where it is not known.

    Args:
        qformat: what was asked for.
        sku: one that refuses it.
        accepted: the schemes that all SKUs of the build take.
    """
    row = load_matrix().schemes.get(qformat)
    if row is None:
        return "", ""
    near = [name for name in row.nearest if name in accepted]
    fix = f"the nearest that is built is {near[0]}" if near else ""
    if near and not _takes_any_checkpoint(near[0]):
        without = list(filter(_takes_any_checkpoint, near))
        fix += f"; for a checkpoint without calibrated scales, {without[0]}" if without else ""
    return row.reasons[sku.name], fix


def kv_dtype_refusal(dtype: str, sku: Sku, accepted: Sequence[str]) -> tuple[str, str]:
    """As `qformat_refusal`, for a dtype of the KV cache."""
    row = load_matrix().kv_cache_dtypes.get(dtype)
    if row is None:
        return "", ""
    near = [name for name in row.nearest if name == AUTO or name in accepted]
    return row.reasons[sku.name], f"the nearest that is built is {near[0]}" if near else ""


def nearest_without_scales(qformat: str) -> str:
    """The nearest scheme, built wherever `qformat` is, that needs no scales of the checkpoint."""
    rows = load_matrix().schemes
    near = (
        name
        for name in rows[qformat].nearest
        if _takes_any_checkpoint(name) and set(rows[qformat].skus) <= set(rows[name].skus)
    )
    return next(near, "none")


def _takes_any_checkpoint(qformat: str) -> bool:
    return not SCHEMES[qformat].is_calibrated
