# SPDX-License-Identifier: Apache-2.0
"""What every kernel is called with, found without importing the Triton language.

A process either interprets kernels or compiles them, never both: the language decides when it is
first imported, from TRITON_INTERPRET, whether `@triton.jit` makes an interpreted function.

- Interpreting (emulation, tests): call `use_interpreter()` before anything imports the language.
  `tests/conftest.py` does so for the whole suite, whose process therefore never compiles.
- Compiling: in a process of its own started with `compiler_environment()`; that process calls
  `require_compiler()` first.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "enginery.plugins.kernels"
FOLDER = Path(__file__).resolve().parent
INTERPRET = "TRITON_INTERPRET"
ACT = ("*bf16", "*fp16")
QUANTISED = ("*fp8e4nv", "*i8")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel."""

    name: str
    types: tuple[str, ...]
    """Types it may have, as the language writes them ("*fp32", "i32"), or ("constexpr",)."""
    is_optional: bool = False
    """A pointer that may be absent: it is then the constant None."""

    @property
    def is_constant(self) -> bool:
        """True where the value is compiled in."""
        return self.types == ("constexpr",)


@dataclass(frozen=True)
class KernelSpec:
    """One kernel: the function that is compiled, its parameters and its reference."""

    name: str
    """Also the module in this folder and the jitted function in that module."""
    version: int
    """Raised when the meaning of an argument changes."""
    parameters: tuple[Parameter, ...]
    """In source order, which is the order of the cubin's arguments."""
    reference: str
    """`module:function` in this folder: the same computation in numpy float32."""

    def signature(
        self, types: Mapping[str, str], constants: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Returns (parameter, type) in source order of one instance of the kernel.

        Args:
            types: the type of each pointer and integer that is passed.
            constants: every constexpr, and None for each absent pointer.

        Raises:
            ValueError: a parameter is missing, unknown, given twice or of a type it may not have.
        """
        known = {parameter.name for parameter in self.parameters}
        wrong = [f"{name} is unknown" for name in (*types, *constants) if name not in known]
        wrong += [f"{name} has a type and a constant" for name in types if name in constants]
        signature = []
        for parameter in self.parameters:
            if parameter.name in types:
                kind = types[parameter.name]
                if kind not in parameter.types:
                    wrong.append(f"{parameter.name} is {kind}, not one of {parameter.types}")
                signature.append((parameter.name, kind))
                continue
            if parameter.name not in constants:
                wrong.append(f"{parameter.name} is missing")
            elif not parameter.is_constant and (
                not parameter.is_optional or constants[parameter.name] is not None
            ):
                wrong.append(f"{parameter.name} cannot be the constant {constants[parameter.name]}")
            signature.append((parameter.name, "constexpr"))
        if wrong:
            raise ValueError(f"kernel {self.name}: " + "; ".join(wrong))
        return signature


def _kernel(name: str, version: int, parameters: str, reference: str) -> KernelSpec:
    """Reads `pointer *type|*type?, ...; CONSTANT, ...`; `?` marks what may be absent."""
    passed, _, constants = " ".join(parameters.split()).partition(";")
    found = []
    for text in passed.split(","):
        parameter, kinds = text.split()
        types: list[str] = []
        for kind in kinds.rstrip("?").split("|"):
            types += {"*act": ACT, "*quantised": QUANTISED}.get(kind, (kind,))
        found.append(Parameter(parameter, tuple(types), kinds.endswith("?")))
    found += [Parameter(text.strip(), ("constexpr",)) for text in constants.split(",")]
    return KernelSpec(name, version, tuple(found), reference)


KERNELS: dict[str, KernelSpec] = {
    kernel.name: kernel
    for kernel in (
        _kernel(
            "embed", 1,
            "token_ids *i32, weight *act|*i8, scale *act?, out *fp32; COLUMNS, BLOCK",
            "reference_rows:embed",
        ),
        _kernel(
            "rms_norm", 1,
            """x *fp32, weight *fp32, inverse *fp32?, out *act|*quantised;
            EPSILON, COLUMNS, BLOCK""",
            "reference_linear:rms_norm",
        ),
        _kernel(
            "quantize", 1,
            "x *act, inverse *fp32, out *quantised; COLUMNS, BLOCK",
            "reference_linear:quantize",
        ),
        _kernel(
            "scale_columns", 1,
            """x *act, factor *fp32, inverse *fp32?, out *act|*quantised;
            COLUMNS, BLOCK""",
            "reference_linear:scale_columns",
        ),
        _kernel(
            "gemm", 1,
            """x *act|*quantised, weight *act|*quantised|*u8, scale *act|*fp32?, bias *fp32?,
            residual *fp32?, y *fp32|*act, rows i32;
            N, K, WEIGHT, BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, INTERPRET""",
            "reference_linear:gemm",
        ),
        _kernel(
            "gemm_swiglu", 1,
            """x *act|*quantised, weight *act|*quantised|*u8, scale *act|*fp32?, bias *fp32?,
            inverse *fp32?, y *act|*quantised, rows i32;
            F, K, WEIGHT, BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, INTERPRET""",
            "reference_linear:gemm_swiglu",
        ),
        _kernel(
            "add", 1, "a *fp32, b *fp32, out *fp32; COLUMNS, BLOCK", "reference_linear:add"
        ),
        _kernel(
            "kv_append", 1,
            """qkv *act, inv_freq *fp32, q_norm *fp32?, k_norm *fp32?, k_scale *fp32?,
            v_scale *fp32?, positions *i32, slot_mapping *i64,
            k_cache *act|*quantised, v_cache *act|*quantised;
            ROPE_SCALE, EPSILON, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, HALF_BLOCK,
            TOKENS_PER_BLOCK""",
            "reference_attention:kv_append",
        ),
        _kernel(
            "paged_attention", 1,
            """qkv *act, k_cache *act|*quantised, v_cache *act|*quantised, k_scale *fp32?,
            v_scale *fp32?, work *i32, block_tables *i32, context_lens *i32, positions *i32,
            partial *fp32?, partial_stats *fp32?, out *act, table_width i32;
            SCALE, SLIDING_WINDOW, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, HEAD_BLOCK, GROUP_BLOCK,
            TOKENS_PER_BLOCK, BLOCK_M, BLOCK_N, INTERPRET""",
            "reference_attention:paged_attention",
        ),
        _kernel(
            "combine", 1,
            """partial *fp32, partial_stats *fp32, merge *i32, out *act;
            NUM_HEADS, HEAD_DIM, HEAD_BLOCK""",
            "reference_attention:combine",
        ),
        _kernel(
            "gather_rows", 1,
            "x *fp32, logit_rows *i32, out *fp32; COLUMNS, BLOCK",
            "reference_rows:gather_rows",
        ),
        _kernel(
            "sample", 1,
            "logits *fp32, samples *i32, token_ids *i32, scratch *fp32?; VOCAB, BLOCK",
            "reference_sample:sample",
        ),
    )
}  # fmt: skip


def load(name: str) -> Any:
    """Imports the Triton language and the kernel's module, and returns its jitted function.

    Raises:
        KeyError: no kernel is called so.
        ImportError: the Triton language is not installed.
    """
    return getattr(importlib.import_module(f"{PACKAGE}.{KERNELS[name].name}"), name)


def load_reference(name: str) -> Any:
    """Returns the kernel's float32 reference, which needs numpy alone."""
    module, _, function = KERNELS[name].reference.partition(":")
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), function)


