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
from enginery.builder.network.passes.split_queries import split_queries
from enginery.builder.network.passes.split_zero_points import split_zero_points
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
def test_rows_that_want_no_logits_leave_before_the_last_queries(
    tmp_path: Path, qformat: str, mapping: Mapping
) -> None:
    plain = plain_network(tmp_path, family="llama", num_layers=3, num_heads=8, head_dim=32)
    network = passed(plain, tmp_path, qformat=qformat, tp_size=mapping.tp_size)
    late = verify(split_queries(shard(network, mapping)), after="split_queries")
    early = verify(gather_early(late), after="gather_early")
    ops = [node.op for node in early.nodes]
    last_append = len(ops) - 1 - ops[::-1].index("kv_append")
    assert {node.output.rows for node in early.nodes[: last_append + 1]} == {"tokens"}
    assert {node.output.rows for node in early.nodes[last_append + 1 :]} == {"logits"}
    # What the queries are made of, as it is stored, and the residual stream.
    gathers = [node for node in early.nodes if node.op == "gather_rows"]
    normed, residual = (node.value(0) for node in gathers)
    assert normed.name == "layers.2.input_layernorm" and normed.rows == "tokens"
    assert residual.name == "layers.1.mlp_residual"
    # All else is computed as before, by the same names.
    others = [node for node in early.nodes if node.op != "gather_rows"]
    was = [node for node in late.nodes if node.op != "gather_rows"]
    assert [(node.op, node.output.name) for node in others] == [
        (node.op, node.output.name) for node in was
    ]


@pytest.mark.parametrize("mapping", [Mapping(), Mapping(2, 1)], ids=["alone", "rank 1 of 2"])
def test_the_last_layers_queries_are_the_channels_of_q_proj(
    tmp_path: Path, mapping: Mapping
) -> None:
    plain = plain_network(tmp_path, family="qwen2", num_layers=3)
    fused = shard(passed(plain, tmp_path, qformat="int8_dynamic"), mapping)
    split = verify(split_queries(fused), after="split_queries")
    names = [node.output.name for node in fused.nodes]
    first = names.index("layers.2.self_attn.qkv_proj")
    end = names.index("layers.2.attention") + 1
    assert split.nodes[:first] == fused.nodes[:first]
    kv_proj, append, q_proj, attention = split.nodes[first : end - len(names)]
    assert split.nodes[end - len(names) :] == fused.nodes[end:]
    assert append.inputs == (kv_proj.output, None)
    assert attention.inputs == (q_proj.output, append.output, None)
    prefix = "model.layers.2.self_attn."
    for linear, projections in ((q_proj, "q"), (kv_proj, "kv")):
        for operand, kind in ((linear.weight(1), "weight"), (linear.weight(2), "bias")):
            assert operand.name == f"{prefix}{projections}_proj.{kind}"
            tensors = [f"{prefix}{name}_proj.{kind}" for name in projections]
            assert [part.tensor for part in operand.parts] == tensors
    assert q_proj.output.columns == attention.output.columns


def test_a_chain_of_sums_is_split_link_by_link(tmp_path: Path) -> None:
    plain = plain_network(tmp_path, family="llama", num_layers=2, num_heads=8, head_dim=32)
    fused = passed(plain, tmp_path, qformat="w4a8_dynamic")
    tensors = [f"model.layers.1.self_attn.{name}_proj.weight" for name in "qkv"]
    with_terms = verify(split_zero_points(fused, tensors), after="split_zero_points")
    early = verify(gather_early(split_queries(with_terms)), after="gather_early")
    producers = early.producers()
    (attention,) = (n for n in early.nodes if n.output.name == "layers.1.attention")
    append = producers[attention.value(1).name]
    for value, rows in ((attention.value(0), "logits"), (append.value(0), "tokens")):
        product = producers[value.name]
        terms = producers[product.value(3).name]
        assert terms.weight(1).is_zero_terms and terms.inputs[3] is None
        assert (product.output.rows, terms.output.rows) == (rows, rows)
        assert product.weight(1).shape[0] == terms.weight(1).shape[0] == value.columns


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
