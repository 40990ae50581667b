# SPDX-License-Identifier: Apache-2.0
"""What a reader of a quantised checkpoint's format tells the checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from enginery.builder.checkpoint.imports.stored_weight import RawTensors, StoredWeight
from enginery.builder.errors import Problems


class Format(ABC):
    """How a checkpoint stores quantised weights, as its configuration says.

    Attributes:
        name: for messages, e.g. "awq".
        qformat: the scheme that keeps the codes as they are; "none" where there is no such scheme.
        kv_cache_dtype: what the KV cache was calibrated for, "fp8" or "int8"; None: for nothing.
    """

    def __init__(self, name: str, qformat: str, kv_cache_dtype: str | None = None) -> None:
        self.name = name
        self.qformat = qformat
        self.kv_cache_dtype = kv_cache_dtype

    @abstractmethod
    def weights(self, raw: RawTensors, problems: Problems) -> dict[str, StoredWeight]:
        """The weights that are stored as codes, by the name that they had unquantised.

        Which modules are quantised the tensors say, so that what the configuration leaves out
        (`ignore`, `modules_to_not_convert`, ...) needs no second opinion. Reads no values but those
        that shapes and the order of columns depend on.

        Args:
            raw: the checkpoint's tensors.
            problems: gets whatever is missing, misshapen or of the wrong dtype, by tensor.
        """

    def renamed(self, raw: RawTensors) -> Mapping[str, str]:
        """Scales that have other names than ModelOpt's: tensor by ModelOpt's name."""
        return {}

    def surplus(self, raw: RawTensors) -> frozenset[str]:
        """Tensors that say nothing, such as biases of zeros that the model does not have."""
        return frozenset()