def source_sha256(name: str) -> str:
    """SHA-256, in hex, of the source of the kernel and of all of this folder that it uses.

    That is the jitted function, every helper that it calls and every module constant that they
    name: what interpreter and compiler both start from. Reads the files and imports nothing.
    """
    seen: dict[tuple[str, str], str] = {}
    _collect(KERNELS[name].name, name, seen)
    text = "\n".join(f"# {module}.{item}\n{seen[module, item]}" for module, item in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()


def _collect(module: str, item: str, seen: dict[tuple[str, str], str]) -> None:
    """Adds the source of `item` of `module`, and of what it names in this folder, to `seen`."""
    source = (FOLDER / f"{module}.py").read_text("utf-8")
    definitions, imported = _names(source)
    if item in imported:
        _collect(*imported[item], seen)
        return
    if item not in definitions or (module, item) in seen:
        return
    node = definitions[item]
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    seen[module, item] = "\n".join(source.splitlines()[first - 1 : node.end_lineno])
    for name in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)}):
        _collect(module, name, seen)


@functools.cache
def _names(source: str) -> tuple[dict[str, ast.stmt], dict[str, tuple[str, str]]]:
    """Returns what a module defines, and what it imports from this folder, by name."""
    definitions: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign):
            definitions.update({t.id: node for t in node.targets if isinstance(t, ast.Name)})
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            imported.update({a.asname or a.name: (node.module, a.name) for a in node.names})
    return definitions, imported


def use_interpreter() -> None:
    """Makes this process interpret kernels; call it before the language is first imported.

    Raises:
        RuntimeError: the language was imported already, for compiling.
    """
    if "triton" not in sys.modules:
        os.environ[INTERPRET] = "1"
        return
    if not sys.modules["triton"].knobs.runtime.interpret:
        raise RuntimeError(
            "the Triton language is loaded for compiling and cannot interpret in this process; "
            f"set {INTERPRET}=1 before it starts"
        )


def require_compiler() -> None:
    """Checks that kernels loaded in this process can be compiled.

    Raises:
        RuntimeError: this process interprets them.
    """
    if os.environ.get(INTERPRET, "").lower() in ("1", "true", "on", "yes"):
        raise RuntimeError(
            f"{INTERPRET} is set, so this process interprets kernels; compile in a process started "
            "with compiler_environment()"
        )


def compiler_environment() -> dict[str, str]:
    """Returns this process's environment variables, less what would make a child interpret."""
    return {name: value for name, value in os.environ.items() if name != INTERPRET}
