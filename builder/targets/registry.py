# SPDX-License-Identifier: Apache-2.0
"""The targets by the name that a SKU file gives. A new target is added here."""

from enginery.builder.targets.cpu import CpuTarget
from enginery.builder.targets.target import Target
from enginery.builder.targets.tensorrt.target import TensorRTTarget

TARGETS: dict[str, Target] = {target.name: target for target in (CpuTarget(), TensorRTTarget())}
