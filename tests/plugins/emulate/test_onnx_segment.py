# SPDX-License-Identifier: Apache-2.0
"""Segments on the CPU: memory of the caller's, roundings as the model has them, refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from enginery.plugins.emulate.onnx_rewrite import with_explicit_rounding
from enginery.plugins.emulate.onnx_segment import OnnxSegment

FLOAT, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
NUMPY: dict[int, np.dtype[Any]] = {
    F16: np.dtype(np.float16),
    BF16: np.dtype(ml_dtypes.bfloat16),
    FLOAT: np.dtype(np.float32),
}
Array = NDArray[Any]
Operands = dict[str, tuple[int, list[Any]]]  # ONNX dtype and shape by name


def model(
    nodes: list[Any],
    inputs: Operands,
    outputs: Operands,
    constants: tuple[Any, ...] = (),
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "segment",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    content: bytes = made.SerializeToString()
    return content


def gemm(dtype: int) -> bytes:
    """y = relu(x W^T + x W^T) in a 16-bit dtype: three roundings."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["a"]),
        helper.make_node("Mul", ["a", "c"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    value = np.array(1.0625, NUMPY[dtype])
    constant = helper.make_tensor("c", dtype, (), value.tobytes(), raw=True)
    operands: Operands = {"x": (dtype, ["tokens", 48]), "w": (dtype, [17, 48])}
    return model(nodes, operands, {"y": (dtype, ["tokens", 17])}, (constant,))


def draw(rng: np.random.Generator, dtype: int, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(NUMPY[dtype])


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("dtype", [F16, BF16])
def test_every_operation_rounds(dtype: int, rows: int) -> None:
    rng = np.random.default_rng(rows)
    x, w = draw(rng, dtype, rows, 48), draw(rng, dtype, 17, 48)
    y = np.zeros((rows, 17), NUMPY[dtype])
    OnnxSegment(gemm(dtype)).run(rows, {"x": x, "w": w, "y": y})
    product = x.astype(np.float32) @ w.astype(np.float32).T
    a = product.astype(NUMPY[dtype]).astype(np.float32)
    b = (a * np.float32(1.0625)).astype(NUMPY[dtype]).astype(np.float32)
    np.testing.assert_array_equal(y, (a + b).astype(NUMPY[dtype]))
    # Rounding only at the end is another result, so the comparison above sees the roundings.
    assert (y != (product * np.float32(2.0625)).astype(NUMPY[dtype])).any()


def test_weights_are_read_where_they_are() -> None:
    # A change in the memory that was handed over is seen by the next run: nothing was kept.
    rng = np.random.default_rng(0)
    x, w, y = draw(rng, BF16, 3, 48), draw(rng, BF16, 17, 48), np.zeros((3, 17), NUMPY[BF16])
    segment = OnnxSegment(gemm(BF16))
    operands = {"x": x, "w": w, "y": y}
    segment.run(3, operands)
    before = y.copy()
    w[5] *= 2
    segment.run(3, operands)
    assert (y[:, 5] == 2 * before[:, 5]).all()
    assert (np.delete(y, 5, 1) == np.delete(before, 5, 1)).all()


def test_memory_may_be_read_only_and_of_any_dtype() -> None:
    rng = np.random.default_rng(0)
    x, w, y = draw(rng, F16, 2, 48), draw(rng, F16, 17, 48), np.zeros((2, 17), np.float16)
    segment = OnnxSegment(gemm(F16))
    segment.run(2, {"x": x, "w": w, "y": y})
    w.flags.writeable = False
    raw = np.zeros(2 * 17 * 2, np.uint8)
    segment.run(2, {"x": x.view(np.uint8), "w": w.reshape(-1).view(np.uint8), "y": raw})
    assert raw.tobytes() == y.tobytes()


def test_one_loaded_segment_runs_any_number_of_rows() -> None:
    rng = np.random.default_rng(0)
    segment, w = OnnxSegment(gemm(F16)), draw(rng, F16, 17, 48)
    whole = draw(rng, F16, 9, 48)
    y = np.zeros((9, 17), np.float16)
    segment.run(9, {"x": whole, "w": w, "y": y})
    for rows in (4, 1):
        part = np.zeros((rows, 17), np.float16)
        segment.run(rows, {"x": whole[:rows], "w": w, "y": part})
        np.testing.assert_allclose(part, y[:rows], rtol=2e-3, atol=2e-3)


def test_packed_int4_and_float8_are_read_as_stored() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (4, 256)).astype(np.int8)
    nibbles = (codes.reshape(-1) & 15).astype(np.uint8)
    scale = draw(rng, BF16, 4, 2)
    eighths = draw(rng, FLOAT, 4, 256).astype(ml_dtypes.float8_e4m3fn)
    step = np.full(1, 0.5, np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1, block_size=128),
        helper.make_node("DequantizeLinear", ["e", "u"], ["z"], axis=0),
    ]
    content = model(
        nodes,
        {
            "w": (TensorProto.INT4, [4, 256]),
            "s": (BF16, [4, 2]),
            "e": (TensorProto.FLOAT8E4M3FN, [4, 256]),
            "u": (FLOAT, [4]),
        },
        {"y": (BF16, [4, 256]), "z": (FLOAT, [4, 256])},
    )
    y, z = np.zeros((4, 256), NUMPY[BF16]), np.zeros((4, 256), np.float32)
    packed = nibbles[0::2] | (nibbles[1::2] << 4)
    operands = {"w": packed, "s": scale, "e": eighths, "u": np.repeat(step, 4), "y": y, "z": z}
    OnnxSegment(content).run(4, operands)
    expected = codes * np.repeat(scale.astype(np.float32), 128, axis=1)
    np.testing.assert_array_equal(y, expected.astype(NUMPY[BF16]))
    np.testing.assert_array_equal(z, eighths.astype(np.float32) / 2)


def test_rewritten_model_has_no_16_bit_arithmetic() -> None:
    rewritten = onnx.load_from_string(with_explicit_rounding(gemm(BF16)))
    onnx.checker.check_model(rewritten, full_check=True)
    assert [node.op_type for node in rewritten.graph.node if node.op_type != "Cast"] == [
        "Gemm",
        "Mul",
        "Add",
    ]
    typed = onnx.shape_inference.infer_shapes(rewritten).graph
    dtypes = {item.name: item.type.tensor_type.elem_type for item in typed.value_info}
    for node in typed.node:
        if node.op_type != "Cast":
            assert {dtypes[name] for name in (*node.input, *node.output) if name in dtypes} == {
                FLOAT
            }
    assert typed.initializer[0].data_type == FLOAT


def test_transpose_that_others_read_stays() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
        helper.make_node("Add", ["t", "t"], ["z"]),
    ]
    operands: Operands = {"x": (FLOAT, ["tokens", 4]), "w": (FLOAT, [3, 4])}
    content = model(nodes, operands, {"y": (FLOAT, ["tokens", 3]), "z": (FLOAT, [4, 3])})
    x, w = np.eye(4, dtype=np.float32)[:2], np.arange(12, dtype=np.float32).reshape(3, 4)
    y, z = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    OnnxSegment(content).run(2, {"x": x, "w": w, "y": y, "z": z})
    np.testing.assert_array_equal(y, x @ w.T)
    np.testing.assert_array_equal(z, 2 * w.T)


