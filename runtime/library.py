# SPDX-License-Identifier: Apache-2.0
"""Finds and loads libenginery.so, once per process.

An installation puts the library in `enginery/runtime/lib/`. An editable installation splits the
package: the Python files stay in the source tree and the library lies in site-packages, so every
folder that may hold the package is searched. `ENGINERY_LIBRARY` names another file, e.g. one built
with sanitizers.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

from . import abi
from .errors import LibraryNotFoundError, error_of

LIBRARY_NAME = "libenginery.so"


def candidate_paths() -> list[Path]:
    """Where the library may be, in the order in which it is looked for, without repetitions."""
    override = os.environ.get("ENGINERY_LIBRARY")
    if override:
        return [Path(override)]
    package = sys.modules[__package__ or "enginery.runtime"]
    folders = [Path(entry) for entry in package.__path__]
    folders += [Path(entry) / "enginery" / "runtime" for entry in sys.path if entry]
    return list(dict.fromkeys(folder.absolute() / "lib" / LIBRARY_NAME for folder in folders))


@functools.cache
def load_library() -> ctypes.CDLL:
    """Loads the library, checks its ABI version and declares its functions.

    Calls through the result release the interpreter lock, so a thread that waits in
    `enginery_runtime_poll` stops no other.

    Raises:
        LibraryNotFoundError: the library is not there, cannot be loaded, or has another ABI.
    """
    candidates = candidate_paths()
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        looked_at = "".join(f"\n  {candidate}" for candidate in candidates)
        raise LibraryNotFoundError(
            f"{LIBRARY_NAME} was not found. Looked at:{looked_at}\n"
            "Build and install it with `pip install .` (or `pip install -e .`) in the source tree, "
            "or let ENGINERY_LIBRARY name the file."
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryNotFoundError(f"{path} cannot be loaded: {error}") from error
    for name, (result, arguments) in abi.FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise LibraryNotFoundError(
                f"{path} has no {name}: it is older than this Python package. Install again."
            ) from None
        function.restype = result
        function.argtypes = arguments
    version = library.enginery_abi_version()
    if version != abi.ABI_VERSION:
        raise LibraryNotFoundError(
            f"{path} has ABI version {version}; this Python package speaks {abi.ABI_VERSION}. "
            "Install both from the same source."
        )
    return library


def library_version() -> str:
    """Version of the loaded library, e.g. "0.1.0"."""
    return str(load_library().enginery_version().decode())


def check(status: int) -> None:
    """Raises the exception for `status`, with the calling thread's message, unless it is OK.

    Must follow the failing call on the same thread: the message is per thread.
    """
    if status == abi.OK:
        return
    message = load_library().enginery_last_error().decode("utf-8", "replace")
    raise error_of(abi.STATUS_NAMES.get(status, f"STATUS_{status}"), message)


def take_string(pointer: ctypes.c_void_p) -> str:
    """Copies a string that the library handed over, and frees it."""
    try:
        return ctypes.string_at(pointer.value or 0).decode("utf-8")
    finally:
        load_library().enginery_string_free(pointer)
