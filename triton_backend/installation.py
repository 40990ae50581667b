# SPDX-License-Identifier: Apache-2.0
"""Finds tritonserver in the `nvidia-pytriton` wheel and lays it out so that it runs."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import ServerError
from .native_backend import (
    BACKEND_NAME,
    HTTP_QUEUE_LIBRARY,
    find_library,
    native_backend_files,
)


@dataclass(frozen=True)
class Installation:
    """Where the wheel put its parts.

    Attributes:
        binary: tritonserver.
        python_backend: the Python backend without its stub.
        stub: the process that runs a Python model, for the version of this interpreter.
        libraries: shared libraries of the binary.
    """

    binary: Path
    python_backend: Path
    stub: Path
    libraries: Path

    def assemble_backends(self, folder: Path) -> None:
        """Fills the new directory `folder` for `--backend-directory`.

        The wheel keeps the stubs, one per Python version, apart from the backend; the backend
        looks for the stub beside itself. The native backend and the runtime that it needs become
        a folder of their own where this installation has them.
        """
        _link(folder / "python", [*self.python_backend.iterdir(), self.stub])
        if files := native_backend_files():
            _link(folder / BACKEND_NAME, files)

    def environment(self) -> dict[str, str]:
        """This process's environment with the libraries that the binary and the stub need.

        What is preloaded keeps tritonserver from losing answers over HTTP, where this installation
        has it.
        """
        paths = [str(self.libraries), os.environ.get("LD_LIBRARY_PATH")]
        preloaded = [os.environ.get("LD_PRELOAD")]
        if library := find_library(HTTP_QUEUE_LIBRARY):
            # By its name: a path may hold a space, which separates names.
            paths.append(str(library.parent))
            preloaded.append(library.name)
        # The stub links libpython, which a Python outside the system's folders keeps to itself.
        folder, name = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
        if ".so" in name and (Path(folder) / name).exists():
            paths.append(folder)
        return {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(filter(None, paths)),
            "LD_PRELOAD": ":".join(filter(None, preloaded)),
        }


def _link(folder: Path, files: Iterable[Path]) -> None:
    """Fills a new directory with links to the files."""
    folder.mkdir(parents=True)
    for source in files:
        if source.is_file():
            (folder / source.name).symlink_to(source)


def find_tritonserver() -> Installation:
    """The server of the wheel that is installed beside this package.

    Raises:
        ServerError: it is not there, has no stub for this Python, or numpy is too new for it.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError("tritonserver is not installed; pip install 'enginery[serve]' brings it")
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    stubs = root / "python_backend_stubs"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = Installation(
        binary=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=stubs / version / "triton_python_backend_stub",
        libraries=package.parent / "nvidia_pytriton.libs",
    )
    for path in (found.binary, found.python_backend, found.libraries):
        if not path.exists():
            raise ServerError(
                f"nvidia-pytriton is installed without {path}; install enginery[serve] again"
            )
    if not found.stub.exists():
        versions = ", ".join(sorted(path.name for path in stubs.iterdir()))
        raise ServerError(f"nvidia-pytriton serves Python {versions}; this is Python {version}")
    import numpy as np

    if int(np.__version__.split(".")[0]) >= 2:
        raise ServerError(
            f"numpy {np.__version__}: with numpy 2 Triton server's Python backend hands over empty "
            "tensors; pip install 'numpy<2'"
        )
    return found
