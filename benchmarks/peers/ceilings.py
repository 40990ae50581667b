# SPDX-License-Identifier: Apache-2.0
"""How fast a shape could run at most, given what the machine was measured to do.

Counted are the linear layers and the keys and values that attention reads; norms, softmax and
embeddings cost nothing here. So no program can pass a ceiling, and none quite reaches it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peers.workload import make_workload
from benchmarks.random_checkpoint import SHAPES, tensor_shapes

KV_ITEM_BYTES = 2
SCALE_BYTES = 4
GROUP_SIZE = 128


@dataclass(frozen=True)
class Machine:
    """What the machine does at most."""

    bytes_per_s: float
    ops_per_s: float
    """At GEMMs of the precision; a multiply-add is two."""


@dataclass(frozen=True)
class ModelWork:
    """A shape's sizes, at one precision."""

    num_of_tokens: int
    """Weights of linear layers that every token is multiplied by."""
    num_of_outputs: int
    """Those that only tokens with logits are: of the last layer all but the projections of keys and
    values, and the output projection."""
    weight_bytes: float
    """Of all linear layers, with their scales."""
    kv_bytes_per_token: int

    @classmethod
    def of(cls, shape: str, precision: str) -> ModelWork:
        """Counts from the checkpoint's tensors; int4 keeps the output projection in int8."""
        config = SHAPES[shape]
        linear = {n: dims for n, dims in tensor_shapes(config) if n.endswith("_proj.weight")}
        last = f"model.layers.{config['num_hidden_layers'] - 1}."
        num_last = sum(
            int(np.prod(dims))
            for name, dims in linear.items()
            if name.startswith(last) and not name.endswith(("k_proj.weight", "v_proj.weight"))
        )
        num_linear = sum(int(np.prod(dims)) for dims in linear.values())
        num_rows = sum(dims[0] for dims in linear.values())
        vocab_size, hidden_size = config["vocab_size"], config["hidden_size"]
        num_lm_head = vocab_size * hidden_size
        int8_lm_head = num_lm_head + SCALE_BYTES * vocab_size
        weight_bytes: dict[str, float] = {
            "bf16": 2 * (num_linear + num_lm_head),
            "int8": num_linear + SCALE_BYTES * num_rows + int8_lm_head,
            "int4": num_linear / 2 + SCALE_BYTES * num_linear / GROUP_SIZE + int8_lm_head,
        }
        head_dim = config.get("head_dim") or hidden_size // config["num_attention_heads"]
        kv_width = config["num_key_value_heads"] * head_dim
        kv_bytes = 2 * config["num_hidden_layers"] * kv_width * KV_ITEM_BYTES
        num_of_tokens, num_of_outputs = num_linear - num_last, num_last + num_lm_head
        return cls(num_of_tokens, num_of_outputs, weight_bytes[precision], kv_bytes)

    def step_s(
        self, machine: Machine, num_tokens: int, num_outputs: int, num_kv_tokens: int
    ) -> float:
        """The shortest time of one step: memory or arithmetic, whichever takes longer.

        Args:
            machine: what it can do.
            num_tokens: prompt and decoded tokens in the step.
            num_outputs: tokens whose logits are needed.
            num_kv_tokens: tokens in the KV cache that attention reads, over all sequences.
        """
        num_bytes = self.weight_bytes + num_kv_tokens * self.kv_bytes_per_token
        num_ops = 2.0 * (num_tokens * self.num_of_tokens + num_outputs * self.num_of_outputs)
        return max(num_bytes / machine.bytes_per_s, num_ops / machine.ops_per_s)


def ceilings(shape: str, precision: str, machine: Machine) -> dict[str, float]:
    """Tokens per second of prefill, decode and load that no program can pass."""
    work = ModelWork.of(shape, precision)
    tasks = make_workload(SHAPES[shape]["vocab_size"], 0)
    prompt = len(tasks["prefill"][0]["prompt"])
    decode = tasks["decode"][0]
    context = len(decode["prompt"]) + decode["num_tokens"] // 2
    load = [(len(r["prompt"]), r["num_tokens"]) for r in tasks["load"]]
    load_s = sum(work.step_s(machine, *step) for step in steps(load, tasks["max_in_flight"]))
    return {
        "prefill_512_tok_s": prompt / work.step_s(machine, prompt, 1, prompt),
        "decode_tok_s": 1 / work.step_s(machine, 1, 1, context),
        "load_tok_s": sum(num_tokens for _, num_tokens in load) / load_s,
    }


def steps(
    requests: Sequence[tuple[int, int]], max_in_flight: int
) -> Iterable[tuple[int, int, int]]:
    """Yields the steps of ideal in-flight batching: tokens, outputs, KV tokens.

    A prompt runs whole in the step that admits it, beside the decodes, and gives its first token.

    Args:
        requests: prompt tokens and output tokens of each, all there from the start.
        max_in_flight: sequences in a step at most.
    """
    waiting = list(reversed(requests))
    running: list[tuple[int, int]] = []  # (tokens in the KV cache, outputs still to come)
    while waiting or running:
        num_tokens = len(running)
        admitted: list[tuple[int, int]] = []
        while waiting and len(running) + len(admitted) < max_in_flight:
            admitted.append(waiting.pop())
        num_tokens += sum(prompt for prompt, _ in admitted)
        running = [(kv + 1, left) for kv, left in running] + admitted
        yield num_tokens, len(running), sum(kv for kv, _ in running)
        running = [(kv, left - 1) for kv, left in running if left > 1]


def machine_of(limits: Iterable[dict[str, Any]], precision: str, isa: str) -> Machine:
    """The best that was measured: a disturbed moment must not lower a ceiling."""
    kinds = ("bf16", "float32") if precision == "bf16" else ("int8",)
    bandwidth = ops = 0.0
    for sample in limits:
        for name, value in sample.items():
            if name.startswith("bandwidth"):
                bandwidth = max(bandwidth, value)
            elif (
                name.endswith("_gops")
                and name.startswith(kinds)
                and (isa == "native" or isa in name)
            ):
                ops = max(ops, value)
    return Machine(bandwidth * 1e9, ops * 1e9)
