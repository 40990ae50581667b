# SPDX-License-Identifier: Apache-2.0
"""What calibration left in a checkpoint: codes, scales and smoothing, beside what a build takes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from enginery.builder.checkpoint.checkpoint import Checkpoint, pre_quant_scale_name
from enginery.builder.checkpoint.imports.stored_weight import StoredWeight
from enginery.builder.checkpoint.scales import (
    SCALE,
    input_scale_name,
    kv_scale_name,
    scale_problem,
    weight_scale_2_name,
)
from enginery.builder.errors import Problems
from enginery.builder.exclusion import linear_nodes, stacks, whole_stacks
from enginery.builder.models.decoder import EMBEDDING, LM_HEAD
from enginery.builder.network.network import Network
from enginery.builder.refusals import nearest_without_scales
from enginery.quantization import INT4_BLOCK, INT4_BLOCKS, SCHEMES

CALIBRATE = "give --calib_dataset FILE, or calibrate the checkpoint with `enginery quantize`"
CODE_NAMES = {"I8": "INT8", "I4": "INT4", "F8_E4M3": "FP8"}
OF_WEIGHT_DTYPE = {"i8": "I8", "i4": "I4", "f8e4m3": "F8_E4M3"}


@dataclass(frozen=True)
class CheckedTensors:
    """What the check of a checkpoint found.

    Attributes:
        scales: the calibrated scales that the build reads, one number or one per channel.
        notes: what is left unread or assumed, and why, for the user.
        excluded: weights that the build leaves in its dtype: as it was told, and where codes are
            kept those that the checkpoint has none of.
        smoothed: weights whose layers' inputs are multiplied by a `pre_quant_scale`.
        with_zero_points: weights whose codes, which are kept, have zero points.
        block_size: inputs that share a scale of INT4 weights: as many as the groups of the codes
            that are kept allow.
    """

    scales: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    smoothed: frozenset[str] = frozenset()
    with_zero_points: frozenset[str] = frozenset()
    block_size: int = INT4_BLOCK


def check_quantized(
    checkpoint: Checkpoint,
    network: Network,
    problems: Problems,
    qformat: str,
    kv_cache_dtype: str,
    excluded: Collection[str],
) -> tuple[CheckedTensors, frozenset[str]]:
    """Compares what calibration left with what a build takes.

    Args:
        checkpoint: the weights.
        network: plain.
        problems: gets whatever is missing, misshapen or of the wrong kind.
        qformat: scheme of the build.
        kv_cache_dtype: likewise.
        excluded: weights that the build is told to leave in its dtype.

    Returns:
        What was found, and the names of all tensors that calibration may leave.
    """
    check = _Check(checkpoint, network, problems, qformat, kv_cache_dtype, frozenset(excluded))
    return check.run(), frozenset(check.known)


class _Check:
    def __init__(
        self,
        checkpoint: Checkpoint,
        network: Network,
        problems: Problems,
        qformat: str,
        kv_cache_dtype: str,
        excluded: frozenset[str],
    ) -> None:
        self.checkpoint = checkpoint
        self.network = network
        self.problems = problems
        self.qformat = qformat
        self.scheme = SCHEMES[qformat]
        self.kv_cache_dtype = kv_cache_dtype
        self.weights = [node.weight(1).name for node in linear_nodes(network)]
        layers = range(network.config.num_layers)
        self.kv_scales = [kv_scale_name(layer, which) for layer in layers for which in "kv"]
        # A tied output projection has a module, though its weight is the embedding's.
        modules = [LM_HEAD if name == EMBEDDING else name for name in self.weights]
        self.input_scales = dict(zip(self.weights, map(input_scale_name, modules), strict=True))
        self.known = {
            *self.kv_scales,
            *self.input_scales.values(),
            *map(pre_quant_scale_name, self.weights),
            *map(weight_scale_2_name, self.weights),
        }
        sizes = (weight.block_size for weight in checkpoint.stored.values())
        self.block_size = min((size for size in sizes if size is not None), default=INT4_BLOCK)
        self.told = excluded
        self.excluded = self._excluded()

    def run(self) -> CheckedTensors:
        """Goes through scales, smoothing and codes."""
        smoothed = self._smoothed()
        scales = self._scales()
        self._check_codes()
        notes = [*self._exclusion_notes(), *self._code_notes(), *self._unread(scales)]
        lacking = [name for name in self.kv_scales if name not in self.checkpoint.tensors]
        if self.kv_cache_dtype == "fp8" and lacking:
            notes.append(
                f"{len(lacking)} KV cache scales are not in the checkpoint: 1 is taken for them"
            )
        return CheckedTensors(
            (*scales, *map(pre_quant_scale_name, sorted(smoothed))),
            tuple(notes),
            self.excluded,
            smoothed,
            self._with_zero_points(),
            self.block_size,
        )

    def _with_zero_points(self) -> frozenset[str]:
        """Weights with zero points beside codes that are kept; refused beside FP8 activations."""
        found = frozenset(
            name
            for name, stored in self.checkpoint.stored.items()
            if stored.has_zero_points and name not in self.excluded and self._is_kept(stored)
        )
        if found and self.scheme.has_input_scales:
            self.problems.add(
                min(found),
                f"has zero points, as {len(found) - 1} more; qformat {self.qformat} takes "
                "symmetric codes",
                "choose --qformat int4_wo or w4a8_dynamic",
            )
        return found

    def _is_kept(self, stored: StoredWeight) -> bool:
        dtype = self.scheme.weight_dtype
        return dtype is not None and stored.keeps_codes(dtype, self.block_size)

    def _excluded(self) -> frozenset[str]:
        """What the build was told, and where it keeps codes what the checkpoint excluded."""
        excluded = self.told
        stored = self.checkpoint.stored
        dtype = OF_WEIGHT_DTYPE.get(self.scheme.weight_dtype or "")
        if dtype is not None and any(weight.dtype == dtype for weight in stored.values()):
            excluded |= {
                node.weight(1).name
                for node in linear_nodes(self.network)
                if node.weight(1).name not in stored and self._is_of_codes(node.output.name)
            }
        return whole_stacks(self.network, excluded)

    def _smoothed(self) -> frozenset[str]:
        """The weights of layers whose inputs have factors, which must agree where they are one."""
        smoothed: set[str] = set()
        for names in stacks(self.network):
            factors = [pre_quant_scale_name(name) for name in names]
            if any(name in self.checkpoint.tensors for name in factors):
                self._check_factors(factors, self._depth(names[0]))
                smoothed.update(names)
        return frozenset(smoothed)

    def _depth(self, weight: str) -> int:
        info = self.checkpoint.tensors.get(weight)
        return 0 if info is None or len(info.shape) != 2 else info.shape[1]

    def _check_factors(self, names: list[str], depth: int) -> None:
        """Checks the factors of layers that read one value: all there, and all the same."""
        tensors = self.checkpoint.tensors
        there = [name for name in names if name in tensors]
        missing = [name for name in names if name not in tensors]
        misshapen = [name for name in there if tensors[name].shape != (depth,)]
        for name in missing:
            self.problems.add(name, f"is missing, though {there[0]} is there")
        for name in misshapen:
            shape = list(tensors[name].shape)
            self.problems.add(name, f"has shape {shape}; [{depth}] is expected")
        if missing or misshapen:
            return
        first = self.checkpoint.read(there[0])
        for name in there[1:]:
            if not np.array_equal(first, self.checkpoint.read(name)):
                self.problems.add(
                    name,
                    f"differs from {there[0]}, though both layers read one value",
                    "export the checkpoint so that layers with one input share their factors",
                )

    def _scales(self) -> list[str]:
        """The scales to read; those that are missing or misshapen become problems."""
        tensors, read = self.checkpoint.tensors, []
        if self.scheme.has_input_scales:
            quantised = [
                node.weight(1).name
                for node in linear_nodes(self.network)
                if self._is_quantised(node.weight(1).name, node.output.name)
            ]
            read += [self.input_scales[name] for name in quantised]
            if self.scheme.product_dtype == "f8e4m3":
                read += map(weight_scale_2_name, quantised)
        if self.kv_cache_dtype == "int8":
            read += self.kv_scales
        elif self.kv_cache_dtype == "fp8":
            read += [name for name in self.kv_scales if name in tensors]
        missing = [name for name in read if name not in tensors]
        kv_missing = [name for name in missing if name in self.kv_scales]
        self._note_missing(
            f"qformat {self.qformat}",
            [name for name in missing if name not in kv_missing],
            f"--qformat {nearest_without_scales(self.qformat)}",
        )
        self._note_missing(
            f"kv_cache_dtype {self.kv_cache_dtype}", kv_missing, "--kv_cache_dtype auto"
        )
        for name in read:
            if name in tensors:
                problem = scale_problem(name, tensors[name])
                self.problems.found += [] if problem is None else [problem]
        return [name for name in read if name in tensors]

    def _is_of_scheme(self, output: str) -> bool:
        """Whether the scheme quantises the layer that computes a value."""
        return output != "logits" or self.scheme.quantizes_lm_head

    def _is_of_codes(self, output: str) -> bool:
        """Whether that is in the dtype of the other layers, which the checkpoint's codes have."""
        is_other = output == "logits" and self.scheme.lm_head_dtype is not None
        return self._is_of_scheme(output) and not is_other

    def _is_quantised(self, weight: str, output: str) -> bool:
        return weight not in self.excluded and self._is_of_scheme(output)

    def _note_missing(self, option: str, names: list[str], instead: str) -> None:
        if names:
            self.problems.add(
                names[0],
                f"is missing, with {len(names) - 1} more: {option} takes calibrated scales",
                f"{CALIBRATE}, or choose {instead}",
            )

    def _check_codes(self) -> None:
        """INT4 is kept or refused: quantising four bits a second time costs too much.

        But for the scheme that stands in where other schemes refuse.
        """
        if self.scheme.weight_dtype != "i4" or self.scheme.product_dtype == "i8":
            return
        stored = self.checkpoint.stored
        needed = [
            node.weight(1).name
            for node in linear_nodes(self.network)
            if self._is_quantised(node.weight(1).name, node.output.name)
        ]
        lacking = [name for name in needed if name not in stored]
        if self.scheme.needs_codes and lacking:
            self.problems.add(
                lacking[0],
                f"is not stored in INT4, nor are {len(lacking) - 1} more: qformat {self.qformat} "
                "takes calibrated weights",
                f"{CALIBRATE}, or choose --qformat int4_wo",
            )
        for name in needed:
            weight = stored.get(name)
            if weight is None or weight.dtype != "I4" or self._is_kept(weight):
                continue
            reason = f"in rows of {weight.shape[1]} columns"
            if not weight.is_ordered:
                reason = "by groups of columns that are not consecutive (desc_act)"
            elif weight.group_size % min(INT4_BLOCKS):
                reason = f"in groups of {weight.group_size} columns"
            sizes = ", ".join(map(str, INT4_BLOCKS))
            self.problems.add(
                name,
                f"is stored {reason}; {self.qformat} takes groups of whole blocks of consecutive "
                f"columns: {sizes}",
                "choose --qformat int8_wo or w4a8_dynamic, which quantise the values anew",
            )
            return

    def _exclusion_notes(self) -> list[str]:
        added = sorted(self.excluded - self.told)
        if not added:
            return []
        what = f"{len(added)} linear layers ({added[0]}, ...) stay in the build dtype"
        why = "the checkpoint excludes them, or they are computed with one that is excluded"
        return [f"{what}: {why}"]

    def _code_notes(self) -> list[str]:
        """Says which codes are not kept."""
        dtype = OF_WEIGHT_DTYPE.get(self.scheme.weight_dtype or "")
        kinds: dict[str, int] = {}
        for weight in self.checkpoint.stored.values():
            is_kept = self._is_kept(weight) if dtype == "I4" else weight.dtype == dtype
            if not is_kept:
                kinds[weight.dtype] = kinds.get(weight.dtype, 0) + 1
        what = "keeps their values" if dtype is None else "quantises their values anew"
        return [
            f"{count} weights are stored in {CODE_NAMES[kind]}: qformat {self.qformat} {what}"
            for kind, count in kinds.items()
        ]

    def _unread(self, read: list[str]) -> list[str]:
        """Says which scales of the checkpoint the build leaves unread."""
        unread = [n for n in self.checkpoint.tensors if SCALE.search(n) and n not in read]
        activations = [name for name in unread if name.endswith(".input_scale")]
        notes = []
        if activations:
            reason = "leaves these layers in the build dtype"
            if not self.scheme.has_input_scales:
                reason = "does not quantise activations by calibrated scales"
            notes.append(
                f"{len(activations)} activation scales of the checkpoint ({activations[0]}, ...) "
                f"are not read: qformat {self.qformat} {reason}"
            )
        if len(unread) > len(activations):
            notes.append(
                f"{len(unread) - len(activations)} KV cache scales of the checkpoint are not "
                f"read: the KV cache is {self.kv_cache_dtype}"
            )
        return notes
