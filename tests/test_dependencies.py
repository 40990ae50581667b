# SPDX-License-Identifier: Apache-2.0
"""Which folder may import which: the rules of the architecture, read from the sources."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON_FOLDERS = (
    "builder", "configs", "enginery", "plugins", "quantization", "runtime", "triton_backend"
)  # fmt: skip

# Folder -> the modules of ours that it may import beside its own (a package means all in it).
MAY_IMPORT = {
    "builder": ("enginery.quantization", "enginery.plugins", "enginery.configs"),
    "configs": (),
    "enginery": ("enginery",),
    # The public executor interface and nothing else: a plugin knows no builder.
    "plugins": (
        "enginery.runtime.batch",
        "enginery.runtime.engine",
        "enginery.runtime.errors",
        "enginery.runtime.executor",
        "enginery.runtime.executors",
    ),
    "quantization": (),
    # The engine directory is the only contract between builder and runtime.
    "runtime": (),
    "triton_backend": ("enginery.runtime",),
}

# Folder -> third-party packages that it may import when it is itself imported. What an extra
# installs is imported inside the function that needs it.
MAY_IMPORT_EAGERLY = {
    "builder": {"numpy"},
    "configs": set(),
    "enginery": {"numpy"},
    "plugins": {"numpy"},
    "quantization": {"numpy"},
    "runtime": {"numpy", "tokenizers", "jinja2"},
    "triton_backend": {"numpy"},
}
# Module prefixes that are only ever imported by the code that asks for their extra.
EXTRA_ONLY_MODULES = (
    "enginery.openai",  # FastAPI and tritonclient, in a process of its own
    "enginery.plugins.emulate",  # torch, onnxruntime and the Triton language
    "enginery.plugins.kernels",  # Triton-language kernels import the language at the top
    "enginery.runtime.executors.cuda",  # cuda-python
    "enginery.triton_backend.model",  # runs inside Triton server, beside its utilities
)

# Third-party package -> the modules that may import it at all, in whatever function: everything
# else is built and served without it.
IMPORTED_ONLY_BY = {
    "modelopt": ("enginery.quantization.calibration", "enginery.quantization.calibration_export"),
    "safetensors": (),  # checkpoints are read by code of ours, which trusts no header
    "transformers": ("enginery.quantization.calibration",),
    "torch": (
        "enginery.plugins",
        "enginery.quantization.calibration",
        "enginery.quantization.calibration_export",
    ),
}

# C++ folder below runtime/src -> the folders whose headers it may include beside its own.
MAY_INCLUDE = {
    "base": set(),
    "cache": {"base"},
    "sample": {"base"},
    "schedule": {"base", "cache"},
    "text": {"base"},
    "engine": {"base"},
    "kernels": {"base"},
    "exec": {"base", "engine", "kernels", "sample"},
    "core": {"base", "cache", "engine", "exec", "sample", "schedule", "text"},
    "api": {"base", "cache", "core", "engine", "exec", "sample", "schedule", "text"},
}


class Import(NamedTuple):
    """One import statement: where it stands, what it names, whether it runs with the module."""

    place: str
    target: str
    is_eager: bool


def module_name(folder: str, path: Path) -> str:
    parts = list(path.relative_to(ROOT / folder).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    prefix = ["enginery"] if folder == "enginery" else ["enginery", folder]
    return ".".join(prefix + parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_below(
    node: ast.AST, package: list[str], is_eager: bool
) -> Iterator[tuple[int, str, bool]]:
    """Yields (line, absolute target, is eager) of every import at or below `node`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield child.lineno, alias.name, is_eager
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) - child.level + 1] if child.level else []
            origin = ".".join(base + ([child.module] if child.module else []))
            for alias in child.names:
                # `from enginery import builder` names a module, `from numpy import array` does not;
                # both begin with what is imported, which is all that the rules look at.
                yield child.lineno, f"{origin}.{alias.name}", is_eager
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            is_deferred = is_function or is_type_checking(child)
            yield from imports_below(child, package, is_eager and not is_deferred)


def imports_in(source: str, module: str, is_package: bool, place: str) -> list[Import]:
    package = module.split(".") if is_package else module.split(".")[:-1]
    return [
        Import(f"{place}:{line}", target, is_eager)
        for line, target, is_eager in imports_below(ast.parse(source), package, True)
    ]


