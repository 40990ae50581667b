# SPDX-License-Identifier: Apache-2.0
"""The `cpu` target: fused steps over packed weights, for any x86-64 processor."""

from enginery.builder.targets.cpu.target import CpuTarget

__all__ = ["CpuTarget"]
