# SPDX-License-Identifier: Apache-2.0
"""The whole way from a checkpoint to an engine directory.

`plan_build` goes it up to the point where weights are read: configuration, network, passes,
sharding, target, memory plan. `build` compiles, quantises, packs and writes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from enginery.builder.cache import Cache, default_cache_dir
from enginery.builder.checkpoint.checkpoint import Checkpoint, has_weights
from enginery.builder.checkpoint.config import ModelConfig, read_config
from enginery.builder.checkpoint.expected import check_tensors
from enginery.builder.checkpoint.quantized import CheckedTensors
from enginery.builder.checkpoint.scales import check_scales
from enginery.builder.engine.calibration_record import read_calibration_record
from enginery.builder.engine.container import Header
from enginery.builder.engine.description import checkpoint_identity, engine_config, manifest
from enginery.builder.engine.directory import (
    CONFIG_FILE,
    MANIFEST_FILE,
    EngineDirectory,
    check_output,
)
from enginery.builder.engine.rank_file import rank_file_name, write_rank_file
from enginery.builder.exclusion import (
    excluded_weights,
    linear_nodes,
    module_of,
    whole_stacks,
)
from enginery.builder.memory_plan import MemoryPlan, Workspace, plan_memory
from enginery.builder.models.decoder import build_decoder
from enginery.builder.network.network import Network
from enginery.builder.network.passes.fuse_gate_up import fuse_gate_up
from enginery.builder.network.passes.fuse_qkv import fuse_qkv
from enginery.builder.network.passes.fuse_residual import fuse_residual
from enginery.builder.network.passes.quantize import quantize
from enginery.builder.network.passes.smooth import smooth
from enginery.builder.network.passes.split_zero_points import split_zero_points
from enginery.builder.network.verifier import verify
from enginery.builder.options import ENGINE_DTYPES, BuildOptions, BuildRequest, resolve_options
from enginery.builder.progress import WEIGHTS, Progress, no_progress
from enginery.builder.sharding.mapping import Mapping
from enginery.builder.sharding.shard import check_shardable, shard
from enginery.builder.sku import Sku, load_skus
from enginery.builder.targets.artifacts import Artifacts
from enginery.builder.targets.registry import TARGETS
from enginery.builder.targets.target import Payload, Target
from enginery.builder.tokenizer.vocabulary import UNUSED, TokenText, read_vocabulary
from enginery.quantization import SCHEMES

# Copied beside the engine, where they are there, for whoever makes prompts for it.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


SEVERAL_SKUS = "several"  # in the header of an engine that is built for more than one


@dataclass(frozen=True)
class PlannedBuild:
    """Everything about a build that is decided before a weight is read.

    Attributes:
        request: what was asked for.
        options: what that comes to.
        config: the model.
        skus: the hardware, one or more of one target.
        target: what it is lowered to.
        network: after all passes, of the whole model.
        payloads: the lowered network of each rank.
        tokens: the vocabulary's bytes.
        plans: memory of the engine when it runs, for each SKU.
        checked: what the checkpoint brings for the scheme; None where it has no weights, only a
            configuration, of which a plan can be made all the same.
    """

    request: BuildRequest
    options: BuildOptions
    config: ModelConfig
    skus: tuple[Sku, ...]
    target: Target
    network: Network
    payloads: tuple[Payload, ...]
    tokens: tuple[TokenText, ...]
    plans: tuple[MemoryPlan, ...]
    checked: CheckedTensors | None

    @property
    def sku(self) -> Sku:
        """The SKU with the least memory."""
        return self.skus[self.plans.index(self.plan)]

    @property
    def plan(self) -> MemoryPlan:
        """Memory on the SKU that has least of it."""
        return min(self.plans, key=lambda plan: plan.memory_bytes)

    @property
    def weight_bytes(self) -> int:
        """Packed weights of all ranks."""
        tensors = [tensor for payload in self.payloads for tensor in payload.program.tensors]
        return sum(tensor.num_bytes for tensor in tensors)

    @property
    def has_weights(self) -> bool:
        """Whether the checkpoint's weights are there."""
        return self.checked is not None

    @property
    def excluded_modules(self) -> tuple[str, ...]:
        """Linear modules that stay in the build dtype though the scheme quantises their kind."""
        excluded = frozenset() if self.checked is None else self.checked.excluded
        linears = linear_nodes(build_decoder(self.config))
        return tuple(module_of(node) for node in linears if node.weight(1).name in excluded)

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the checkpoint is left unread, and why."""
        return () if self.checked is None else self.checked.notes


@dataclass(frozen=True)
class BuildSummary:
    """What a build took and gave.

    Attributes:
        output: the engine directory.
        seconds: wall time.
        largest_tensor_bytes: sizes in the checkpoint of its two largest tensors.
        file_bytes: size of each rank's file.
    """

    output: Path
    seconds: float
    largest_tensor_bytes: tuple[int, ...]
    file_bytes: tuple[int, ...]


def plan_build(request: BuildRequest, *, reads_weights: bool = True) -> PlannedBuild:
    """Does all of a build but reading weights: every check, the lowered network, the memory plan.

    Args:
        request: the options as given.
        reads_weights: whether the checkpoint's tensors are checked where they are there; without,
            the plan is one of the configuration alone and cannot be built.

    Raises:
        BuildError: one of its subclasses, by what is wrong.
    """
    skus = load_skus(request.sku)
    config = read_config(request.model)
    options = resolve_options(request, config, skus)
    check_shardable(config, options.tp_size)
    if request.output is not None:
        check_output(request.output, overwrite=request.overwrite)

    plain = verify(build_decoder(config), after="models")
    excluded = excluded_weights(plain, options.exclude_modules)
    checked = None
    if reads_weights and (request.output is not None or has_weights(request.model)):
        with Checkpoint(request.model, config.stored_as) as checkpoint:
            checked = check_tensors(
                checkpoint, plain, options.qformat, options.kv_cache_dtype, excluded
            )
    found = checked or CheckedTensors(excluded=whole_stacks(plain, excluded))
    network = run_passes(plain, options, found)

    mappings = [Mapping(options.tp_size, rank) for rank in range(options.tp_size)]
    parts = [_part(network, mapping, found) for mapping in mappings]
    target = TARGETS[skus[0].target]
    payloads = tuple(target.lower(part, options) for part in parts)

    programs = [payload.program for payload in payloads]
    workspaces = [target.workspace(payload, options) for payload in payloads]
    plans = tuple(
        plan_memory(network, programs, options, sku, request.kv_cache_bytes, _largest(workspaces))
        for sku in skus
    )
    tokens = _vocabulary(request, config, checked is not None)
    return PlannedBuild(
        request, options, config, skus, target, network, payloads, tokens, plans, checked
    )


def run_passes(
    network: Network, options: BuildOptions, checked: CheckedTensors | None = None
) -> Network:
    """Runs all rewrites in order, verifying the network after each.

    Args:
        network: plain.
        options: dtype and scheme.
        checked: what the checkpoint brings; None: nothing but values.
    """
    checked = checked or CheckedTensors()
    network = verify(smooth(network, checked.smoothed), after="smooth")
    network = verify(fuse_qkv(network), after="fuse_qkv")
    network = verify(fuse_gate_up(network), after="fuse_gate_up")
    network = verify(fuse_residual(network), after="fuse_residual")
    dtype, scheme = ENGINE_DTYPES[options.dtype], SCHEMES[options.qformat]
    network = quantize(network, dtype, scheme, checked.excluded, checked.block_size)
    return verify(network, after="quantize")


def _part(network: Network, mapping: Mapping, checked: CheckedTensors) -> Network:
    """A rank's part of a network after all passes."""
    part = verify(shard(network, mapping), after="sharding")
    return verify(split_zero_points(part, checked.with_zero_points), after="split_zero_points")


