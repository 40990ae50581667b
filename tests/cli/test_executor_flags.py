# SPDX-License-Identifier: Apache-2.0
"""--emulate, --executor, --sku and the share of memory, in `serve` and `bench` alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enginery.cli.main import main
from enginery.emulation import EMULATED_EXECUTOR

ENGINE = str(Path(__file__).parents[1] / "golden" / "tiny_tensorrt.engine")
SHORT = ["--num_prompts", "1", "--input_len", "4", "--output_len", "4", "--warmup", "0"]
CPU_ENGINE = str(Path(__file__).parents[1] / "golden" / "tiny.engine")


def parameters(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The parameters that `enginery serve` writes, one `key value` a line."""
    assert main(["serve", ENGINE, "--dry_run", *flags]) == 0
    words = capsys.readouterr().out.split()
    keys = [json.loads(words[i + 1]) for i, word in enumerate(words) if word == "key:"]
    values = [json.loads(words[i + 1]) for i, word in enumerate(words) if word == "string_value:"]
    return "".join(f"{key} {value}\n" for key, value in zip(keys, values, strict=True))


def test_serve_hands_the_choice_to_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    written = parameters(capsys, "--emulate", "--sku", "h200")
    assert f"executor {EMULATED_EXECUTOR}\n" in written
    assert "sku h200\n" in written
    share = parameters(capsys, "--free-gpu-memory-fraction", "0.5")
    assert "kv_cache_free_gpu_mem_fraction 0.5\n" in share
    assert "executor some.package:make\n" in parameters(capsys, "--executor", "some.package:make")
    plain = parameters(capsys)
    assert "executor" not in plain
    assert "sku" not in plain


def test_threads(capsys: pytest.CaptureFixture[str]) -> None:
    written = parameters(capsys, "--threads", "3", "--pin-threads")
    assert "num_threads 3\n" in written
    assert "pin_threads true\n" in written
    assert "num_threads 5\n" in parameters(capsys, "--num_threads", "5")
    assert "_threads" not in parameters(capsys)
    with pytest.raises(SystemExit):
        main(["bench", CPU_ENGINE, "--threads", "-1"])
    assert "must be 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["serve", "--dry_run"], ["bench", *SHORT]])
@pytest.mark.parametrize(
    ("engine", "flags", "message"),
    [
        (CPU_ENGINE, ["--emulate"], "needs no emulation"),
        (ENGINE, ["--emulate"], "built for a100, h200; choose one with"),
        (ENGINE, ["--sku", "l40s"], "was built for a100, h200"),
        (ENGINE, ["--executor", "nothing"], "must be an import string"),
        (ENGINE, ["--free_gpu_memory_fraction", "0.5"], "give one of them"),
        (CPU_ENGINE, ["--kv_cache_free_gpu_mem_fraction", "0.5"], "no GPU runs the engine"),
    ],
)
def test_refuses_what_cannot_run(
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    engine: str,
    flags: list[str],
    message: str,
) -> None:
    status = main([command[0], engine, *command[1:], *flags, "--kv_cache_bytes", "4096"])
    assert status != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [["--emulate", "--executor", "a:b"], ["--executor", "a:b", "--emulate"]],
)
def test_flags_that_contradict(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", ENGINE, *flags])


@pytest.mark.parametrize("share", ["1", "0", "-0.5", "nan", "most"])
def test_shares_of_memory_that_are_none(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", ENGINE, f"--free_gpu_memory_fraction={share}"])
    assert f"'{share}' is not a number above 0 and below 1" in capsys.readouterr().err
