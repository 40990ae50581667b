# SPDX-License-Identifier: Apache-2.0
"""Compares an engine directory with its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from enginery.builder.checkpoint.fields import read_json_object
from enginery.builder.engine.directory import MANIFEST_FILE, MANIFEST_KIND
from enginery.builder.errors import EngineFileError, Problem, Problems
from enginery.builder.hashing import sha256_of_file


def read_manifest(directory: Path) -> dict[str, Any]:
    """Reads `manifest.json`.

    Raises:
        EngineFileError: it is missing, malformed or not of an engine of ours.
    """
    fix = "name an engine directory"
    manifest = read_json_object(directory / MANIFEST_FILE, EngineFileError, fix=fix)
    if manifest.get("kind") != MANIFEST_KIND or not isinstance(manifest.get("files"), list):
        problem = Problem(MANIFEST_FILE, "is not that of an engine", fix)
        raise EngineFileError(str(directory), [problem])
    return manifest


def check_entries(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Checks the entries of a manifest that are shown to people.

    Raises:
        EngineFileError: with every one that is missing or malformed.
    """
    problems = Problems(str(directory), EngineFileError)
    checkpoint = manifest.get("checkpoint")
    if not (
        _has_strings(checkpoint, "name", "config_sha256")
        and isinstance(weights := checkpoint.get("weights"), list)
        and all(_has_strings(file, "name", "sha256") for file in weights)
    ):
        problems.add(MANIFEST_FILE, "has no entry checkpoint, or a malformed one")
    if not _is_plan(manifest.get("memory_plan")):
        problems.add(MANIFEST_FILE, "has no entry memory_plan, or a malformed one")
    plans = manifest.get("memory_plans", {})
    if not (isinstance(plans, dict) and all(map(_is_plan, plans.values()))):
        problems.add(MANIFEST_FILE, "has a malformed entry memory_plans")
    problems.raise_if_any()


def _has_strings(value: Any, *names: str) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in names)


def _is_plan(value: Any) -> bool:
    return isinstance(value, dict) and all(type(size) is int for size in value.values())


def verify_files(directory: Path, report: Callable[[str, int], None]) -> None:
    """Checks that every file of the manifest has the size and hash that stand there.

    Args:
        directory: of the engine.
        report: called with name and size of each file that was found in order.

    Raises:
        EngineFileError: with every file that is missing, changed, or not in the manifest.
    """
    problems = Problems(str(directory), EngineFileError)
    known = {MANIFEST_FILE}
    for entry in read_manifest(directory)["files"]:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or Path(name).name != name or name in known:
            problems.add(MANIFEST_FILE, f"has the malformed entry {entry!r}")
            continue
        known.add(name)
        if _check_file(directory / name, entry, problems):
            report(name, entry["bytes"])
    for path in sorted(directory.iterdir()):
        if path.name.startswith("rank") and path.suffix == ".engine" and path.name not in known:
            problems.add(path.name, "is not in the manifest")
    problems.raise_if_any()


def _check_file(path: Path, entry: dict[str, Any], problems: Problems) -> bool:
    if not path.is_file():
        problems.add(path.name, "is missing")
        return False
    size = path.stat().st_size
    if size != entry.get("bytes"):
        problems.add(path.name, f"is {size} bytes long; the manifest says {entry.get('bytes')}")
        return False
    if sha256_of_file(path) != entry.get("sha256"):
        problems.add(path.name, "was changed: its SHA-256 is not that of the manifest")
        return False
    return True