def build(
    planned: PlannedBuild,
    progress: Progress = no_progress,
    artifacts: Artifacts | None = None,
    examine: Callable[[Path], object] | None = None,
) -> BuildSummary:
    """Reads, quantises and packs the weights and writes the engine directory.

    Args:
        planned: from `plan_build`, of a request with an output.
        progress: called as the stages of the build go on.
        artifacts: compiled parts of an engine with the same programs; None: they are made.
        examine: called with the directory when all but its manifest is there. What it leaves there
            belongs to the engine; what it raises ends the build, and nothing is written.

    Raises:
        CheckpointError: a weight cannot be quantised or stored.
        OSError: a file cannot be read or written.
    """
    start = time.monotonic()
    request, options = planned.request, planned.options
    assert request.output is not None and planned.checked is not None
    version = importlib.metadata.version("enginery")
    calibration = read_calibration_record(request.model)
    with (
        Checkpoint(request.model, planned.config.stored_as) as checkpoint,
        EngineDirectory(request.output, overwrite=request.overwrite) as directory,
        ThreadPoolExecutor(1) as background,
    ):
        identity = background.submit(checkpoint_identity, request.model, checkpoint.files)
        check_scales(checkpoint, planned.checked.scales)
        # Compilation first: what it refuses is told before gigabytes are written.
        artifacts = artifacts_of(planned) if artifacts is None else artifacts
        progress(WEIGHTS, 0, planned.weight_bytes)
        artifacts.make(progress)
        file_bytes = _write_ranks(planned, artifacts, checkpoint, directory.path, version, progress)
        directory.write_json(
            CONFIG_FILE, engine_config(planned.config, options, planned.excluded_modules, version)
        )
        if not request.skip_tokenizer:
            _copy_tokenizer(request.model, directory.path)
        if examine is not None:
            examine(directory.path)
        description = manifest(
            directory.path,
            target=planned.target.name,
            variant=planned.payloads[0].variant,
            options=options,
            checkpoint=identity.result(),
            calibration=calibration,
            plans={sku.name: plan for sku, plan in zip(planned.skus, planned.plans, strict=True)},
            version=version,
            compiled=artifacts.manifest(),
        )
        directory.write_json(MANIFEST_FILE, description)
        largest = sorted(checkpoint.tensor_bytes().values(), reverse=True)[:2]
        directory.commit()
    seconds = time.monotonic() - start
    return BuildSummary(directory.output, seconds, tuple(largest), tuple(file_bytes))


