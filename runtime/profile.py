# SPDX-License-Identifier: Apache-2.0
"""What a step's ops took, and what the machine could do at most."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from . import abi
from .errors import InvalidArgumentError
from .library import check, load_library


@dataclass(frozen=True)
class ProfileRecord:
    """All calls of one kind of op in one step; as `enginery_profile_record`."""

    iteration: int
    """Of the step, as in `Runtime.iterations`."""
    op: str
    """As in the program: "linear", "rms_norm"; of ops that run as one "linear+silu_mul"."""
    role: str
    """Of a linear's weight: "qkv_proj"; "" for other ops."""
    unit: str
    """What its products multiply: "f32", "bf16", "i8"; "": it has none."""
    num_calls: int
    duration_ns: int
    bytes: int
    """Of weights and KV, read or written; activations are not counted."""
    operations: int
    """Of its products; a multiply-add counts two."""

    @classmethod
    def read(cls, raw: abi.ProfileRecord) -> ProfileRecord:
        """Copies a record of the C side."""
        return cls(
            raw.iteration,
            raw.op.decode(),
            raw.role.decode(),
            raw.unit.decode(),
            raw.num_calls,
            raw.duration_ns,
            raw.bytes,
            raw.operations,
        )


@dataclass(frozen=True)
class MachineLimits:
    """What this machine does at most, per second; as `enginery_machine_limits`."""

    memory_bandwidth: float
    """Bytes that all threads read of a buffer that no cache holds."""
    buffer_bytes: int
    f32_peak: float
    """Operations in registers with the instructions of the kernels; 0: not known."""
    bf16_peak: float
    i8_peak: float
    num_threads: int

    def peak(self, unit: str) -> float:
        """Operations per second for a `ProfileRecord.unit`; 0: not known."""
        return {"f32": self.f32_peak, "bf16": self.bf16_peak, "i8": self.i8_peak}.get(unit, 0.0)


def measure_limits(isa: str | None = None, num_threads: int = 0) -> MachineLimits:
    """Measures for about a second on all of `num_threads` CPUs.

    Args:
        isa: whose instructions, as `Runtime.executor_name` gives it; None: the best there are.
        num_threads: 0: as many as this process may run on.

    Raises:
        InvalidArgumentError: this machine lacks `isa`, or a number of threads that is not accepted.
    """
    if not 0 <= num_threads < 2**31:
        raise InvalidArgumentError(f"num_threads = {num_threads}: must be 0 .. {2**31 - 1}")
    raw = abi.MachineLimits(abi_size=ctypes.sizeof(abi.MachineLimits))
    name = None if isa is None else isa.encode()
    check(load_library().enginery_measure_limits(name, num_threads, ctypes.byref(raw)))
    names = MachineLimits.__dataclass_fields__
    return MachineLimits(**{name: getattr(raw, name) for name in names})
