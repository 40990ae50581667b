# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginery.builder.checkpoint.config import ModelConfig, read_config
from enginery.builder.errors import ConfigError
from tests.support.checkpoints import write_tiny_checkpoint


def read(tmp_path: Path, family: str = "llama", **changes: Any) -> ModelConfig:
    """Reads a tiny configuration with entries changed, or left out where given as ..."""
    write_tiny_checkpoint(tmp_path, family)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return read_config(tmp_path)


def problems(tmp_path: Path, family: str = "llama", **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, family, **changes)
    return [str(problem) for problem in error.value.problems]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"architectures": ["GPT2LMHeadModel"]}, "supported are LlamaForCausalLM"),
    "no_architecture": ({"architectures": ...}, "architectures: None is not supported"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported; 'silu' is"),
    "quantised": (
        {"quantization_config": {"quant_method": "squeezellm"}},
        "quantization_config.quant_method: 'squeezellm' is not supported; supported are awq",
    ),
    "dtype": ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype: 'float8_e4m3fn' is not supported"),
    "size_missing": ({"hidden_size": ...}, "hidden_size: is missing"),
    "size_zero": ({"num_hidden_layers": 0}, "num_hidden_layers: 0 is not an integer from 1"),
    "size_text": ({"vocab_size": "320"}, "vocab_size: '320' is not an integer"),
    "size_boolean": ({"vocab_size": True}, "vocab_size: True is not an integer"),
    "size_huge": ({"intermediate_size": 1 << 40}, "intermediate_size: 1099511627776 is not"),
    "kv_heads": ({"num_key_value_heads": 3}, "3 does not divide 4 heads"),
    "head_dim_odd": ({"head_dim": 33}, "head_dim: 33 is odd"),
    "head_dim_left_out": ({"num_attention_heads": 6}, "head_dim: is missing, and 6 heads"),
    "epsilon": ({"rms_norm_eps": 0}, "rms_norm_eps: 0 is not a finite number above 0"),
    "epsilon_nan": ({"rms_norm_eps": float("nan")}, "rms_norm_eps: nan is not a finite number"),
    "eos": ({"eos_token_id": [1, 999]}, "not made of token ids below vocab_size 320"),
    "tie": ({"tie_word_embeddings": "yes"}, "'yes' is neither true nor false"),
    "window": ({"sliding_window": 8}, "sliding_window: LlamaForCausalLM has none"),
    "rotary_share": ({"partial_rotary_factor": 0.5}, "the whole head is rotated"),
    "rope_dynamic": (
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "'dynamic' is not supported: its frequencies depend on the length at compute time",
    ),
    "rope_longrope": (
        {"rope_scaling": {"type": "longrope"}},
        "'longrope' is not supported: it switches between two sets",
    ),
    "rope_unknown": ({"rope_scaling": {"type": "magic"}}, "'magic' is not supported: it is not"),
    "rope_no_type": ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.rope_type: is missing"),
    "rope_two_types": (
        {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}},
        "rope_scaling.type: 'linear' contradicts rope_type 'yarn'",
    ),
    "rope_no_factor": ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: is missing"),
    "rope_factor": (
        {"rope_scaling": {"type": "linear", "factor": 0.5}}, "rope_scaling.factor: 0.5 is below 1",
    ),
    "rope_stray_entry": (
        {"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 3}},
        "'linear' rope has no entry beta_fast",
    ),
    "rope_given_twice": (
        {"rope_scaling": {"type": "linear", "factor": 2},
         "rope_parameters": {"rope_type": "default"}},
        "rope_scaling: differs from rope_parameters",
    ),
    "theta": ({"rope_theta": -1}, "rope_theta: -1 is not a finite number above 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_entries(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    found = problems(tmp_path, **changes)
    assert any(message in problem for problem in found), found


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, hidden_act="relu", rms_norm_eps=..., rope_theta="x", head_dim=7)
    assert {text.split(":")[0] for text in found} == {
        "hidden_act", "rms_norm_eps", "rope_theta", "head_dim",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '{"a": 1, "a": 2}', "[" * 100_000, "\xff", '{"a": ' + "9" * 5000 + "}"]
)
def test_a_file_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        read_config(tmp_path / "nowhere")


