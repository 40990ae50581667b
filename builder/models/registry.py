# SPDX-License-Identifier: Apache-2.0
"""The families by the architecture that a checkpoint names. A new family is added here."""

from enginery.builder.models import llama, mistral, qwen2, qwen3
from enginery.builder.models.family import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.architecture: module.FAMILY for module in (llama, mistral, qwen2, qwen3)
}
