# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from enginery.plugins.kernels import spec

FOLDER = Path(spec.__file__).parent
WRITTEN = sorted(name for name in spec.KERNELS if (FOLDER / f"{name}.py").exists())


def function(name: str) -> ast.FunctionDef:
    for node in ast.parse((FOLDER / f"{name}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise AssertionError(f"{name}.py has no function {name}")


@pytest.mark.parametrize("name", WRITTEN)
def test_parameters_are_those_of_the_source(name: str) -> None:
    parameters = function(name).args.args
    assert [p.name for p in spec.KERNELS[name].parameters] == [p.arg for p in parameters]
    constants = [p.arg for p in parameters if p.annotation is not None]
    assert [p.name for p in spec.KERNELS[name].parameters if p.is_constant] == constants


@pytest.mark.parametrize("name", WRITTEN)
def test_kernel_and_reference_load(name: str) -> None:
    assert callable(spec.load_reference(name))
    assert spec.load(name).__name__ == name


def test_signature_in_source_order() -> None:
    types = {"out": "*fp32", "weight": "*i8", "scale": "*bf16", "token_ids": "*i32"}
    signature = spec.KERNELS["embed"].signature(types, {"BLOCK": 128, "COLUMNS": 64})
    assert signature == [
        ("token_ids", "*i32"), ("weight", "*i8"), ("scale", "*bf16"), ("out", "*fp32"),
        ("COLUMNS", "constexpr"), ("BLOCK", "constexpr"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": None}, "out is missing"),
        ({"out": "*bf16"}, "out is \\*bf16, not one of"),
        ({"rows": "i32"}, "rows is unknown"),
        ({"COLUMNS": "i32"}, "COLUMNS has a type and a constant"),
    ],
)
def test_wrong_types_are_refused(changed: dict[str, str | None], message: str) -> None:
    types = {"out": "*fp32", "weight": "*bf16", "token_ids": "*i32"} | changed
    given = {name: kind for name, kind in types.items() if kind is not None}
    with pytest.raises(ValueError, match=message):
        spec.KERNELS["embed"].signature(given, {"scale": None, "BLOCK": 128, "COLUMNS": 64})


def test_only_what_may_be_absent_may_be() -> None:
    types = {"out": "*fp32", "token_ids": "*i32"}
    constants = {"scale": None, "weight": None, "BLOCK": 128, "COLUMNS": 64}
    with pytest.raises(ValueError, match="weight cannot be the constant None"):
        spec.KERNELS["embed"].signature(types, constants)


def test_source_hash_follows_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: spec.source_sha256(name) for name in ("kv_append", "combine", "embed")}
    for path in FOLDER.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(spec, "FOLDER", tmp_path)
    assert spec.source_sha256("kv_append") == before["kv_append"]
    convert = tmp_path / "convert.py"
    convert.write_text(convert.read_text().replace("12582912.0", "12582913.0"))
    assert spec.source_sha256("kv_append") != before["kv_append"]
    assert spec.source_sha256("combine") != before["combine"]
    assert spec.source_sha256("embed") == before["embed"]


def test_registry_is_light() -> None:
    """The builder reads specifications before it knows whether the language is installed."""
    code = "import sys; from enginery.plugins.kernels import spec; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_process_interprets_or_compiles() -> None:
    spec.use_interpreter()  # this one interprets: tests/conftest.py
    with pytest.raises(RuntimeError, match="compiler_environment"):
        spec.require_compiler()
    code = (
        "from enginery.plugins.kernels import spec; spec.require_compiler();"
        "function = spec.load('embed'); print(type(function).__name__)\n"
        "try: spec.use_interpreter()\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=spec.compiler_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    kind, message = done.stdout.splitlines()
    assert kind == "JITFunction"
    assert "cannot interpret" in message