def test_both_spellings_of_rope_say_the_same(tmp_path: Path) -> None:
    for scaling in ("linear", "yarn", "llama3"):
        options: dict[str, Any] = {"rope_scaling": scaling, "rope_theta": 5e5}
        old = write_tiny_checkpoint(tmp_path / "old", "llama", config_style="v4", **options)
        new = write_tiny_checkpoint(tmp_path / "new", "llama", config_style="v5", **options)
        assert read_config(old).rope == read_config(new).rope
        assert read_config(old).rope.theta == 5e5
        assert read_config(old).dtype == read_config(new).dtype == "float32"


def test_special_tokens_of_the_generation_config_come_first(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, "llama", config_overrides={"eos_token_id": 7})
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [5, 6, 5], "pad_token_id": 4}))
    config = read_config(tmp_path)
    assert config.eos_token_ids == (5, 6)
    assert config.pad_token_id == 4
    assert config.bos_token_id == 314
    path.unlink()
    assert read_config(tmp_path).eos_token_ids == (7,)


def test_sliding_windows_per_layer(tmp_path: Path) -> None:
    def windows(family: str, **changes: Any) -> tuple[int, ...]:
        return read(tmp_path, family, num_hidden_layers=4, **changes).sliding_windows

    assert windows("mistral", sliding_window=None) == (0, 0, 0, 0)
    assert windows("mistral", sliding_window=9) == (9, 9, 9, 9)
    off = {"use_sliding_window": False, "sliding_window": 9, "max_window_layers": 1}
    assert windows("qwen2", **off) == (0, 0, 0, 0)
    on = off | {"use_sliding_window": True}
    assert windows("qwen2", **on) == (0, 9, 9, 9)
    assert windows("qwen3", **on | {"max_window_layers": ...}) == (0, 0, 0, 0)  # 28 by default
    kinds = ["sliding_attention", "full_attention"] * 2
    assert windows("qwen3", **on, layer_types=kinds) == (9, 0, 9, 0)


def test_sliding_windows_that_contradict_themselves(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"]
    for family, changes, message in (
        ("mistral", {"sliding_window": ...}, "null says that there is none"),
        ("mistral", {"sliding_window": 9, "layer_types": kinds}, "contradicts sliding_window"),
        ("qwen2", {"layer_types": kinds}, "use_sliding_window is not true"),
        ("qwen2", {"layer_types": kinds[:1]}, "an entry for each"),
        ("qwen2", {"layer_types": ["chunked_attention", "x"]}, "'chunked_attention', 'x' is not"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": None},
            "sliding_window: is missing",
        ),
    ):
        assert any(message in text for text in problems(tmp_path, family, **changes)), message


def test_biases_by_family(tmp_path: Path) -> None:
    llama = read(tmp_path, "llama", attention_bias=True, mlp_bias=True)
    assert (llama.qkv_bias, llama.output_bias, llama.mlp_bias) == (True, True, True)
    qwen2 = read(tmp_path, "qwen2")
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.mlp_bias) == (True, False, False)
    assert problems(tmp_path, "mistral", attention_bias=True) == [
        "attention_bias: MistralForCausalLM has no such biases"
    ]


def test_head_dim_and_kv_heads_by_default(tmp_path: Path) -> None:
    assert read(tmp_path, "llama", num_key_value_heads=...).num_kv_heads == 4
    assert read(tmp_path, "qwen3", head_dim=...).head_dim == 128
    assert problems(tmp_path, "mistral", num_key_value_heads=...) == [
        "num_key_value_heads: is missing"
    ]
