# SPDX-License-Identifier: Apache-2.0
"""Which operand types a plan's GEMMs have, read from the plan itself.

A plan can only be opened on a GPU, yet it holds its compiled graph as text. That text is not
documented: what is here reads that of TensorRT-RTX 1.7, in which a GEMM keeps the name of the ONNX
node that it was made from, with the profile it was compiled for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TENSOR = re.compile(r"tensor=\{[^}]*?\}[^\n]*")
TENSOR_NAME = re.compile(r'name="([^"]+)"')
TENSOR_TYPE = re.compile(r"type=(\w+)")
GEMM = re.compile(
    r"(?:fully_connected|gemm|bmm|matmul)="
    r'\{ name="([^"]+)" output=\{([^}]*)\} input=\{([^}]*)\}'
)
QUOTED = re.compile(r'"([^"]+)"')
UNKNOWN = "?"


@dataclass(frozen=True)
class Gemm:
    """One compiled GEMM.

    Attributes:
        operands: types of its two matrices, e.g. ("fp8_e4m3", "fp8_e4m3"); "?" where the text
            does not say.
        output: type of its result.
    """

    operands: tuple[str, str]
    output: str

    def __str__(self) -> str:
        return f"{self.operands[0]} x {self.operands[1]} -> {self.output}"


def read_gemms(plan: bytes) -> dict[str, tuple[Gemm, ...]]:
    """The GEMMs in a plan by name, each in the order in which the text lists it.

    A name is that of the ONNX node, with " [profile n]" behind it for profiles from the second.
    Bytes that are no plan of a version whose text is known give nothing.
    """
    text = plan.decode("latin1")
    types: dict[str, str] = {}
    for match in TENSOR.finditer(text):
        name, kind = TENSOR_NAME.search(match[0]), TENSOR_TYPE.search(match[0])
        if name and kind:
            types[name[1]] = kind[1]
    found: dict[str, tuple[Gemm, ...]] = {}
    for name_text, outputs, inputs in GEMM.findall(text):
        # The two matrices come first; scalars of the product may follow them.
        read = [types.get(name, UNKNOWN) for name in QUOTED.findall(inputs)] + [UNKNOWN] * 2
        written = [types.get(name, UNKNOWN) for name in QUOTED.findall(outputs)] + [UNKNOWN]
        gemm = Gemm((read[0], read[1]), written[0])
        found[name_text] = (*found.get(name_text, ()), gemm)
    return found
