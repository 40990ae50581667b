# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""4-bit weights to bfloat16 or float16 in registers, four at a time.

The conversion instructions are too few per clock to keep up with memory. An integer put into the
low bits of a power of two's mantissa is that power plus the integer; taking the power away again
leaves it, exactly: a byte permutation and an addition. (For int8 the compiler knows such a way.)
"""

from __future__ import annotations

import triton
import triton.language as tl

# The low halves of four bytes: +8 to be unsigned, then into 2^7 of bfloat16; less 128 + 8.
_INT4_BF16 = tl.constexpr("""{
    .reg .b32 u, a, b, one, offset;
    mov.b32 one, 0x3F803F80;
    mov.b32 offset, 0xC308C308;
    xor.b32 u, $2, 0x08080808;
    and.b32 u, u, 0x0F0F0F0F;
    prmt.b32 a, u, 0x43434343, 0x4140;
    prmt.b32 b, u, 0x43434343, 0x4342;
    fma.rn.bf16x2 $0, a, one, offset;
    fma.rn.bf16x2 $1, b, one, offset;
}""")
# Into 2^10 of float16; less 1024 + 8.
_INT4_FP16 = tl.constexpr("""{
    .reg .b32 u, a, b, one, offset;
    mov.b32 one, 0x3C003C00;
    mov.b32 offset, 0xE408E408;
    xor.b32 u, $2, 0x08080808;
    and.b32 u, u, 0x0F0F0F0F;
    prmt.b32 a, u, 0x64646464, 0x4140;
    prmt.b32 b, u, 0x64646464, 0x4342;
    fma.rn.f16x2 $0, a, one, offset;
    fma.rn.f16x2 $1, b, one, offset;
}""")


@triton.jit
def low_int4_to(packed, dtype: tl.constexpr, INTERPRET: tl.constexpr):
    """The signed low halves of a uint8 block to `dtype`; to float32 for the interpreter."""
    if INTERPRET:
        return ((packed << 4).to(tl.int8, bitcast=True) >> 4).to(tl.float32)
    elif dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(_INT4_BF16, "=r,=r,r", [packed], tl.bfloat16, True, 4)
    else:
        return tl.inline_asm_elementwise(_INT4_FP16, "=r,=r,r", [packed], tl.float16, True, 4)


@triton.jit
def high_int4_to(packed, dtype: tl.constexpr, INTERPRET: tl.constexpr):
    """The signed high halves of a uint8 block to `dtype`; to float32 for the interpreter."""
    return low_int4_to(packed >> 4, dtype, INTERPRET)
