# SPDX-License-Identifier: Apache-2.0
"""ZIP archives in sections of an engine: members stored as they are, read and checked."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import numpy.typing as npt

from ..errors import EngineFileError


def invalid(what: str, problem: str) -> EngineFileError:
    """The error of a section whose contents break the format."""
    return EngineFileError(f"{what}: {problem}", "INVALID_SECTION")


def read_archive(section: npt.NDArray[np.uint8], what: str) -> dict[str, bytes]:
    """Returns the members of an archive by name.

    Args:
        section: uint8 [num_bytes], not trusted.
        what: names the section in errors.

    Raises:
        EngineFileError: not a ZIP archive; a member is compressed, encrypted, damaged or there
            twice; or the members claim more bytes than the section has.
    """
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(section.tobytes())) as archive:
            left = section.size
            for entry in archive.infolist():
                name = entry.filename
                if name in members:
                    raise invalid(what, f"member {name!r} is there twice")
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise invalid(what, f"member {name!r} is compressed or encrypted; store it")
                if entry.file_size != entry.compress_size or entry.file_size > left:
                    raise invalid(
                        what,
                        f"member {name!r} claims {entry.file_size} bytes, {entry.compress_size} "
                        f"stored; {left} bytes of the section are left",
                    )
                left -= entry.file_size
                members[name] = archive.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as error:
        raise invalid(what, f"not a sound ZIP archive: {error}") from error
    return members
