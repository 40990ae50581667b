# SPDX-License-Identifier: Apache-2.0
"""examples/stream.c: compiled as C, linked with the library, run on a tiny engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from enginery.runtime.library import candidate_paths
from enginery.runtime.llm import LLM
from enginery.runtime.sampling_params import SamplingParams

ROOT = Path(__file__).parents[2]
PROMPT = [5, 9, 12]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = next(path for path in candidate_paths() if path.is_file())
    built = tmp_path_factory.mktemp("c") / "stream"
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    command += ["-I", str(ROOT / "runtime" / "include"), str(ROOT / "examples" / "stream.c")]
    command += [str(library), f"-Wl,-rpath,{library.parent}", "-o", str(built)]
    subprocess.run(command, check=True)
    return built


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [program, *(str(argument) for argument in arguments)], capture_output=True, timeout=60
    )


def test_streams_the_text_that_python_gets(program: Path, engine_path: Path) -> None:
    done = run(program, engine_path, 8, *PROMPT)
    assert done.returncode == 0, done.stderr
    text, figures = done.stdout.rstrip(b"\n").rsplit(b"\n", 1)
    with LLM(engine_path) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=8)
        expected = llm.generate([PROMPT], params)[0].outputs[0]
    assert text.decode() == expected.text
    assert figures.startswith(b"%d tokens, first after " % len(expected.token_ids))


def test_says_what_is_wrong(program: Path, engine_path: Path) -> None:
    missing = run(program, "/nowhere/at/all", 8, *PROMPT)
    assert missing.returncode == 1
    assert b"/nowhere/at/all" in missing.stderr
    outside = run(program, engine_path, 8, 1_000_000)
    assert outside.returncode == 1
    assert b"prompt_token_ids[0] is 1000000" in outside.stderr
    usage = run(program, engine_path)
    assert usage.returncode == 2
    assert b"usage" in usage.stderr
