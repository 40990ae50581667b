# SPDX-License-Identifier: Apache-2.0
"""Compares a checkpoint's tensors with those that its network reads."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from enginery.builder.checkpoint.checkpoint import Checkpoint, unsupported_dtypes
from enginery.builder.checkpoint.scales import (
    SCALE,
    input_scale_name,
    kv_scale_name,
    scale_problem,
    weight_scale_name,
)
from enginery.builder.errors import CheckpointError, Problems
from enginery.builder.models.decoder import EMBEDDING, LM_HEAD
from enginery.builder.network.network import Network
from enginery.builder.network.weight import Weight
from enginery.quantization import SCHEMES, Scheme

# Buffers that older versions of transformers saved although they follow from the configuration.
IGNORED = re.compile(r"^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")
COMPARED_ROWS = 4096


@dataclass(frozen=True)
class CheckedTensors:
    """What the check found.

    Attributes:
        scales: the calibrated scales that the build reads.
        notes: what is left unread or assumed, and why, for the user.
    """

    scales: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_tensors(
    checkpoint: Checkpoint, network: Network, qformat: str = "none", kv_cache_dtype: str = "auto"
) -> CheckedTensors:
    """Checks that a plain network's weights are all there, in their shapes, and nothing else is.

    Args:
        checkpoint: the weights.
        network: before any pass, so that each weight is one tensor of the checkpoint.
        qformat: says whether activations need scales.
        kv_cache_dtype: says whether keys and values need scales: "int8" does, "fp8" takes those
            that are there and 1 for the others.

    Raises:
        CheckpointError: with every missing, unexpected, misshapen or unreadable tensor.
    """
    problems = Problems(str(checkpoint.directory), CheckpointError)
    expected = {
        operand.name: operand.shape
        for node in network.nodes
        for operand in node.inputs
        if isinstance(operand, Weight)
    }
    for name, shape in expected.items():
        if name not in checkpoint.tensors:
            problems.add(name, f"is missing; {list(shape)} is expected")
        elif checkpoint.tensors[name].shape != shape:
            found = list(checkpoint.tensors[name].shape)
            problems.add(name, f"has shape {found}; config.json makes it {list(shape)}")
    input_scales, kv_scales = _scale_names(network)
    read = _check_scales_are_there(
        checkpoint, problems, input_scales, kv_scales, qformat, kv_cache_dtype
    )
    stored_codes = [n for n in expected if _is_fp8(checkpoint, n)]
    read += _check_stored_codes(checkpoint, problems, stored_codes, input_scales, qformat)
    known = {*expected, *input_scales, *kv_scales, *map(weight_scale_name, stored_codes)}
    for name in checkpoint.tensors:
        is_tied_copy = network.config.tie_word_embeddings and name == LM_HEAD
        if name not in known and not is_tied_copy and not IGNORED.match(name):
            problems.add(name, f"is unexpected in a {network.config.family.architecture}")
    values = {*expected, *read}.difference(stored_codes)
    needed = {name: info for name, info in checkpoint.tensors.items() if name in values}
    problems.found += unsupported_dtypes(needed)
    problems.raise_if_any()
    if network.config.tie_word_embeddings and LM_HEAD in checkpoint.tensors:
        _check_tied_copy(checkpoint, problems)
        problems.raise_if_any()
    notes = _unread(checkpoint, read, qformat, kv_cache_dtype)
    lacking = [name for name in kv_scales if name not in checkpoint.tensors]
    if kv_cache_dtype == "fp8" and lacking:
        notes += (f"{len(lacking)} KV cache scales are not in the checkpoint: 1 is taken for them",)
    return CheckedTensors(tuple(read), notes)


def _scale_names(network: Network) -> tuple[list[str], list[str]]:
    """Names that scales of activations and of the KV cache have where they are given."""
    linears = [node.weight(1).name for node in network.nodes if node.op == "linear"]
    layers = range(network.config.num_layers)
    # A tied output projection has a module, though its weight is the embedding's.
    names = [LM_HEAD if name == EMBEDDING else name for name in linears]
    return (
        [input_scale_name(name) for name in names],
        [kv_scale_name(layer, which) for layer in layers for which in "kv"],
    )


def _check_scales_are_there(
    checkpoint: Checkpoint,
    problems: Problems,
    input_scales: list[str],
    kv_scales: list[str],
    qformat: str,
    kv_cache_dtype: str,
) -> list[str]:
    """Returns the scales to read, having noted those that are missing or misshapen."""
    scheme, read = SCHEMES[qformat], []
    if scheme.has_input_scales:
        kept = () if scheme.quantizes_lm_head else (input_scale_name(LM_HEAD),)
        read += [name for name in input_scales if name not in kept]
    if kv_cache_dtype == "int8":
        read += kv_scales
    elif kv_cache_dtype == "fp8":
        read += [name for name in kv_scales if name in checkpoint.tensors]
    missing = [name for name in read if name not in checkpoint.tensors]
    kinds = {
        f"qformat {qformat}": [name for name in missing if name in input_scales],
        f"kv_cache_dtype {kv_cache_dtype}": [name for name in missing if name in kv_scales],
    }
    for option, names in kinds.items():
        if names:
            instead = "--kv_cache_dtype auto"
            if option.startswith("qformat"):
                instead = f"--qformat {_nearest_without_scales(scheme)}"
            problems.add(
                names[0],
                f"is missing, with {len(names) - 1} more: {option} takes calibrated scales",
                f"calibrate the checkpoint, or choose {instead}",
            )
    for name in read:
        if name in checkpoint.tensors:
            problem = scale_problem(name, checkpoint.tensors[name])
            problems.found += [] if problem is None else [problem]
    return [name for name in read if name in checkpoint.tensors]


def _is_fp8(checkpoint: Checkpoint, name: str) -> bool:
    return name in checkpoint.tensors and checkpoint.tensors[name].dtype == "F8_E4M3"


def _check_stored_codes(
    checkpoint: Checkpoint,
    problems: Problems,
    names: list[str],
    input_scales: list[str],
    qformat: str,
) -> list[str]:
    """Checks weights that are stored in FP8; returns the scales that belong to them."""
    read = []
    for name in names:
        scale = weight_scale_name(name)
        if input_scale_name(name) not in input_scales or name == LM_HEAD:
            problems.add(
                name, "is stored in FP8; only weights of the layers' linear modules may be"
            )
        elif qformat != "fp8":
            problems.add(
                name,
                f"is stored in FP8, which qformat {qformat} does not keep",
                "choose --qformat fp8, or give the original checkpoint",
            )
        elif scale not in checkpoint.tensors:
            problems.add(scale, f"is missing; {name} is stored in FP8")
        elif problem := scale_problem(scale, checkpoint.tensors[scale]):
            problems.found.append(problem)
        else:
            read.append(scale)
    return read


def _nearest_without_scales(scheme: Scheme) -> str:
    """The nearest scheme of the same targets that a checkpoint without scales can be built in."""
    near = [SCHEMES[name] for name in scheme.nearest]
    return next(
        other.name
        for other in near
        if not other.has_input_scales and set(scheme.targets) <= set(other.targets)
    )


def _unread(
    checkpoint: Checkpoint, read: list[str], qformat: str, kv_cache_dtype: str
) -> tuple[str, ...]:
    """Says which scales of the checkpoint the build leaves unread."""
    unread = [name for name in checkpoint.tensors if SCALE.search(name) and name not in read]
    activations = [name for name in unread if name.endswith(".input_scale")]
    notes = []
    if activations:
        reason = "leaves these layers in the build dtype"
        if not SCHEMES[qformat].has_input_scales:
            reason = "does not quantise activations by calibrated scales"
        notes.append(
            f"{len(activations)} activation scales of the checkpoint ({activations[0]}, ...) are "
            f"not read: qformat {qformat} {reason}"
        )
    if len(unread) > len(activations):
        notes.append(
            f"{len(unread) - len(activations)} KV cache scales of the checkpoint are not read: "
            f"the KV cache is {kv_cache_dtype}"
        )
    return tuple(notes)


def _check_tied_copy(checkpoint: Checkpoint, problems: Problems) -> None:
    """A tied output projection that was saved all the same must be the embedding."""
    embedding, lm_head = checkpoint.tensors[EMBEDDING], checkpoint.tensors[LM_HEAD]
    is_equal = embedding == lm_head and all(
        np.array_equal(
            checkpoint.read(EMBEDDING, slice(begin, begin + COMPARED_ROWS)),
            checkpoint.read(LM_HEAD, slice(begin, begin + COMPARED_ROWS)),
        )
        for begin in range(0, embedding.shape[0], COMPARED_ROWS)
    )
    if not is_equal:
        problems.add(
            LM_HEAD,
            f"differs from {EMBEDDING}, though config.json says tie_word_embeddings",
            "set tie_word_embeddings to false if the model was trained so",
        )
