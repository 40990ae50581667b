# SPDX-License-Identifier: Apache-2.0
"""The front end's port."""

from __future__ import annotations

import socket

from enginery.triton_backend.errors import ServerError

_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """Listens.

    Args:
        host: name or address, of IPv4 or IPv6.
        port: 0 .. 65535; 0 chooses a free one.

    Raises:
        ServerError: it cannot; says why.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        # A port on which only old connections linger is free; one that listens is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ServerError(
            f"openai_port = {port} on {host}: {error.strerror or error}; choose another, or 0 for "
            "a free one"
        ) from None
    return listener
