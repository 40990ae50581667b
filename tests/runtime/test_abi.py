# SPDX-License-Identifier: Apache-2.0
"""runtime/abi.py against the header itself: a C program prints what the compiler made of it."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from enginery.runtime import abi, batch

INCLUDE = Path(__file__).parents[2] / "runtime" / "include"
HEADER = INCLUDE / "enginery" / "enginery.h"


@pytest.fixture(scope="module")
def header() -> str:
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def struct_fields(header: str) -> dict[str, list[str]]:
    """Each struct of the header and its members in order."""
    structs = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\n\} \1;", header, re.DOTALL):
        members = (line.strip() for line in body.split(";"))
        structs[name] = [
            # A function pointer's name stands in (*name); another member's is the last word.
            (re.search(r"\(\*(\w+)\)", line) or re.search(r"(\w+)(\[\w+\])?$", line))[1]  # type: ignore[index]
            for line in members
            if line
        ]
    return structs


@pytest.fixture(scope="module")
def compiled(
    header: str, struct_fields: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, int]:
    """Sizes, offsets and constants as the C compiler sees them."""
    lines = []
    for name, members in struct_fields.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for member in members:
            lines.append(f'printf("{name}.{member} %zu\\n", offsetof({name}, {member}));')
            size = f"sizeof((({name}*)0)->{member})"
            lines.append(f'printf("{name}.{member}.size %zu\\n", {size});')
    for constant in re.findall(r"\b(ENGINERY_[A-Z_]+)\s*=", header):
        lines.append(f'printf("{constant} %lld\\n", (long long){constant});')
    for macro in re.findall(r"#define (ENGINERY_[A-Z_]+) +[0-9]", header):
        lines.append(f'printf("{macro} %lld\\n", (long long){macro});')
    folder = tmp_path_factory.mktemp("abi")
    source = folder / "print_abi.c"
    body = "\n  ".join(lines)
    source.write_text(
        "#include <stdio.h>\n#include <enginery/enginery.h>\n"
        f"int main(void) {{\n  {body}\n  return 0;\n}}\n"
    )
    program = folder / "print_abi"
    warnings = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run(["cc", *warnings, f"-I{INCLUDE}", str(source), "-o", str(program)], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in (line.split() for line in output.splitlines())}


def test_every_struct_is_declared(struct_fields: dict[str, list[str]]) -> None:
    assert sorted(struct_fields) == sorted(abi.STRUCTS)


@pytest.mark.parametrize("name", abi.STRUCTS)
def test_layout(name: str, struct_fields: dict[str, list[str]], compiled: dict[str, int]) -> None:
    struct = abi.STRUCTS[name]
    assert [field[0] for field in struct._fields_] == struct_fields[name]
    assert ctypes.sizeof(struct) == compiled[name]
    for member in struct_fields[name]:
        field = getattr(struct, member)
        found = (field.offset, field.size)
        expected = (compiled[f"{name}.{member}"], compiled[f"{name}.{member}.size"])
        assert found == expected, member


def test_constants(compiled: dict[str, int]) -> None:
    expected = {
        "ENGINERY_ABI_VERSION": abi.ABI_VERSION,
        "ENGINERY_BATCH_MAGIC": abi.BATCH_MAGIC,
        "ENGINERY_BATCH_VERSION": abi.BATCH_VERSION,
        "ENGINERY_STEP_TIME_NS": abi.STEP_TIME_NS,
        "ENGINERY_NUM_STEP_TIMES": abi.NUM_STEP_TIMES,
        "ENGINERY_SAMPLE_GREEDY": batch.SAMPLE_GREEDY,
        "ENGINERY_SAMPLE_HOST_ONLY": batch.SAMPLE_HOST_ONLY,
        **{f"ENGINERY_{name}": value for name, value in abi.STATUSES.items()},
        **{f"ENGINERY_POLICY_{name}": value for name, value in abi.POLICIES.items()},
        **{f"ENGINERY_FINISH_{name}": value for name, value in abi.FINISH_REASONS.items()},
    }
    assert {key: value for key, value in compiled.items() if key.isupper()} == expected


def test_every_function_is_declared_with_all_its_arguments(header: str) -> None:
    function = r"ENGINERY_API [^;]*?\b(enginery_\w+)\(((?:[^()]|\([^()]*\))*)\);"
    declared = dict(re.findall(function, header))
    assert sorted(declared) == sorted(abi.FUNCTIONS)
    for name, (_, arguments) in abi.FUNCTIONS.items():
        # Commas inside a function pointer's own argument list separate nothing here.
        text = re.sub(r"\([^()]*\)", "", declared[name]).strip()
        count = 0 if text in ("", "void") else text.count(",") + 1
        assert len(arguments) == count, name


def test_sample_records_as_numpy_sees_them() -> None:
    struct = abi.SampleRecord
    assert batch.SAMPLE_DTYPE.itemsize == ctypes.sizeof(struct)
    for name, *_ in struct._fields_:
        assert batch.SAMPLE_DTYPE.fields is not None
        assert batch.SAMPLE_DTYPE.fields[name][1] == getattr(struct, name).offset
