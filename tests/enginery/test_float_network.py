# SPDX-License-Identifier: Apache-2.0
"""The float network against transformers, and what it shows of each linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForCausalLM

from enginery.builder.build import PlannedBuild, plan_build
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.network.network import Node
from enginery.builder.network.ops import node
from enginery.builder.network.weight import WeightPart, whole
from enginery.builder.options import BuildRequest
from enginery.builder.targets import weight_rows
from enginery.float_network import LinearRows, run_network
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.reference import relative_error

FloatArray = npt.NDArray[np.float32]

TOKEN_IDS = np.random.default_rng(0).integers(0, 314, 77).tolist()
TOLERANCE = 1e-4  # sums in another order

VARIANTS: dict[str, dict[str, Any]] = {
    "llama_llama3_rope": {"family": "llama", "rope_scaling": "llama3"},
    "llama_awkward_sizes": {
        "family": "llama", "hidden_size": 120, "num_kv_heads": 1, "intermediate_size": 250,
        "vocab_size": 321, "num_layers": 1, "dtype": "float16",
    },
    "mistral_window": {"family": "mistral", "sliding_window": 19},
    "qwen2_tied_yarn": {"family": "qwen2", "tie": True, "rope_scaling": "yarn"},
    "qwen3_head_dim_bf16": {"family": "qwen3", "head_dim": 48, "dtype": "bfloat16"},
}  # fmt: skip


class Recorder:
    """Puts the outputs of each layer together again."""

    def __init__(self) -> None:
        self.inputs: dict[str, FloatArray] = {}
        self.outputs: dict[str, FloatArray] = {}
        self.num_pieces: dict[str, int] = {}
        self.parts: dict[str, tuple[WeightPart, ...]] = {}

    def watch(self, rows: LinearRows) -> None:
        name = rows.node.output.name
        self.inputs.setdefault(name, rows.x)
        assert self.inputs[name] is rows.x
        before = self.outputs.get(name, np.empty((len(rows.x), 0), np.float32))
        assert rows.begin == before.shape[1]
        assert rows.y.shape == (len(rows.x), rows.end - rows.begin)
        np.testing.assert_array_equal(rows.y, rows.x @ rows.weight.T)
        self.outputs[name] = np.concatenate([before, rows.y], axis=1)
        self.parts[name] = rows.node.weight(1).parts
        self.num_pieces[name] = self.num_pieces.get(name, 0) + 1


def planned(model: Path) -> PlannedBuild:
    return plan_build(BuildRequest(model, dtype="float32"))


def record(model: Path, nodes: tuple[Node, ...] | None = None) -> Recorder:
    recorder = Recorder()
    network = planned(model).network
    with Checkpoint(model) as checkpoint:
        network = network if nodes is None else network.with_nodes(nodes)
        run_network(network, checkpoint, TOKEN_IDS, recorder.watch)
    return recorder


def load(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(weight_rows, "PIECE_ELEMENTS", 5000)
    model = write_tiny_checkpoint(tmp_path / "model", **VARIANTS[name])
    with torch.inference_mode():
        expected = load(model)(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    recorder = record(model)
    assert relative_error(recorder.outputs["logits"], expected) < TOLERANCE
    assert min(recorder.num_pieces.values()) > 1


def test_every_layer_reads_and_gives_what_it_does_in_transformers(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "qwen3")
    reference = load(model)
    seen: dict[str, tuple[FloatArray, FloatArray]] = {}
    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: seen.update(
                    {name: (inputs[0][0].numpy(), output[0].numpy())}
                )
            )
    with torch.inference_mode():
        reference(torch.tensor([TOKEN_IDS]))
    recorder = record(model)
    assert len(recorder.outputs) == 2 * 4 + 1
    for name, got in recorder.outputs.items():
        modules = [part.tensor.removesuffix(".weight") for part in recorder.parts[name]]
        expected = np.concatenate([seen[module][1] for module in modules], axis=1)
        assert relative_error(got, expected) < TOLERANCE, name
        assert relative_error(recorder.inputs[name], seen[modules[0]][0]) < TOLERANCE, name


def test_columns_are_scaled(tmp_path: Path) -> None:
    """A factor between a norm and its reader is one in what the reader reads."""
    model = write_tiny_checkpoint(tmp_path / "model", "llama")
    network = planned(model).network
    plain = record(model)
    (norm,) = (n for n in network.nodes if n.output.name == "norm")
    factor = whole("model.layers.1.input_layernorm.weight", (128,))
    scaled = node("scale_columns", "scaled", norm.output, factor)
    logits = network.nodes[-1]
    reader = node("linear", "logits", scaled.output, *logits.inputs[1:])
    recorder = record(model, (*network.nodes[:-1], scaled, reader))
    with Checkpoint(model) as checkpoint:
        expected = plain.inputs["logits"] * checkpoint.read_float32(factor.name)
    np.testing.assert_array_equal(recorder.inputs["logits"], expected)
