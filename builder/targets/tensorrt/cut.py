# SPDX-License-Identifier: Apache-2.0
"""Cuts a rank's network into segments and the steps between them.

Maximal runs of dense operations become segments; what reads token ids, the KV cache or other ranks
stays a step of its own. Here too the 16-bit dtypes come in: query, key, value and attention are
`act`, the build dtype, where they pass between steps; the residual stream, sums over ranks and
logits stay float32; codes of activations live only inside a segment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from enginery.builder.engine.program import Attribute
from enginery.builder.network.network import Network, Node, Value
from enginery.builder.network.weight import Weight
from enginery.builder.options import ENGINE_DTYPES, BuildOptions
from enginery.builder.targets.rope import rope_scale
from enginery.builder.targets.tensorrt.constant import Constant, ConstantMaker
from enginery.builder.targets.tensorrt.segment import SegmentType
from enginery.builder.targets.tensorrt.segment_builder import SegmentBuilder
from enginery.quantization import CODE_KV_DTYPES

SEGMENT_OPS = ("rms_norm", "linear", "silu_mul", "scale_columns", "add")

StepOperand = Value | Constant | None


@dataclass(frozen=True)
class CutStep:
    """A step of the program before its values have buffers.

    Attributes:
        op: operation of the engine format.
        inputs: values computed before it, stored tensors, or None for one left out.
        outputs: what it computes; `kv_append` and `all_reduce` give their first input again.
        attributes: constants of the operation.
    """

    op: str
    inputs: tuple[StepOperand, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class CutNetwork:
    """A rank's network as segments and steps.

    Attributes:
        segments: the distinct segment types, in the order in which they first run.
        steps: in order of execution; `run_segment` runs a type by name.
        roles: what each value between steps is, by its name: "x", "qkv", "attention", ...
    """

    segments: tuple[SegmentType, ...]
    steps: tuple[CutStep, ...]
    roles: Mapping[str, str]


def cut(network: Network, options: BuildOptions) -> CutNetwork:
    """Cuts a rank's network, after all passes and sharding.

    Args:
        network: quantised with the build dtype and scheme that `options` name.
        options: dtype, qformat and KV cache dtype decide dtypes and scales.
    """
    return _Cutter(network, options).cut()


class _Cutter:
    def __init__(self, network: Network, options: BuildOptions) -> None:
        self.network = network
        self.act = ENGINE_DTYPES[options.dtype]
        self.constants = ConstantMaker(network.config, self.act, options.qformat)
        self.has_kv_scales = options.kv_cache_dtype in CODE_KV_DTYPES
        self.roles = _roles(network)
        self.readers = _readers(network)
        self.attentions = {
            node.value(1).name: node for node in network.nodes if node.op == "paged_attention"
        }
        self._values: dict[str, Value] = {}
        # A type's name is given when it is first met; equal types before naming are one.
        self._types: dict[SegmentType, SegmentType] = {}

    def cut(self) -> CutNetwork:
        steps = []
        for run in _runs(self.network.nodes):
            if run[0].op in SEGMENT_OPS:
                steps.append(self._segment_step(run))
            else:
                steps.append(self._step(run[0]))
        return CutNetwork(tuple(self._types.values()), tuple(steps), self.roles)

    def _segment_step(self, run: Sequence[Node]) -> CutStep:
        builder = SegmentBuilder(self.constants, self.roles, self._values)
        names = {node.output.name for node in run}
        is_read_outside = {
            node.output.name
            for node in run
            if any(reader not in names for reader in self.readers[node.output.name])
            or not self.readers[node.output.name]  # the logits
        }
        for node in run:
            dtype = self.act if self.roles.get(node.output.name) == "qkv" else node.output.dtype
            builder.add(node, dtype, is_output=node.output.name in is_read_outside)
        segment, operands, outputs = builder.finish()
        if segment not in self._types:
            taken = {known.name for known in self._types.values()}
            name = _unique(segment_name(run), taken)
            self._types[segment] = dataclasses.replace(segment, name=name)
        self._values |= {value.name: value for value in outputs}
        return CutStep("run_segment", operands, outputs, {"segment": self._types[segment].name})

    def _step(self, node: Node) -> CutStep:
        inputs, attributes = getattr(self, f"_{node.op}", self._plain)(node)
        is_act = node.op in ("kv_append", "paged_attention")
        output = dataclasses.replace(node.output, dtype=self.act if is_act else "f32")
        self._values[output.name] = output
        return CutStep(node.op, inputs, (output,), attributes)

    def _plain(self, node: Node) -> tuple[tuple[StepOperand, ...], dict[str, Attribute]]:
        return (self._input(node),), {}

    def _embed(self, node: Node) -> tuple[tuple[StepOperand, ...], dict[str, Attribute]]:
        weight = node.weight(0)
        return (self.constants.data(weight), self.constants.scale(weight)), {}

    def _kv_append(self, node: Node) -> tuple[tuple[StepOperand, ...], dict[str, Attribute]]:
        layer = int(node.attributes["layer"])
        # Its kernel rotates queries too, which the network leaves to attention.
        q_norm, k_norm = self.attentions[node.output.name].inputs[2], node.inputs[1]
        norms = (
            self.constants.data(operand) if isinstance(operand, Weight) else None
            for operand in (q_norm, k_norm)
        )
        inputs = (self._input(node), self.constants.inv_freq(), *norms, *self._kv_scales(layer))
        return inputs, {
            "layer": layer,
            "rope_scale": float(rope_scale(self.network.config.rope)),
            "epsilon": float(node.attributes["epsilon"]),
        }

    def _paged_attention(self, node: Node) -> tuple[tuple[StepOperand, ...], dict[str, Attribute]]:
        layer = int(node.attributes["layer"])
        return (self._input(node), *self._kv_scales(layer)), {
            "layer": layer,
            "scale": float(self.network.config.head_dim**-0.5),
            "sliding_window": int(node.attributes["sliding_window"]),
        }

    def _kv_scales(self, layer: int) -> tuple[Constant | None, Constant | None]:
        if not self.has_kv_scales:
            return None, None
        return self.constants.kv_scale(layer, "k"), self.constants.kv_scale(layer, "v")

    def _input(self, node: Node) -> Value:
        return self._values[node.value(0).name]


def segment_name(run: Sequence[Node]) -> str:
    """Names a run of nodes by the linear layers in it."""
    linears = [_linear_owner(node) for node in run if node.op == "linear"]
    names = {
        ("qkv_proj",): "first" if run[0].op == "rms_norm" else "input",
        ("o_proj", "gate_up_proj", "down_proj", "qkv_proj"): "middle",
        ("o_proj", "gate_up_proj", "down_proj"): "last",
        ("o_proj",): "output",
        ("gate_up_proj", "down_proj"): "mlp",
        (): "residual",
        ("lm_head",): "head",
    }
    return names.get(tuple(linears), "_".join(linears))


def _linear_owner(node: Node) -> str:
    is_head = node.output.name.partition(".")[0] == "logits"
    return "lm_head" if is_head else node.weight(1).name.rsplit(".", 2)[-2]


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _runs(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Maximal runs of segment operations, and every other node alone."""
    run: list[Node] = []
    for node in nodes:
        if node.op in SEGMENT_OPS:
            run.append(node)
            continue
        if run:
            yield run
            run = []
        yield [node]
    if run:
        yield run


def _readers(network: Network) -> dict[str, list[str]]:
    """Names of the outputs of the nodes that read each value."""
    readers: dict[str, list[str]] = {node.output.name: [] for node in network.nodes}
    for node in network.nodes:
        for operand in node.inputs:
            if isinstance(operand, Value):
                readers[operand.name].append(node.output.name)
    return readers


def _roles(network: Network) -> dict[str, str]:
    """What each value is that may pass between steps, the same word in every layer."""
    roles: dict[str, str] = {}
    by_op = {
        "embed": "x",
        "add": "x",
        "kv_append": "qkv",
        "paged_attention": "attention",
        "gather_rows": "last_rows",
        "all_gather": "logits",
    }
    for node in network.nodes:
        name = node.output.name
        if node.op in by_op:
            roles[name] = by_op[node.op]
        elif node.op == "all_reduce":
            roles[name] = roles[node.value(0).name] = "partial"
        elif node.op == "linear" and node.inputs[3] is not None:
            roles[name] = "x"
        if node.op == "kv_append":
            roles[node.value(0).name] = "qkv"
        elif node.op == "all_gather":
            roles[node.value(0).name] = "logits_part"
    roles.setdefault(network.nodes[-1].output.name, "logits")
    return roles
