# SPDX-License-Identifier: Apache-2.0
"""Nodes of a network to steps of a `cpu` program, values to buffers."""

from __future__ import annotations

import re

from enginery.builder.engine.program import INT4, Attribute, Buffer, Operand, Step, Tensor
from enginery.builder.network.network import Network, Node, Value
from enginery.builder.network.verifier import IN_PLACE_INPUT
from enginery.builder.network.weight import Weight
from enginery.builder.targets.cpu.constants import Constants
from enginery.builder.targets.rope import rope_scale

STORED_DTYPES = {"f8e4m3": "bf16"}  # kernels multiply the values of E4M3 as bf16
LAYER_PREFIX = re.compile(r"^layers\.\d+\.")


def lower_steps(network: Network, constants: Constants) -> tuple[list[Buffer], list[Step]]:
    """Returns the buffers and steps of a rank's network, one step per node."""
    buffers = _BufferPlan(network)
    steps = [_Lowering(network, constants, buffers).step(node) for node in network.nodes]
    return buffers.buffers, steps


class _BufferPlan:
    """Gives each value a buffer.

    What works in place shares its input's buffer. Values with the same role in different layers
    share one where the earlier is no longer read, so that a program has about ten buffers, whatever
    its number of layers.
    """

    def __init__(self, network: Network) -> None:
        self.buffers: list[Buffer] = []
        self._of_value: dict[str, Buffer] = {}
        last_read = self._last_reads(network)
        busy_until: dict[Buffer, int] = {}
        for position, node in enumerate(network.nodes):
            value = node.output
            target = _in_place_target(node)
            if target is not None:
                buffer = self._of_value[target.name]
            else:
                buffer = self._free_buffer(value, position, busy_until)
            self._of_value[value.name] = buffer
            busy_until[buffer] = last_read.get(value.name, position)

    def __getitem__(self, value: Value) -> Buffer:
        return self._of_value[value.name]

    @staticmethod
    def _last_reads(network: Network) -> dict[str, int]:
        return {
            operand.name: position
            for position, node in enumerate(network.nodes)
            for operand in node.inputs
            if isinstance(operand, Value)
        }

    def _free_buffer(self, value: Value, position: int, busy_until: dict[Buffer, int]) -> Buffer:
        role = LAYER_PREFIX.sub("", value.name)
        name, number = role, 1
        while True:
            dtype = STORED_DTYPES.get(value.dtype, value.dtype)
            buffer = Buffer(name, dtype, value.rows, value.columns)
            if buffer not in busy_until:
                if all(other.name != name for other in self.buffers):
                    self.buffers.append(buffer)
                    return buffer
            elif busy_until[buffer] < position:
                return buffer
            number += 1
            name = f"{role}.{number}"


def _in_place_target(node: Node) -> Value | None:
    index = IN_PLACE_INPUT.get(node.op)
    target = None if index is None else node.inputs[index]
    return target if isinstance(target, Value) else None


class _Lowering:
    def __init__(self, network: Network, constants: Constants, buffers: _BufferPlan) -> None:
        self.config = network.config
        self.constants = constants
        self.buffers = buffers

    def step(self, node: Node) -> Step:
        inputs, attributes = getattr(self, f"_{node.op}", self._plain)(node)
        outputs = (self.buffers[node.output],)
        return Step(node.op, inputs, outputs, attributes, self._version(node))

    def _version(self, node: Node) -> int:
        """Above 1 where the step takes scales besides, of groups or its output.

        Of linear layers with INT4 weights it says what codes become: 3 of E4M3, 2 of other dtypes.
        Steps of attention have but one version, whose scales may be absent.
        """
        if node.op in ("kv_append", "paged_attention"):
            return 3
        if node.op == "linear":
            weight = node.weight(1)
            if weight.dtype != INT4 or weight.blocks is None:
                return 1
            return 3 if weight.blocks.product_dtype == "f8e4m3" else 2
        return 2 if node.output.name in self.constants.inverses else 1

    def _inverse(self, node: Node) -> tuple[Tensor, ...]:
        inverse = self.constants.inverses.get(node.output.name)
        return () if inverse is None else (inverse,)

    def _plain(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        return tuple(self.buffers[node.value(i)] for i in range(len(node.inputs))), {}

    def _embed(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        packed = self.constants.packed(node.weight(0))
        return (packed.data, packed.scale), {}

    def _rms_norm(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        inputs = (self.buffers[node.value(0)], self._tensor(node, 1), *self._inverse(node))
        return inputs, {"epsilon": float(node.attributes["epsilon"])}

    def _linear(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        packed = self.constants.packed(node.weight(1))
        inputs: tuple[Operand, ...] = (
            self.buffers[node.value(0)],
            packed.data,
            packed.scale,
            self._tensor(node, 2),
            packed.column_sums,
        )
        if packed.group_scales is not None:
            inputs += (packed.group_scales,)
        return inputs, {"accumulate": int(node.inputs[3] is not None)}

    def _kv_append(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        inputs = (
            self.buffers[node.value(0)],
            self.constants.inv_freq,
            self._tensor(node, 1),
            *self._kv_scales(node),
        )
        return inputs, {
            "layer": int(node.attributes["layer"]),
            "rope_scale": float(rope_scale(self.config.rope)),
            "epsilon": float(node.attributes["epsilon"]),
        }

    def _paged_attention(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        inputs = (
            self.buffers[node.value(0)],
            self.constants.inv_freq,
            self._tensor(node, 2),
            *self._kv_scales(node),
            self.constants.inverses.get(node.output.name),
        )
        return inputs, {
            "layer": int(node.attributes["layer"]),
            "scale": float(self.config.head_dim**-0.5),
            "sliding_window": int(node.attributes["sliding_window"]),
            "rope_scale": float(rope_scale(self.config.rope)),
            "epsilon": float(node.attributes["epsilon"]),
        }

    def _kv_scales(self, node: Node) -> tuple[Tensor | None, ...]:
        scales = self.constants.kv_scales
        return scales[int(node.attributes["layer"])] if scales else (None, None)

    def _silu_mul(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        return (self.buffers[node.value(0)], *self._inverse(node)), {}

    def _scale_columns(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        return (self.buffers[node.value(0)], self._tensor(node, 1), *self._inverse(node)), {}

    def _group_sums(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        return (self.buffers[node.value(0)],), {"group": int(node.attributes["group"])}

    def _add(self, node: Node) -> tuple[tuple[Operand, ...], dict[str, Attribute]]:
        # The residual, input 0 of the node, is the step's output, which it adds to.
        return (self.buffers[node.value(1)],), {}

    def _tensor(self, node: Node, index: int) -> Tensor | None:
        operand = node.inputs[index]
        return self.constants.packed(operand).data if isinstance(operand, Weight) else None
