# SPDX-License-Identifier: Apache-2.0
"""What a benchmark refuses."""

from __future__ import annotations


class BenchError(ValueError):
    """An option, a dataset or an engine with which the benchmark cannot run as asked."""