def artifacts_of(planned: PlannedBuild) -> Artifacts:
    """What the target compiles for the engine, not compiled yet."""
    request = planned.request
    cache = Cache(None if request.no_cache else request.cache_dir or default_cache_dir())
    return planned.target.artifacts(planned.payloads, planned.skus, planned.options, cache)


def _write_ranks(
    planned: PlannedBuild,
    artifacts: Artifacts,
    checkpoint: Checkpoint,
    directory: Path,
    version: str,
    progress: Progress,
) -> list[int]:
    """Writes the file of every rank, one after another, and returns their sizes."""
    total = planned.weight_bytes
    done = 0

    def on_written(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(WEIGHTS, done, total)

    file_bytes = []
    for rank, payload in enumerate(planned.payloads):
        path = directory / rank_file_name(rank)
        header = Header(
            target=planned.target.name,
            sku=planned.skus[0].name if len(planned.skus) == 1 else SEVERAL_SKUS,
            variant=payload.variant,
            tp_size=planned.options.tp_size,
            tp_rank=rank,
            builder_version=version,
        )
        pack = functools.partial(payload.pack, checkpoint)
        write_rank_file(
            path,
            header,
            payload.program,
            planned.tokens,
            pack,
            on_written,
            artifacts.sections(rank),
        )
        file_bytes.append(path.stat().st_size)
    return file_bytes


def _largest(workspaces: Sequence[Workspace]) -> Workspace:
    """That of the rank that needs most; ranks differ by no more than a bias."""
    return max(workspaces, key=lambda w: (w.token_row_bytes, w.logit_row_bytes, w.fixed_bytes))


def _vocabulary(
    request: BuildRequest, config: ModelConfig, is_complete: bool
) -> tuple[TokenText, ...]:
    if request.skip_tokenizer or not is_complete:
        return (UNUSED,) * config.vocab_size
    return tuple(read_vocabulary(request.model, config.vocab_size))


def _copy_tokenizer(model: Path, directory: Path) -> None:
    for name in TOKENIZER_FILES:
        if (model / name).exists():
            shutil.copyfile(model / name, directory / name)
