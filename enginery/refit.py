# SPDX-License-Identifier: Apache-2.0
"""New weights for an engine: those of a checkpoint of the same shape, and nothing is compiled."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.builder.build import PlannedBuild, plan_build
from enginery.builder.engine.container import Section, bytes_section
from enginery.builder.engine.directory import CONFIG_FILE, MANIFEST_FILE
from enginery.builder.engine.program import Program
from enginery.builder.engine.rank_file import WEIGHTS_SECTION
from enginery.builder.errors import OptionError, Problem
from enginery.builder.options import BuildRequest
from enginery.builder.progress import Progress
from enginery.runtime.engine import Engine

# What is written anew; every other section of the old file goes into the new one as it is.
WRITTEN_SECTIONS = ("program", "token_bytes", "weights")
TOKENIZER_FILE = "tokenizer.json"
# What a fine-tune may choose anew: nothing that is compiled knows of it.
SPECIAL_TOKENS = ("bos_token_id", "eos_token_ids", "pad_token_id")
# What a manifest says of compiled parts: these entries, and of `built_with` all but these.
COMPILED_ENTRIES = ("skus", "kernel_sources")
OWN_VERSIONS = ("enginery", "numpy", "python")


@dataclass(frozen=True)
class KeptArtifacts:
    """The compiled parts of an engine that is there; see `enginery.builder.targets.artifacts`.

    Attributes:
        kept: the sections of each rank, by rank.
        entries: what the old manifest says of them.
    """

    kept: tuple[tuple[Section, ...], ...]
    entries: dict[str, Any]

    def make(self, progress: Progress) -> None:
        """Does nothing: they are made."""

    def sections(self, rank: int) -> list[Section]:
        """The sections of a rank's file."""
        return list(self.kept[rank])

    def manifest(self) -> dict[str, Any]:
        """The old manifest's entries."""
        return self.entries


def plan_refit(
    engine_path: Path, model: Path, output: Path, *, overwrite: bool = False
) -> tuple[PlannedBuild, KeptArtifacts]:
    """Plans an engine with the compiled parts of one engine and the weights of a checkpoint.

    Args:
        engine_path: an engine directory.
        model: a checkpoint whose build with the engine's options has the same program.
        output: the engine directory to write.
        overwrite: whether an engine that is in `output` may be replaced.

    Returns:
        What `enginery.builder.build.build` takes.

    Raises:
        OptionError: the checkpoint has another shape, or the engine directory lacks a description.
        BuildError: what `build-engine` would say of the checkpoint.
        EngineryError: the engine cannot be opened.
    """
    with Engine.open(engine_path) as engine:
        request = _request(engine_path, engine, model, output, overwrite)
        planned = plan_build(request)
        for rank, payload in enumerate(planned.payloads):
            program = _with_special_tokens(payload.program, engine.describe(rank)["attributes"])
            if program.encode(WEIGHTS_SECTION) != engine.section("program", rank).tobytes():
                raise _differs(engine_path, engine, planned)
        ranks = range(engine.info.tp_size)
        kept = tuple(_kept_sections(engine, rank) for rank in ranks)
    return planned, KeptArtifacts(kept, _compiled_entries(_read_json(engine_path, MANIFEST_FILE)))


def _request(
    engine_path: Path, engine: Engine, model: Path, output: Path, overwrite: bool
) -> BuildRequest:
    """The options that the engine was built with, for another checkpoint."""
    info = engine.info
    pretrained = _read_json(engine_path, CONFIG_FILE).get("pretrained_config", {})
    excluded = pretrained.get("quantization", {}).get("exclude_modules", [])
    return BuildRequest(
        model=model,
        output=output,
        sku=",".join(engine.skus),
        dtype=info.dtype,
        qformat=info.qformat,
        tp_size=info.tp_size,
        max_batch_size=info.max_batch_size,
        max_num_tokens=info.max_num_tokens,
        max_seq_len=info.max_seq_len,
        max_input_len=info.max_input_len,
        tokens_per_block=info.tokens_per_block,
        kv_cache_dtype=info.kv_cache_dtype,
        exclude_modules=tuple(map(str, excluded)),
        overwrite=overwrite,
        skip_tokenizer=not (engine_path / TOKENIZER_FILE).exists(),
    )


def _with_special_tokens(program: Program, attributes: dict[str, Any]) -> Program:
    """The program with the engine's special tokens, so that the rest can be compared."""
    old = {name: attributes[name] for name in SPECIAL_TOKENS}
    old = {name: tuple(ids) if isinstance(ids, list) else ids for name, ids in old.items()}
    return dataclasses.replace(program, attributes=dict(program.attributes) | old)


def _kept_sections(engine: Engine, rank: int) -> tuple[Section, ...]:
    return tuple(
        bytes_section(section["name"], engine.section(section["name"], rank).tobytes())
        for section in engine.describe(rank)["sections"]
        if section["name"] not in WRITTEN_SECTIONS
    )


def _compiled_entries(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the target's artifacts said of themselves when the engine was built."""
    versions = manifest.get("built_with", {}).items()
    built_with = {name: version for name, version in versions if name not in OWN_VERSIONS}
    entries = {name: manifest[name] for name in COMPILED_ENTRIES if name in manifest}
    return entries | ({"built_with": built_with} if built_with else {})


def _differs(engine_path: Path, engine: Engine, planned: PlannedBuild) -> OptionError:
    """Says in what the checkpoint is not of the engine's shape."""
    described = engine.describe()
    old, new = described["attributes"], planned.payloads[0].program.attributes
    for name, value in old.items():
        if name in SPECIAL_TOKENS:
            continue
        attribute = new.get(name)
        given = list(attribute) if isinstance(attribute, tuple) else attribute
        if given != value:
            what = f"{name} is {given}, the engine's is {value}"
            break
    else:
        shapes = {tensor["name"]: tuple(tensor["shape"]) for tensor in described["tensors"]}
        tensors = {tensor.name: tensor.shape for tensor in planned.payloads[0].program.tensors}
        names = [name for name in shapes | tensors if shapes.get(name) != tensors.get(name)]
        what = "the builder's version, the norms' epsilon or the rotary embedding is another"
        if names:
            name = names[0]
            what = f"{name} has shape {tensors.get(name)}, in the engine {shapes.get(name)}"
    fix = "refit takes a checkpoint of the same shape; build a new engine with build-engine"
    problem = Problem("model", f"does not fit the engine {engine_path}: {what}", fix)
    return OptionError("options", [problem])


def _read_json(engine_path: Path, name: str) -> dict[str, Any]:
    try:
        loaded = json.loads((engine_path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem("engine", f"{engine_path / name} cannot be read: {error}")
        raise OptionError("options", [problem]) from None
    if not isinstance(loaded, dict):
        raise OptionError("options", [Problem("engine", f"{engine_path / name} is not an object")])
    return loaded
