# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""The MLP segment in torch: a float32 reference of the quantised arithmetic, and plain float16."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.segment import EPSILON, INT4_BLOCK, Linear, Segment

TORCH_DTYPE = {"fp16": torch.float16, "bf16": torch.bfloat16}


def to_torch(array: NDArray[np.generic], device: str) -> torch.Tensor:
    """A copy on `device`; bfloat16 and E4M3 (uint8) arrays keep their bits."""
    array = np.array(array, copy=True, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).to(device).view(torch.bfloat16)
    return torch.from_numpy(array).to(device)


def dequantized(linear: Linear, scheme: str, device: str) -> torch.Tensor:
    """The real weight, `[N, K]` float32."""
    codes = to_torch(linear.codes, device)
    if linear.weight_scale is None:
        return codes.float()
    codes = codes.view(torch.float8_e4m3fn) if scheme == "fp8" else codes
    scale = to_torch(linear.weight_scale, device)
    if scale.ndim == 1:
        return codes.float() * scale[:, None]
    return codes.float() * scale.repeat_interleave(INT4_BLOCK, dim=1)


class Reference:
    """Float32 arithmetic on the stored codes; activations are quantised, nothing else rounded."""

    def __init__(self, segment: Segment, device: str) -> None:
        self.segment = segment
        self.gamma = to_torch(segment.gamma, device).float()
        self.gate_up = dequantized(segment.gate_up, segment.scheme, device)
        self.down = dequantized(segment.down, segment.scheme, device)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, scale: float | None) -> torch.Tensor:
        if scale is not None and self.segment.scheme == "fp8":
            x = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
        elif scale is not None:
            x = (x / scale).round().clamp(-128, 127) * scale
        return x @ weight.T

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """`y - x` for `x [num_tokens, hidden]`, float32."""
        segment, wide = self.segment, x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON) * self.gamma
        both = self._linear(normed, self.gate_up, segment.gate_up.input_scale)
        gate, up = both.split(segment.ffn, dim=1)
        gated = torch.nn.functional.silu(gate) * up
        return self._linear(gated, self.down, segment.down.input_scale)

    def relative_error(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """|y - x - reference| / |reference| in the Frobenius norm; NaN and inf come through."""
        expected = self.mlp(x)
        return float((y.float() - x.float() - expected).norm() / expected.norm())


# Relative error allowed, by scheme: float16 rounding alone, or activations that fall on the
# other side of a rounding boundary because the norm's output was rounded to 16 bits first.
TOLERANCE = {
    ("fp16", "none"): 3e-3,
    ("bf16", "none"): 2e-2,
    ("fp16", "int8_wo"): 3e-3,
    ("fp16", "int4_wo"): 3e-3,
    ("fp16", "fp8"): 4e-2,
    ("bf16", "fp8"): 6e-2,
    ("fp16", "int8"): 4e-2,
    ("bf16", "int8"): 6e-2,
}


class PlainTorch:
    """What torch does with the unquantised float16 segment: the speed to compare with."""

    def __init__(self, segment: Segment, device: str) -> None:
        self.gamma = to_torch(segment.gamma, device).half()
        self.gate_up = dequantized(segment.gate_up, segment.scheme, device).half()
        self.down = dequantized(segment.down, segment.scheme, device).half()
        self.ffn = segment.ffn

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`y` for `x [num_tokens, hidden]` float16."""
        normed = torch.nn.functional.rms_norm(x, x.shape[-1:], self.gamma, EPSILON)
        gate, up = (normed @ self.gate_up.T).split(self.ffn, dim=1)
        y: torch.Tensor = x + (torch.nn.functional.silu(gate) * up) @ self.down.T
        return y
