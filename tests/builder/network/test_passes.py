# SPDX-License-Identifier: Apache-2.0
"""What the passes make of a decoder, compared as text with files in tests/golden/network/."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from enginery.builder.build import run_passes
from enginery.builder.checkpoint.config import read_config
from enginery.builder.models.decoder import build_decoder
from enginery.builder.network.network import Network
from enginery.builder.network.passes.gather_early import gather_early
from enginery.builder.network.text import to_text
from enginery.builder.network.verifier import verify
from enginery.builder.options import BuildRequest, resolve_options
from enginery.builder.sharding.mapping import Mapping
from enginery.builder.sharding.shard import shard
from enginery.builder.sku import load_skus
from tests.support.checkpoints import write_tiny_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "network"

NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], Mapping]] = {
    "llama_int8_dynamic": (
        {"family": "llama", "num_layers": 1},
        {"qformat": "int8_dynamic"},
        Mapping(),
    ),
    "llama_w4a8_dynamic_rank1_of_2": (
        {"family": "llama", "num_layers": 1, "num_heads": 8, "head_dim": 32},
        {"qformat": "w4a8_dynamic", "tp_size": 2},
        Mapping(2, 1),
    ),
    "qwen2_tied_int8_wo_rank1_of_2": (
        {"family": "qwen2", "num_layers": 1, "tie": True, "dtype": "bfloat16"},
        {"qformat": "int8_wo", "tp_size": 2},
        Mapping(2, 1),
    ),
    "qwen3_float32": (
        {"family": "qwen3", "num_layers": 1, "sliding_window": 64},
        {"dtype": "float32"},
        Mapping(),
    ),
}


def plain_network(directory: Path, **checkpoint: Any) -> Network:
    return build_decoder(read_config(write_tiny_checkpoint(directory, **checkpoint)))


def passed(network: Network, directory: Path, **options: Any) -> Network:
    request = BuildRequest(directory, **options)
    return run_passes(network, resolve_options(request, network.config, load_skus("cpu")))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_that_of_the_golden_file(tmp_path: Path, name: str) -> None:
    checkpoint, options, mapping = NETWORKS[name]
    network = shard(passed(plain_network(tmp_path, **checkpoint), tmp_path, **options), mapping)
    text = to_text(verify(network, after="sharding"))
    path = GOLDEN / f"{name}.txt"
    assert text == path.read_text(encoding="utf-8"), f"where this is meant, {path} becomes\n{text}"


def test_fusion_leaves_nine_of_a_layers_thirteen_nodes(tmp_path: Path) -> None:
    plain = plain_network(tmp_path, family="llama", num_layers=3)
    assert len(plain.nodes) == 4 + 3 * 13
    fused = passed(plain, tmp_path)
    assert Counter(node.op for node in fused.nodes) == {
        "embed": 1,
        "rms_norm": 2 * 3 + 1,
        "linear": 4 * 3 + 1,
        "kv_append": 3,
        "paged_attention": 3,
        "silu_mul": 3,
        "gather_rows": 1,
    }
    accumulating = [n for n in fused.nodes if n.op == "linear" and n.inputs[3] is not None]
    assert len(accumulating) == 2 * 3


@pytest.mark.parametrize("mapping", [Mapping(), Mapping(2, 1)], ids=["alone", "rank 1 of 2"])
@pytest.mark.parametrize("qformat", ["none", "int8_dynamic", "w4a8_dynamic"])
def test_rows_that_want_no_logits_leave_after_the_last_attention(
    tmp_path: Path, qformat: str, mapping: Mapping
) -> None:
    plain = plain_network(tmp_path, family="llama", num_layers=3, num_heads=8, head_dim=32)
    network = passed(plain, tmp_path, qformat=qformat, tp_size=mapping.tp_size)
    late = shard(network, mapping)
    early = verify(gather_early(late), after="gather_early")
    ops = [node.op for node in early.nodes]
    last_attention = len(ops) - 1 - ops[::-1].index("paged_attention")
    assert {node.output.rows for node in early.nodes[: last_attention + 1]} == {"tokens"}
    assert {node.output.rows for node in early.nodes[last_attention + 1 :]} == {"logits"}
    # What the attention gives as it is stored, and the residual stream.
    gathers = [node for node in early.nodes if node.op == "gather_rows"]
    attended, residual = (node.value(0) for node in gathers)
    assert attended == late.nodes[last_attention].output
    assert residual.name == "layers.1.mlp_residual"
    # All else is computed as before, by the same names.
    others = [node for node in early.nodes if node.op != "gather_rows"]
    was = [node for node in late.nodes if node.op != "gather_rows"]
    assert [(node.op, node.output.name) for node in others] == [
        (node.op, node.output.name) for node in was
    ]


def test_a_network_of_two_ranks_holds_the_same_weights_in_halves(tmp_path: Path) -> None:
    whole = passed(plain_network(tmp_path, family="llama"), tmp_path)
    half = shard(whole, Mapping(2, 0))
    reduced = [node for node in half.nodes if node.op == "all_reduce"]
    assert len(reduced) == 2 * whole.config.num_layers
    assert half.nodes[-1].op == "all_gather"


def test_a_vocabulary_that_cannot_be_shared_is_repeated(tmp_path: Path) -> None:
    network = passed(plain_network(tmp_path, family="llama", vocab_size=321), tmp_path)
    part = verify(shard(network, Mapping(2, 1)), after="sharding")
    assert part.nodes[-1].op == "linear"
    assert part.nodes[-1].weight(1).shape == (321, 128)