def is_within(target: str, package: str) -> bool:
    return target == package or target.startswith(package + ".")


def violations(folder: str, module: str, imports: list[Import]) -> list[str]:
    """Returns one line per import in `module` that its folder's rules forbid."""
    own = "enginery" if folder == "enginery" else f"enginery.{folder}"
    found = []
    for place, target, is_eager in imports:
        top = target.split(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top == "enginery":
            if not any(is_within(target, allowed) for allowed in (own, *MAY_IMPORT[folder])):
                found.append(f"{place}: {folder} must not import {target}")
        elif top in IMPORTED_ONLY_BY and not any(
            is_within(module, allowed) for allowed in IMPORTED_ONLY_BY[top]
        ):
            found.append(f"{place}: {top} is not for {module} to import")
        elif top in ("tests", "benchmarks", "examples", *PYTHON_FOLDERS):
            found.append(f"{place}: {target} is not for the package to import")
        elif (
            is_eager
            and top not in MAY_IMPORT_EAGERLY[folder]
            and not any(is_within(module, prefix) for prefix in EXTRA_ONLY_MODULES)
        ):
            found.append(
                f"{place}: import {top} in the function that needs it, not with the module"
            )
    return found


@pytest.mark.parametrize("folder", PYTHON_FOLDERS)
def test_folder_imports_only_what_it_may(folder: str) -> None:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        module = module_name(folder, path)
        place = str(path.relative_to(ROOT))
        imports = imports_in(path.read_text(), module, path.name == "__init__.py", place)
        found += violations(folder, module, imports)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("folder", "module", "source"),
    [
        ("runtime", "enginery.runtime.llm", "from enginery.builder import build"),
        ("runtime", "enginery.runtime.llm", "from ..builder.build import build"),
        ("runtime", "enginery.runtime.llm", "from .. import builder"),
        ("runtime", "enginery.runtime.llm", "def f():\n    import enginery.builder"),
        ("runtime", "enginery.runtime.llm", "from enginery import SamplingParams"),
        ("runtime", "enginery.runtime.llm", "import torch"),
        (
            "runtime",
            "enginery.runtime.llm",
            "try:\n    import torch\nexcept ImportError:\n    pass",
        ),
        ("quantization", "enginery.quantization.int8", "import enginery.runtime.executor"),
        ("quantization", "enginery.quantization.int8", "def f():\n    import torch"),
        ("quantization", "enginery.quantization.calibration", "import torch"),
        ("builder", "enginery.builder.build", "def f():\n    from transformers import AutoModel"),
        ("plugins", "enginery.plugins.spec", "from enginery.runtime import llm"),
        ("enginery", "enginery.cli.main", "from tests import support"),
        ("builder", "enginery.builder.build", "import quantization"),
    ],
)
def test_forbidden_import_is_found(folder: str, module: str, source: str) -> None:
    assert violations(folder, module, imports_in(source, module, False, "example.py"))


@pytest.mark.parametrize(
    ("folder", "module", "source"),
    [
        ("runtime", "enginery.runtime.llm", "from .library import load\nimport numpy as np"),
        ("runtime", "enginery.runtime.llm", "def f():\n    import psutil"),
        ("quantization", "enginery.quantization.calibration", "def f():\n    import torch"),
        ("builder", "enginery.builder.build", "from ..quantization import int8"),
        (
            "plugins",
            "enginery.plugins.emulate.run",
            "from enginery.runtime.executor import Executor",
        ),
        ("triton_backend", "enginery.triton_backend.launch", "from enginery.runtime import LLM"),
    ],
)
def test_allowed_import_passes(folder: str, module: str, source: str) -> None:
    assert not violations(folder, module, imports_in(source, module, False, "example.py"))


def test_cpp_folders_include_only_what_they_may() -> None:
    found = []
    for path in sorted((ROOT / "runtime" / "src").rglob("*")):
        if path.suffix not in (".cc", ".h"):
            continue
        folder = path.relative_to(ROOT / "runtime" / "src").parts[0]
        allowed = MAY_INCLUDE[folder] | {folder, "enginery"}
        for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
            if "/" in included and included.split("/")[0] not in allowed:
                found.append(f"{path.relative_to(ROOT)}: {folder} must not include {included}")
    assert not found, "\n".join(found)
