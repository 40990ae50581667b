# SPDX-License-Identifier: Apache-2.0
"""Versions of the packages that take part in a build, without importing them."""

from __future__ import annotations

import importlib.metadata


def package_version(name: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
