# SPDX-License-Identifier: Apache-2.0
"""Sections of an engine as anyone may have written them: every field is checked and named."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.runtime.errors import EngineFileError
from enginery.runtime.executors.archive import read_archive
from enginery.runtime.executors.image import SegmentImage, SkuImage
from enginery.runtime.executors.segments_reader import read_segments
from enginery.runtime.executors.sku_reader import read_sku

ONNX = b"an ONNX model"
CUBIN, PLAN = b"a cubin", b"a plan"

SEGMENTS: dict[str, Any] = {
    "version": 1,
    "segments": {
        "head": {
            "onnx": "head.onnx",
            "onnx_sha256": hashlib.sha256(ONNX).hexdigest(),
            "inputs": [
                {"name": "x", "kind": "value", "dtype": "f32", "shape": ["logits", 64]},
                {"name": "w", "kind": "tensor", "dtype": "bf16", "shape": [320, 64]},
            ],
            "outputs": [{"name": "y", "dtype": "f32", "shape": ["logits", 320]}],
        }
    },
}
KERNEL: dict[str, Any] = {
    "spec": "gemm", "version": 1, "source_sha256": "ab" * 32, "cubin": "kernels/gemm_1.cubin",
    "entry": "gemm", "num_warps": 4, "num_stages": 3, "shared_bytes": 1024, "num_params": 6,
    "registers": 128, "spill_bytes": 0,
    "signature": [["x", "*fp32"], ["scale", "constexpr"], ["y", "*fp32"], ["rows", "i32"],
                  ["N", "constexpr"]],
    "constants": {"N": 320, "scale": None},
}  # fmt: skip
SKU: dict[str, Any] = {
    "version": 1,
    "sku": "h200",
    "compute_capability": [9, 0],
    "providers": ["native", "tensorrt_rtx"],
    "tensorrt": {"package": "tensorrt_rtx", "version": "1.7.1.116"},
    "triton_language": "3.9.0",
    "kernels": {"gemm_1": KERNEL},
    "ops": {"paged_attention@0": {"decode": "gemm_1", "split_tokens": 512}},
    "segments": {
        "head": {
            "native": {
                "scratch": [{"name": "t", "dtype": "f8e4m3", "rows": "logits", "columns": 64}],
                "launches": [
                    {
                        "args": {"x": "x", "y": "t", "rows": "#rows"},
                        "variants": [
                            {"max_rows": 16, "kernel": "gemm_1", "block_rows": 16, "blocks": 5},
                            {"max_rows": None, "kernel": "gemm_1", "block_rows": 64, "blocks": 5},
                        ],
                    }
                ],
            },
            "plan": {
                "file": "plans/head.plan",
                "bytes": len(PLAN),
                "profiles": [{"min": 1, "opt": 8, "max": 64}],
                "gemm_operands": ["bf16 x bf16 -> f32"],
            },
        }
    },
}
MEMBERS = {"head.onnx": ONNX}
SKU_MEMBERS = {"kernels/gemm_1.cubin": CUBIN, "plans/head.plan": PLAN}
LAUNCH = "segments.head.native.launches.0"
FIRST = f"{LAUNCH}.variants.0"


def changed(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one field set, or with it left out where the value is `...`."""
    result = copy.deepcopy(record)
    *parents, last = path.split(".")
    place: Any = result
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    key: int | str = int(last) if isinstance(place, list) else last
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return result


def segments(record: Any = SEGMENTS) -> dict[str, SegmentImage]:
    return read_segments({**MEMBERS, "segments.json": json.dumps(record).encode()}, "segments.json")


