# SPDX-License-Identifier: Apache-2.0
"""Why a SKU does not build a scheme or KV cache dtype, and which to take instead."""

from __future__ import annotations

from collections.abc import Sequence

from enginery.builder.sku import Sku
from enginery.quantization import SCHEMES

FP8_SM = SCHEMES["fp8"].min_sm


def qformat_refusal(qformat: str, sku: Sku, accepted: Sequence[str]) -> tuple[str, str]:
    """Returns (reason, fix) for a scheme that `sku` does not list; empty where nothing is known.

    Args:
        qformat: what was asked for.
        sku: one that refuses it.
        accepted: the schemes that all SKUs of the build take.
    """
    scheme = SCHEMES.get(qformat)
    if scheme is None:
        return "", ""
    reason = _sm_reason(sku, scheme.min_sm)
    if sku.target not in scheme.targets:
        reason = f"target {sku.target} has no kernels for it"
        if scheme.weight_dtype is not None and scheme.activation_dtype is not None:
            how = "by calibrated scales" if scheme.has_input_scales else "per token at run time"
            reason = f"target {sku.target} does not quantise activations {how}"
    near = [name for name in scheme.nearest if name in accepted]
    fix = f"the nearest that is built is {near[0]}" if near else ""
    if near and SCHEMES[near[0]].has_input_scales:
        without = [name for name in near if not SCHEMES[name].has_input_scales]
        fix += f"; for a checkpoint without calibrated scales, {without[0]}" if without else ""
    return reason, fix


def kv_dtype_refusal(dtype: str, sku: Sku, accepted: Sequence[str]) -> tuple[str, str]:
    """As `qformat_refusal`, for a dtype of the KV cache."""
    if dtype not in ("fp8", "int8"):
        return "", ""
    reason = _sm_reason(sku, FP8_SM) if dtype == "fp8" else ""
    other = "int8" if dtype == "fp8" else "fp8"
    return reason, f"the nearest that is built is {other if other in accepted else 'auto'}"


def _sm_reason(sku: Sku, min_sm: int) -> str:
    if sku.gpu is None or sku.gpu.sm >= min_sm:
        return ""
    (major, minor), needed = sku.gpu.compute_capability, divmod(min_sm, 10)
    return (
        f"FP8 takes compute capability {needed[0]}.{needed[1]} or higher; "
        f"{sku.name} has {major}.{minor}"
    )
