# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with Triton server itself; errors of engines and requests are the runtime's."""

from __future__ import annotations


class ServerError(Exception):
    """tritonserver is not installed, cannot listen, did not become ready, or died."""