def sku(record: Any = SKU) -> SkuImage:
    members = {**SKU_MEMBERS, "sku.json": json.dumps(record).encode()}
    return read_sku(members, "sku.json", "h200", segments())


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def as_section(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def test_what_is_sound_is_read() -> None:
    segment = segments()["head"]
    assert [operand.rows for operand in segment.inputs] == ["logits", None]
    assert [operand.shape for operand in segment.inputs] == [(64,), (320, 64)]
    image = sku()
    assert image.compute_capability == (9, 0)
    assert image.kernels["gemm_1"].cubin == CUBIN
    assert [name for name, _ in image.kernels["gemm_1"].parameters] == ["x", "y", "rows"]
    assert image.ops["paged_attention@0"].numbers == {"split_tokens": 512}
    assert [variant.max_rows for variant in image.native["head"].launches[0].variants] == [16, None]
    assert image.plans["head"].data == PLAN
    assert image.plans["head"].profiles[0].max == 64


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 2, r"segments.json.version: 2; accepted: an integer in \[1, 1\]"),
        ("version", True, "version: True"),
        ("segments", [], r"segments.json.segments: \[\] is not an object"),
        ("segments.head.onnx", "other.onnx", "no member 'other.onnx'"),
        ("segments.head.onnx_sha256", "cd" * 32, "head.onnx_sha256: .* hash of the member"),
        ("segments.head.onnx_sha256", "AB" * 32, "64 hexadecimal digits"),
        ("segments.head.inputs.0.kind", "weight", r"inputs\[0\].kind: 'weight'; accepted: value"),
        ("segments.head.inputs.0.dtype", "f64", r"inputs\[0\].dtype: 'f64'"),
        ("segments.head.inputs.0.shape", [64, 64], '"tokens" or "logits", columns'),
        ("segments.head.inputs.0.shape", ["tokens", 64], "values of tokens and of logits"),
        ("segments.head.inputs.1.shape", [320, 0], "1 to 4 positive integers"),
        ("segments.head.inputs.1.shape", [320, 64.0], "1 to 4 positive integers"),
        ("segments.head.inputs.1.shape", [], "1 to 4 positive integers"),
        ("segments.head.inputs.1.name", "x", "a name twice"),
        ("segments.head.inputs.1.name", ..., r"inputs\[1\].name: missing"),
        ("segments.head.inputs.1.name", "w\n", "letters, digits"),
        ("segments.head.outputs", [], "no output"),
    ],
)
def test_unsound_segments_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(EngineFileError, match=message) as caught:
        segments(changed(SEGMENTS, path, value))
    assert caught.value.status == "INVALID_SECTION"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 0, "sku.json.version: 0"),
        ("sku", "h100", "sku.json.sku: 'h100'; accepted: h200"),
        ("compute_capability", [9], r"2 integers in \[0, 99\]"),
        ("providers", [], "providers: .*; accepted: at least one"),
        ("providers", ["cuda"], "providers: .*native, tensorrt_rtx, tensorrt"),
        ("segments.head.native", None, "'native' only when segment 'head' has it"),
        ("segments.head.plan", None, "'tensorrt_rtx' only when segment 'head' has it"),
        ("segments", {}, "an entry for each of head"),
        ("tensorrt.package", "trt", "tensorrt.package: 'trt'"),
        ("triton_language", 3.9, "triton_language: 3.9; accepted: a string"),
        ("kernels.gemm_1.cubin", "kernels/other.cubin", "no member 'kernels/other.cubin'"),
        ("kernels.gemm_1.source_sha256", "ab", "64 hexadecimal digits"),
        ("kernels.gemm_1.entry", "a b", "gemm_1.entry: 'a b'"),
        ("kernels.gemm_1.shared_bytes", 2**30, "shared_bytes"),
        ("kernels.gemm_1.shared_bytes", -1, "shared_bytes: -1"),
        ("kernels.gemm_1.num_params", 2, r"num_params: 2; accepted: an integer in \[3, 1024\]"),
        ("kernels.gemm_1.signature.0", ["x", "*fp64"], "signature: .*with a type of"),
        ("kernels.gemm_1.signature.0", ["x"], "signature"),
        ("kernels.gemm_1.constants", {"N": 320}, "a value for each constexpr"),
        ("kernels.gemm_1.constants.N", [320], "constants.N: .*a finite number"),
        ("ops.paged_attention@0.decode", "gemm_2", "decode: 'gemm_2'; accepted: one of"),
        ("ops.paged_attention@0.split_tokens", 0, "split_tokens: 0"),
        ("segments.head.native.scratch.0.dtype", "i64", "dtype: 'i64'"),
        ("segments.head.native.scratch.0.columns", 2**40, "columns"),
        ("segments.head.native.scratch.0.name", "x", "names that are not taken; 'x' is"),
        (f"{LAUNCH}.args.y", "z", "args.y: 'z'; accepted: #rows, t, w, x, y"),
        (f"{LAUNCH}.args.y", 1, "args.y: 1; accepted: a string"),
        (f"{LAUNCH}.variants", [], "max_rows increasing, the last one null"),
        (f"{FIRST}.max_rows", None, "max_rows increasing, the last one null"),
        (f"{LAUNCH}.variants.1.max_rows", 32, "max_rows increasing, the last one null"),
        (f"{FIRST}.kernel", "gemm_9", "kernel: 'gemm_9'"),
        (f"{FIRST}.block_rows", 0, "block_rows: 0"),
        ("segments.head.plan.bytes", 7, "plan.bytes: 7"),
        ("segments.head.plan.profiles", [], "profiles: .*; accepted: at least one"),
        ("segments.head.plan.profiles.0.max", 4, "max: 4"),
        ("segments.head.plan.gemm_operands", [1], "a list of strings"),
    ],
)
def test_unsound_skus_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(EngineFileError, match=message) as caught:
        sku(changed(SKU, path, value))
    assert caught.value.status == "INVALID_SECTION"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "is not an object"),
        (b'{"version": 1, "version": 1}', "'version' is there twice"),
        (b'{"version": NaN}', "NaN is not a number"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(EngineFileError, match=message):
        read_segments({"segments.json": text}, "segments.json")


def test_an_archive_is_read() -> None:
    members = {"a.json": b"{}", "kernels/b": bytes(1000)}
    assert read_archive(as_section(archive(members)), "section") == members


def compressed() -> bytes:
    return archive({"a": bytes(5000)}, zipfile.ZIP_DEFLATED)


def doubled() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate"):
        buffer = io.BytesIO(archive({"a": b"1"}))
        with zipfile.ZipFile(buffer, "a") as file:
            file.writestr("a", b"2")
        return buffer.getvalue()


def claiming() -> bytes:
    """An entry of the central directory whose member would be larger than the file."""
    data = bytearray(archive({"a": b"12345678"}))
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = (2**31).to_bytes(4, "little") * 2
    return bytes(data)


def flipped() -> bytes:
    data = bytearray(archive({"a": b"12345678"}))
    data[data.index(b"1234")] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (compressed, "section: member 'a' is compressed"),
        (doubled, "member 'a' is there twice"),
        (claiming, "member 'a' claims 2147483648 bytes"),
        (flipped, "CRC"),
        (lambda: b"", "not a sound ZIP"),
        (lambda: b"PK" * 50, "not a sound ZIP"),
        (lambda: archive({"a": b"1" * 99})[:-30], "not a sound ZIP"),
        (lambda: archive({"a": b"1" * 99})[60:], "not a sound ZIP|claims"),
    ],
)
def test_unsound_archives_are_refused(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(EngineFileError, match=message) as caught:
        read_archive(as_section(make()), "section")
    assert caught.value.status == "INVALID_SECTION"


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_is_refused_or_harmless(seed: int) -> None:
    stream = np.random.default_rng(seed)
    members = {**MEMBERS, "segments.json": json.dumps(SEGMENTS).encode()}
    data = bytearray(archive(members))
    for place in stream.integers(len(data), size=3):
        data[place] = stream.integers(256)
    try:
        found = read_archive(as_section(bytes(data)), "section")
        read_segments(found, "segments.json")
    except EngineFileError:
        pass
