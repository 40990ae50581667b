# SPDX-License-Identifier: Apache-2.0
"""The command `build-engine`, from its flags to what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginery.cli.build_engine import main
from enginery.cli.legacy_flags import LEGACY_FLAGS
from enginery.cli.main import main as enginery
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engine_reader import read_engine
from tests.support.kernel_compiler import FakeCompiler


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model", "llama")


def build(*args: object) -> int:
    return main([str(arg) for arg in args])


def test_flags_in_either_spelling_and_under_their_old_names(tmp_path: Path, model: Path) -> None:
    for number, (model_flag, output_flag, batch_flag) in enumerate(
        [
            ("--model", "--output", "--max_batch_size"),
            ("--model_dir", "--output_dir", "--max-batch-size"),
            ("--checkpoint-dir", "--output-dir", "--max_batch-size"),
        ]
    ):
        output = tmp_path / f"engine{number}"
        assert build(model_flag, model, output_flag, output, batch_flag, 5) == 0
        assert read_engine(output / "rank0.engine").attributes["max_batch_size"] == 5


def test_every_option_reaches_the_engine(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "engine"
    status = build(
        "--model", model, "--output", output, "--sku", "cpu", "--dtype", "float32",
        "--qformat", "int8_wo", "--tp_size", 2, "--max_batch_size", 3, "--max_num_tokens", 77,
        "--max_seq_len", 300, "--max_input_len", 200, "--tokens_per_block", 16,
        "--kv_cache_dtype", "bfloat16", "--kv_cache_bytes", 1_000_000,
    )  # fmt: skip
    assert status == 0
    attributes = read_engine(output / "rank1.engine").attributes
    expected = {
        "dtype": "float32", "qformat": "int8_wo", "max_batch_size": 3, "max_num_tokens": 77,
        "max_seq_len": 300, "max_input_len": 200, "tokens_per_block": 16,
        "kv_cache_dtype": "bfloat16", "num_heads": 2,
    }  # fmt: skip
    assert {name: attributes[name] for name in expected} == expected


def test_the_plan_comes_first_and_the_summary_last(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build("--model", model, "--output", tmp_path / "engine")
    out = capsys.readouterr().out
    assert out.index("LlamaForCausalLM") < out.index("Memory plan") < out.index("Wrote ")
    assert "peak anonymous memory" in out


def test_a_dry_run_writes_nothing_and_needs_no_output(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("--model", model, "--dry_run") == 0
    assert "Memory plan" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_json_alone_on_standard_output(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build("--model", model, "--output", tmp_path / "engine", "--json", "--gemm_plugin", "auto")
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert set(result) == {"notes", "options", "memory_plan", "summary"}
    assert result["options"]["max_seq_len"] == 512
    assert result["summary"]["peak_anonymous_bytes"] > 0
    (note,) = result["notes"]
    assert note.startswith("--gemm_plugin has no effect: kernels are part of the target")
    assert "Memory plan" in captured.err


@pytest.mark.parametrize("level", ["error", "warning"])
def test_quiet_log_levels_print_nothing(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    build("--model", model, "--output", tmp_path / "e", "--log_level", level, "--workers", 2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_verbose_prints_the_network(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("--model", model, "--dry_run", "--log_level", "verbose")
    assert "= kv_append(%layers.1.self_attn.qkv_proj" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_file_gives_options_and_the_command_line_comes_first(
    tmp_path: Path, model: Path, kind: str
) -> None:
    options: dict[str, Any] = {
        "model": "model", "output-dir": "engine", "max_batch_size": 9, "max-seq-len": 99,
        "dtype": "float32", "skip_tokenizer": True,
    }  # fmt: skip
    path = tmp_path / f"build.{kind}"
    if kind == "json":
        path.write_text(json.dumps(options))
    else:
        path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in options.items()))
    assert build("--config", path, "--max_batch_size", 4) == 0
    engine = read_engine(tmp_path / "engine" / "rank0.engine")
    assert engine.attributes["max_batch_size"] == 4
    assert engine.attributes["max_seq_len"] == 99
    assert engine.tokens[0] == (b"", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch = 4", "max_batch: there is no such option; did you mean max_batch_size?"),
        ("max_batch_size = '4'", "max_batch_size = '4': must be an integer"),
        ("max_batch_size = true", "max_batch_size = True: must be an integer"),
        ("dry_run = 1", "dry_run = 1: must be true or false"),
        ("model = 'a'\nmodel_dir = 'b'", "model_dir: gives model a second time"),
        ("model = ", "is not valid TOML"),
    ],
)
def test_files_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "build.toml"
    path.write_text(text)
    assert build("--config", path) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build("--config", tmp_path / "no.toml") == 2
    assert "no.toml: cannot be read: No such file" in capsys.readouterr().err


def test_model_and_output_are_both_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert build() == 2
    error = capsys.readouterr().err
    assert "model: is missing (give --model DIR)" in error
    assert "output: is missing (give --output DIR)" in error


def test_errors_name_all_problems_without_a_traceback(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu", "head_dim": 3}))
    assert build("--model", model, "--output", tmp_path / "engine") == 2
    error = capsys.readouterr().err
    assert error.startswith("build-engine: error: ") and "2 problems" in error
    assert "hidden_act" in error and "head_dim" in error and "Traceback" not in error
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("name", LEGACY_FLAGS)
def test_old_flags_that_ask_for_nothing_else(
    model: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    flag = LEGACY_FLAGS[name]
    value = [] if flag.takes_value is False else [(flag.accepted or ("auto",))[0]]
    assert build("--model", model, "--dry_run", f"--{name}", *value) == 0
    assert f"note: --{name} has no effect: {flag.note}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"),
    [("max_beam_width", "4"), ("kv_cache_type", "continuous"), ("remove_input_padding", "disable"),
     ("pp_size", "2"), ("max_draft_len", "5"), ("logits_dtype", "float16")],
)  # fmt: skip
def test_old_flags_that_ask_for_what_is_not_built(
    model: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    assert build("--model", model, "--dry_run", f"--{flag}", value) == 2
    assert (
        f"{flag}: {value!r} is not supported: {LEGACY_FLAGS[flag].note}" in capsys.readouterr().err
    )


def test_a_misspelt_flag_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build("--model", model, "--dry_run", "--max_batch_sise", 4)
    assert stop.value.code == 2
    assert "--max_batch_sise" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for part in ("examples:", "int8_dynamic", "--max_num_tokens N", "--dry_run"):
        assert part in text
    assert "gemm_plugin" not in text


def test_help_tells_hardware_and_what_ran_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build("--help")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "SM 9.0" in lines["h100"] and "verified" in lines["h100"]
    assert "built only" in lines["rtx4090"] and "tensorrt_rtx" in lines["rtx4090"]
    assert "x86-64" in lines["cpu"]
    skus = [line for name, line in lines.items() if name in ("a100", "b200", "h200", "rtx5090")]
    assert len({line.index("built only") for line in skus}) == 1


def test_a_configuration_alone_compiles_for_gpus_and_says_what_it_would_take(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compiler = FakeCompiler(monkeypatch)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((model / "config.json").read_bytes())
    flags = ("--model", bare, "--sku", "h200,h100", "--dry_run", "--cache_dir", tmp_path / "cache")
    assert build(*flags) == 0
    captured = capsys.readouterr()
    assert "no weights: its tensors and its tokenizer were not checked" in captured.err
    out = captured.out
    assert out.index("Memory plan (h200;") < out.index("Memory plan (h100;") < out.index("Made")
    assert f"Made {len(compiled := compiler.compiled)} kernels" in out and ", 0 of them" in out
    assert {job.capability for job in compiled} == {(9, 0)}

    assert build(*flags, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["dry_run"]["num_cached"] == result["dry_run"]["num_kernels"] > 10
    assert result["dry_run"]["weight_bytes"] == result["memory_plan"]["weight_bytes"]
    assert set(result["memory_plans"]) == {"h100", "h200"}
    assert result["memory_plan"] == result["memory_plans"]["h100"], "the smaller of the two"

    assert build("--model", bare, "--output", tmp_path / "engine", "--sku", "h200") == 2
    assert "safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--sku", "a100", "--qformat", "fp8"), ("qformat: 'fp8'", "a100", "int8_sq")),
        (("--sku", "a100", "--kv_cache_dtype", "fp8"), ("kv_cache_dtype: 'fp8'", "a100")),
        (("--sku", "h200,a100", "--qformat", "fp8"), ("qformat: 'fp8'", "a100")),
        (("--sku", "h200", "--qformat", "int8_dynamic"), ("qformat: 'int8_dynamic'", "int8")),
        (("--sku", "h200", "--dtype", "float32"), ("dtype: 'float32'", "bfloat16")),
        (("--sku", "h200", "--qformat", "fp8"), ("input_scale",)),
        (("--sku", "h200,cpu"), ("sku: cpu has no engine in common with h200",)),
        (("--sku", "rtx3090"), ("sku: 'rtx3090' is not known", "rtx4090")),
    ],
)
def test_what_a_gpu_lacks_is_refused_before_anything_is_compiled(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    compiler = FakeCompiler(monkeypatch)
    output = tmp_path / "engine"
    assert build("--model", model, "--output", output, "--no_cache", *flags) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error, error
    assert "Traceback" not in error and not compiler.compiled and not output.exists()


def test_a_gpu_engine_is_built_and_inspected(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    FakeCompiler(monkeypatch)
    output = tmp_path / "engine"
    flags = ("--sku", "h200,a100", "--max_batch_size", 8, "--cache_dir", tmp_path / "cache")
    assert build("--model", model, "--output", output, *flags, "--dtype", "float16") == 0
    assert enginery(["verify", str(output)]) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["built_with"]["triton_language"] and manifest["kernel_sources"]["gemm"]
    assert set(manifest["skus"]) == set(manifest["memory_plans"]) == {"h200", "a100"}
    capsys.readouterr()

    assert enginery(["inspect", str(output)]) == 0
    text = capsys.readouterr().out
    for part in (
        "middle (run once", "SKU h200", "SKU a100", "segment middle      native, 6 launches",
        "Plans of a100", "8 rows (best 4)", "Kernels of h200", "paged_attention@0 decode",
        "segment=first", "sku.a100", "registers", "spills", "Memory plan of h200",
        "Memory plan of a100",
    ):  # fmt: skip
        assert part in text, part

    assert enginery(["inspect", str(output), "--json"]) == 0
    (rank,) = json.loads(capsys.readouterr().out)["ranks"]
    assert set(rank["skus"]) == {"h200", "a100"}
    assert rank["segments"]["segments"]["first"]["outputs"][0]["dtype"] == "f16"
    plan = rank["skus"]["a100"]["segments"]["middle"]["plan"]
    assert rank["skus"]["a100"]["file_bytes"][plan["file"]] == plan["bytes"]
    assert rank["skus"]["h200"]["segments"]["middle"]["plan"] is None
