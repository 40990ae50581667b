# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_attention import Heads, kv_append, rotate

torch = pytest.importorskip("torch")

TOKENS_PER_BLOCK = 4
NUM_BLOCKS = 6
# Of what is stored, relative: half a unit in the last place of each type.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float8_e4m3fn": 2.0**-4, "int8": 0.0}


@dataclass
class Case:
    """Inputs of one launch: tokens of two sequences, of which one is padding."""

    heads: Heads
    act: str = "bfloat16"
    kv: str = "bfloat16"
    with_norm: bool = False
    rope_scale: float = 1.0
    positions: tuple[int, ...] = (0, 1, 4095, 131_071, 7)
    slots: tuple[int, ...] = (0, 23, 6, -1, 9)

    def inputs(self) -> tuple[Any, dict[str, Any]]:
        """Returns qkv, and what else the kernel takes by name."""
        rng = np.random.default_rng(self.heads.head_dim)
        dim = self.heads.head_dim
        columns = (self.heads.num_heads + 2 * self.heads.num_kv_heads) * dim
        qkv = rng.standard_normal((len(self.positions), columns), np.float32)
        norm = (rng.random((2, dim)).astype(np.float32) + 0.5) if self.with_norm else None
        inv_freq = (10000.0 ** (-np.arange(0, dim, 2) / dim)).astype(np.float32)
        scale = np.array([0.031], np.float32) if self.kv in ("int8", "float8_e4m3fn") else None
        return torch.from_numpy(qkv).to(getattr(torch, self.act)), {
            "inv_freq": inv_freq,
            "q_norm": None if norm is None else norm[0],
            "k_norm": None if norm is None else norm[1],
            "k_scale": scale,
            "v_scale": None if scale is None else scale * 2,
            "positions": np.array(self.positions, np.int32),
            "slot_mapping": np.array(self.slots, np.int64),
        }

    def caches(self) -> Any:
        """Key and value cache, filled with a value that no launch writes."""
        heads = self.heads
        shape = (2, NUM_BLOCKS, heads.num_kv_heads, TOKENS_PER_BLOCK, heads.head_dim)
        return torch.full(shape, 99.0).to(getattr(torch, self.kv))

    def launch(self, qkv: Any, inputs: dict[str, Any], caches: Any) -> Any:
        """Runs the kernel on qkv and caches, and returns the caches."""
        heads = self.heads
        tensors = {
            name: None if value is None else torch.from_numpy(value)
            for name, value in inputs.items()
        }
        spec.load("kv_append")[(len(qkv) * heads.num_kv_heads,)](
            qkv, **tensors, k_cache=caches[0], v_cache=caches[1],
            ROPE_SCALE=self.rope_scale, EPSILON=1e-5, NUM_HEADS=heads.num_heads,
            NUM_KV_HEADS=heads.num_kv_heads, HEAD_DIM=heads.head_dim,
            HALF_BLOCK=1 << (heads.head_dim // 2 - 1).bit_length(),
            TOKENS_PER_BLOCK=TOKENS_PER_BLOCK,
        )  # fmt: skip
        return caches

    def run(self) -> tuple[Any, Any]:
        """Returns qkv and both caches after the kernel."""
        qkv, inputs = self.inputs()
        return qkv, self.launch(qkv, inputs, self.caches())

    def reference(self) -> tuple[Any, Any]:
        qkv, inputs = self.inputs()
        expected, caches = qkv.float().numpy(), self.caches().float().numpy()
        for name in ("k_scale", "v_scale"):
            inputs[name] = 1.0 if inputs[name] is None else float(inputs[name][0])
        kv_append(
            expected, **inputs, k_cache=caches[0], v_cache=caches[1],
            rope_scale=self.rope_scale, epsilon=1e-5, heads=self.heads,
        )  # fmt: skip
        return expected, caches


CASES = [
    Case(Heads(1, 1, 64)),
    Case(Heads(6, 2, 80), rope_scale=1.2),
    Case(Heads(7, 1, 96), act="float16", kv="float16", with_norm=True),
    Case(Heads(4, 4, 128), with_norm=True),
    Case(Heads(8, 2, 64), kv="int8"),
    Case(Heads(3, 1, 80), kv="float8_e4m3fn", with_norm=True),
    Case(Heads(2, 2, 16), act="float16", kv="int8"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reference(case: Case) -> None:
    qkv, caches = case.run()
    expected_qkv, expected_caches = case.reference()
    # 4e-6: float32 arithmetic, of values of a few units.
    assert np.allclose(qkv.float(), expected_qkv, rtol=ROUNDING[case.act] * 1.01, atol=4e-6)
    absolute = 0.5001 if case.kv == "int8" else 2.0**-10 if case.kv == "float8_e4m3fn" else 4e-6
    rtol = ROUNDING[case.kv] * 1.01
    assert np.allclose(caches.float(), expected_caches, rtol=rtol, atol=absolute)


@pytest.mark.parametrize(
    ("kind", "limits"), [("int8", (-128, 127)), ("float8_e4m3fn", (-448, 448))]
)
def test_values_beyond_the_scale_are_clamped(kind: str, limits: tuple[int, int]) -> None:
    case = Case(Heads(2, 1, 16), kv=kind, positions=(0,), slots=(5,))
    qkv, inputs = case.inputs()
    inputs["k_scale"] = inputs["v_scale"] = np.array([1e-4], np.float32)
    caches = case.launch(qkv, inputs, case.caches())
    written = caches[:, 1, 0, 1].float().numpy()
    assert (written.min(), written.max()) == limits


def test_padded_token_writes_nothing() -> None:
    case = Case(Heads(6, 2, 80), slots=(-1,) * 5)
    qkv, caches = case.run()
    assert torch.equal(qkv, case.inputs()[0])
    assert torch.equal(caches, case.caches())


def test_rotation_is_accurate_at_every_position() -> None:
    """The kernel's own sine and cosine: error of a float32, not of its argument."""
    positions = (1, 3, 100, 65_537, 131_071, 1_048_575)
    case = Case(Heads(1, 1, 64), positions=positions, slots=tuple(range(6)))
    qkv, inputs = case.inputs()
    exact = torch.zeros(qkv.shape)
    exact[:, 64:96] = 1.0  # keys (1, 0): their rotation is (cos, sin)
    caches = torch.zeros((2, NUM_BLOCKS, 1, TOKENS_PER_BLOCK, 64))
    case.launch(exact, inputs, caches)
    written = caches[0].reshape(-1, 64)[:6].numpy()
    unit = np.concatenate([np.ones(32, np.float32), np.zeros(32, np.float32)])
    for row, position in zip(written, positions, strict=True):
        angle = np.float32(position) * inputs["inv_freq"]
        assert np.abs(row - rotate(unit[None], angle, 1.0)[0]).max() < 2e-7
