# SPDX-License-Identifier: Apache-2.0
"""TCP ports for a server that is about to start."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from .errors import ServerError


def choose_ports(address: str, wanted: Sequence[int]) -> list[int]:
    """Checks the ports that are wanted and puts a free one in place of every 0.

    Args:
        address: numeric, as the server will bind it.
        wanted: 0 .. 65535 each.

    Raises:
        ServerError: a port cannot be bound; says which and why.
    """
    with contextlib.ExitStack() as stack:  # all bound at once, so that none is chosen twice
        bound = [stack.enter_context(_bind(address, port)) for port in wanted]
        return [each.getsockname()[1] for each in bound]


def _bind(address: str, port: int) -> socket.socket:
    bound = socket.socket()
    # A port on which only old connections linger is free for a server; one that listens is not.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((address, port))
        bound.listen()  # else the same port could be bound once more
    except (OSError, OverflowError) as error:
        bound.close()
        reason = error.strerror if isinstance(error, OSError) else "is not 0 .. 65535"
        raise ServerError(
            f"port {port} on {address}: {reason}; choose another, or 0 for a free one"
        ) from None
    return bound
