# SPDX-License-Identifier: Apache-2.0
"""Compares a checkpoint's tensors with those that its network reads."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from enginery.builder.checkpoint.checkpoint import Checkpoint, unsupported_dtypes
from enginery.builder.checkpoint.quantized import CheckedTensors, check_quantized
from enginery.builder.errors import CheckpointError, Problems
from enginery.builder.models.decoder import EMBEDDING, LM_HEAD
from enginery.builder.network.network import Network
from enginery.builder.network.weight import Weight

# Buffers that older versions of transformers saved although they follow from the configuration.
IGNORED = re.compile(r"^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")
COMPARED_ROWS = 4096


def check_tensors(
    checkpoint: Checkpoint,
    network: Network,
    qformat: str = "none",
    kv_cache_dtype: str = "auto",
    excluded: Collection[str] = (),
) -> CheckedTensors:
    """Checks that a plain network's weights are all there, in their shapes, and nothing else is.

    Args:
        checkpoint: the weights.
        network: before any pass, so that each weight is one tensor of the checkpoint.
        qformat: says whether activations need scales, and whether weights must be codes already.
        kv_cache_dtype: says whether keys and values need scales: "int8" does, "fp8" takes those
            that are there and 1 for the others.
        excluded: weights that the build leaves in its dtype.

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
    checked, known = check_quantized(
        checkpoint, network, problems, qformat, kv_cache_dtype, excluded
    )
    for name in checkpoint.tensors:
        is_tied_copy = network.config.tie_word_embeddings and name == LM_HEAD
        is_known = name in expected or name in known or name in checkpoint.surplus
        if not is_known and not is_tied_copy and not IGNORED.match(name):
            problems.add(name, f"is unexpected in a {network.config.family.architecture}")
    values = {*expected, *checked.scales}.difference(checkpoint.stored)
    needed = {name: info for name, info in checkpoint.tensors.items() if name in values}
    problems.found += unsupported_dtypes(needed)
    problems.raise_if_any()
    if network.config.tie_word_embeddings and LM_HEAD in checkpoint.tensors:
        _check_tied_copy(checkpoint, problems)
        problems.raise_if_any()
    return checked


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