def test_operands_that_do_not_fit_are_refused() -> None:
    segment = OnnxSegment(gemm(F16))
    x, w = np.zeros((3, 48), np.float16), np.zeros((17, 48), np.float16)
    y = np.zeros((3, 17), np.float16)
    fixed = y.copy()
    fixed.flags.writeable = False
    for operands, said in (
        ({"x": x, "y": y}, "w: operand is missing"),
        ({"x": x[:2], "w": w, "y": y}, r"x: 192 bytes do not hold \[3, 48\]"),
        ({"x": x, "w": w[:, ::2], "y": y}, "w: 816 bytes"),
        ({"x": x, "w": np.asfortranarray(w), "y": y}, "w: .*contiguous"),
        ({"x": x, "w": w, "y": y[:2]}, "y: 68 bytes"),
        ({"x": x, "w": w, "y": fixed}, "y: an output's memory must be writable"),
    ):
        with pytest.raises(ValueError, match=said):
            segment.run(3, operands)


def test_what_is_no_segment_is_refused() -> None:
    with pytest.raises(ValueError, match="not a segment that onnxruntime runs"):
        OnnxSegment(b"no model at all")
    wide = model(
        [helper.make_node("Neg", ["x"], ["y"])],
        {"x": (TensorProto.DOUBLE, ["n"])},
        {"y": (TensorProto.DOUBLE, ["n"])},
    )
    with pytest.raises(ValueError, match="x: dtype DOUBLE is not one of"):
        OnnxSegment(wide)
    identity = [helper.make_node("Identity", ["x"], ["y"])]
    negative = model(identity, {"x": (FLOAT, [-2, -4])}, {"y": (FLOAT, [-2, -4])})
    with pytest.raises(ValueError, match=r"x: shape .* below 1"):
        OnnxSegment(negative)
    elsewhere = onnx.load_from_string(gemm(F16))
    constant = elsewhere.graph.initializer[0]
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="/etc/hostname")
    with pytest.raises(ValueError, match="c: a constant lies in another file"):
        OnnxSegment(elsewhere.SerializeToString())


@pytest.mark.parametrize("location", ["constant", "../{}/constant"])
@pytest.mark.parametrize("place", ["attribute", "graph in a node"])
def test_no_file_beside_the_model_is_read(
    place: str, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.arange(4, dtype=np.float32).tofile("constant")
    constant = TensorProto(name="c", data_type=FLOAT, dims=[4])
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value=location.format(tmp_path.name))
    made = helper.make_node("Constant", [], ["c"], value=constant)
    if place == "graph in a node":
        value = helper.make_tensor_value_info("o", FLOAT, [4])
        node = helper.make_node("Identity", ["i"], ["o"])
        constant.name = "i"
        branch = helper.make_graph([node], "branch", [], [value], [constant])
        made = helper.make_node("If", ["if"], ["c"], then_branch=branch, else_branch=branch)
    nodes = [
        helper.make_node(
            "Constant", [], ["if"], value=helper.make_tensor("if", TensorProto.BOOL, [], [True])
        ),
        made,
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    content = model(nodes, {"x": (FLOAT, ["tokens", 4])}, {"y": (FLOAT, ["tokens", 4])})
    with pytest.raises(ValueError, match=r"lies in another file|an attribute is a graph"):
        OnnxSegment(content)


def test_size_that_overflows_64_bits_is_not_taken_for_a_small_one() -> None:
    side = 1 << 32
    kind = (FLOAT, [side, side])
    content = model([helper.make_node("Identity", ["x"], ["y"])], {"x": kind}, {"y": kind})
    with pytest.raises(ValueError, match="x: 0 bytes do not hold"):
        OnnxSegment(content).run(1, {"x": np.zeros(0, np.float32), "y": np.zeros(0, np.float32)})


def test_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime: pip install 'enginery\[emulate\]'"):
        OnnxSegment(b"")
