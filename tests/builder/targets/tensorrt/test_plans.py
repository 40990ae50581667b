# SPDX-License-Identifier: Apache-2.0
"""Plans by TensorRT-RTX, which needs no GPU to build them: profiles, operands, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from enginery.builder.targets.tensorrt import plan_process, plans
from enginery.builder.targets.tensorrt.gemm_operands import read_gemms
from enginery.builder.targets.tensorrt.onnx_segment import emit_segment
from enginery.builder.targets.tensorrt.plan_process import PlanProcess
from enginery.builder.targets.tensorrt.plans import (
    RTX_CAPABILITIES,
    Plan,
    PlanError,
    PlanJob,
    Profile,
    TensorRT,
    build_plans,
    check_operands,
    find_tensorrt,
    plan_profiles,
)
from enginery.builder.targets.tensorrt.segment import SegmentType
from tests.support.segments import tiny_segments

ADA, AMPERE, BLACKWELL = (8, 9), (8, 0), (12, 0)
OPERANDS = {
    ("none", "bf16"): "bf16 x bf16",
    ("none", "f16"): "half x half",
    ("int8_wo", "bf16"): "bf16 x bf16",
    ("int4_wo", "f16"): "half x half",
    ("fp8", "bf16"): "fp8_e4m3 x fp8_e4m3",
    ("fp8", "f16"): "fp8_e4m3 x fp8_e4m3",
    ("int8_sq", "bf16"): "int8 x int8",
    ("int8_sq", "f16"): "int8 x int8",
}


@pytest.fixture(scope="module")
def tensorrt() -> TensorRT:
    found = find_tensorrt()
    assert found is not None, "install the extra rtx"
    return found


def plans_of(
    segments: Sequence[SegmentType],
    dtype: str,
    tensorrt: TensorRT,
    capability: tuple[int, int] = ADA,
) -> list[Plan]:
    jobs = [PlanJob(s, emit_segment(s, dtype), capability, 12, 200) for s in segments]
    return build_plans(jobs, tensorrt)


@pytest.mark.parametrize(("scheme", "dtype"), OPERANDS)
def test_gemms_have_the_operands_asked_for(scheme: str, dtype: str, tensorrt: TensorRT) -> None:
    segments = [
        segment
        for segment in tiny_segments(scheme, dtype, bias=True, tp_size=1)
        if segment.name in ("middle", "head")
    ]
    output = "half" if dtype == "f16" else "bf16"
    for segment, plan in zip(segments, plans_of(segments, dtype, tensorrt), strict=True):
        layers = [node for node in segment.nodes if node.op == "linear"]
        is_plain = segment.name == "head" and scheme != "int8_wo"
        operands = OPERANDS["none" if is_plain else scheme, dtype]
        assert plan.gemm_operands == (f"{operands} -> {output}",) * len(layers)
        assert plan.data.startswith(b"vtrt")
        assert plan.seconds > 0


def test_sharded_segments_build_for_every_capability(tensorrt: TensorRT) -> None:
    segments = tiny_segments("int8_sq", "bf16", bias=True, tp_size=2)
    jobs = [
        PlanJob(segment, emit_segment(segment, "bf16"), capability, 12, 200)
        for capability, names in (
            (AMPERE, ("output",)),
            ((8, 6), ("mlp",)),
            (BLACKWELL, ("input",)),
        )
        for segment in segments
        if segment.name in names
    ]
    assert len(build_plans(jobs, tensorrt)) == 3


def test_plan_of_another_scheme_fails_the_check(tensorrt: TensorRT) -> None:
    # The negative control: an fp16 plan is not taken for an fp8 one, nor an int8 one.
    asked, *_ = tiny_segments("fp8", "f16", False, tp_size=1)
    for scheme, said in (("none", "half x half"), ("int8_sq", "int8 x int8")):
        other, *_ = tiny_segments(scheme, "f16", False, tp_size=1)
        (plan,) = plans_of([other], "f16", tensorrt)
        with pytest.raises(PlanError, match=f"'first'.*\n.*qkv.*fp8_e4m3.* is {said}"):
            check_operands(asked, plan)
        check_operands(other, plan)


def test_one_wrong_gemm_among_right_ones_fails_the_check(tensorrt: TensorRT) -> None:
    segment = tiny_segments("fp8", "bf16", False, tp_size=1)[1]
    (plan,) = plans_of([segment], "bf16", tensorrt)
    down = next(node for node in segment.nodes if node.output.name == "x_out")
    mixed = dataclasses.replace(down, scheme="int8_sq")
    weight = next(item for item in segment.tensors if item.name == down.inputs[1])
    inputs = tuple(
        dataclasses.replace(weight, dtype="i8") if item == weight else item
        for item in segment.inputs
    )
    nodes = tuple(mixed if node == down else node for node in segment.nodes)
    with pytest.raises(PlanError) as error:
        check_operands(dataclasses.replace(segment, inputs=inputs, nodes=nodes), plan)
    assert [problem.field for problem in error.value.problems] == ["down_proj"] * 2  # both profiles


def test_gemm_that_is_not_in_the_plan_fails_the_check() -> None:
    segment, *_ = tiny_segments("none", "bf16", False, tp_size=1)
    with pytest.raises(PlanError, match="not in the plan"):
        check_operands(segment, Plan(b"vtrt and nothing known", (Profile(1, 1, 1),), (), 0.0))
    assert read_gemms(bytes(range(256)) * 3) == {}


def test_unsupported_precision_is_refused_in_tensorrts_words(tensorrt: TensorRT) -> None:
    segments = tiny_segments("fp8", "bf16", False, tp_size=1)
    with pytest.raises(PlanError, match=r"segment 'first': tensorrt_rtx: .*sm80.*fp8_e4m3"):
        plans_of(segments, "bf16", tensorrt, AMPERE)


def test_malformed_model_is_refused(tensorrt: TensorRT) -> None:
    segment = tiny_segments("none", "bf16", False, tp_size=1)[3]
    with pytest.raises(PlanError, match="segment 'head': tensorrt_rtx: does not parse the model"):
        build_plans([PlanJob(segment, b"no model", ADA, 4, 8)], tensorrt)


@pytest.mark.parametrize("capability", [(9, 0), (10, 0), (7, 0)])
def test_other_capabilities_are_refused_before_anything_starts(
    capability: tuple[int, int], tensorrt: TensorRT
) -> None:
    assert not tensorrt.builds_for(capability)
    with pytest.raises(PlanError, match=r"builds for 8\.0, 8\.6, 8\.9, 12\.0"):
        plans_of(tiny_segments("none", "bf16", False, 1), "bf16", tensorrt, capability)


def test_death_of_tensorrts_process_names_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorrt: TensorRT
) -> None:
    # Answers one job and dies of the next, as TensorRT does of some models.
    (tmp_path / "dying_worker.py").write_text(
        "import json, os, sys\n"
        "job = json.loads(sys.stdin.readline())\n"
        "open(job['plan'], 'wb').write(b'plan')\n"
        "print(json.dumps({'seconds': 0.5}), flush=True)\n"
        "sys.stdin.readline()\n"
        "print('assertion in the builder', file=sys.stderr, flush=True)\n"
        "os.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(plan_process, "WORKER", "dying_worker")
    other = dataclasses.replace(tensorrt, package="tensorrt")  # whose operands are not read
    done: list[str] = []
    segments = tiny_segments("none", "bf16", False, tp_size=1)[:2]
    jobs = [PlanJob(segment, b"", ADA, 4, 8) for segment in segments]
    with pytest.raises(PlanError, match=r"'middle'.*SIGABRT: assertion in the builder"):
        build_plans(jobs, other, lambda job, plan: done.append(job.segment.name))
    assert done == ["first"]


def test_missing_package_is_told(tensorrt: TensorRT) -> None:
    with PlanProcess("no_tensorrt_of_this_name") as process:
        assert "No module named 'no_tensorrt" in str(process.build(b"", ADA, [(1, 1, 1)]))


def test_profiles_follow_the_limits() -> None:
    assert plan_profiles("tokens", 64, 2048) == (Profile(1, 32, 64), Profile(64, 2048, 2048))
    assert plan_profiles("tokens", 1, 7) == (Profile(1, 1, 1), Profile(1, 7, 7))
    assert plan_profiles("tokens", 8, 8) == (Profile(1, 4, 8),)
    # 64 more for the logits of prompts, as the runtime asks for.
    assert plan_profiles("logits", 64, 2048) == (Profile(1, 32, 128),)
    assert plan_profiles("logits", 64, 70) == (Profile(1, 32, 70),)


def test_plan_survives_the_cache() -> None:
    plan = Plan(b"vtrt\0\xff", (Profile(1, 2, 3), Profile(3, 4, 5)), ("a x b -> c",), 0.25)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    record = plan.record("plans/first.plan")
    assert record["file"] == "plans/first.plan" and record["bytes"] == 6
    assert record["profiles"][1] == {"min": 3, "opt": 4, "max": 5}


def test_key_tells_jobs_apart(tensorrt: TensorRT) -> None:
    segment, *_ = tiny_segments("none", "bf16", False, tp_size=1)
    job = PlanJob(segment, b"model", ADA, 4, 8)
    changed = [
        dataclasses.replace(job, content=b"other"),
        dataclasses.replace(job, capability=BLACKWELL),
        dataclasses.replace(job, max_num_tokens=9),
    ]
    keys = [job.key_parts(tensorrt), *(other.key_parts(tensorrt) for other in changed)]
    keys.append(job.key_parts(dataclasses.replace(tensorrt, version="1.8")))
    assert len({str(key) for key in keys}) == 5
    # The same structure under another name is the same plan.
    renamed = dataclasses.replace(job, segment=dataclasses.replace(segment, name="again"))
    assert renamed.key_parts(tensorrt) == keys[0]


@pytest.mark.parametrize(
    ("installed", "gpu", "expected"),
    [
        ({"tensorrt": "10.13", "tensorrt_rtx": "1.7"}, (9, 0), ("tensorrt", "10.13", ((9, 0),))),
        ({"tensorrt": "10.13", "tensorrt_rtx": "1.7"}, None, ("tensorrt_rtx", "1.7", None)),
        ({"tensorrt": "10.13"}, None, None),
        ({"tensorrt_rtx": "1.7"}, (8, 9), ("tensorrt_rtx", "1.7", None)),
        ({}, (8, 9), None),
    ],
)
def test_tensorrt_wins_where_it_works(
    installed: dict[str, str],
    gpu: tuple[int, int] | None,
    expected: tuple[str, str, tuple[tuple[int, int], ...] | None] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed: list[str] = []

    def probe(package: str) -> tuple[int, int] | None:
        probed.append(package)
        return gpu

    monkeypatch.setattr(plans, "_installed_version", installed.get)
    monkeypatch.setattr(PlanProcess, "probe", probe)
    found = find_tensorrt.__wrapped__()
    if expected is None:
        assert found is None
    else:
        package, version, capabilities = expected
        assert found == TensorRT(package, version, capabilities or RTX_CAPABILITIES)
    # What is not installed is not tried.
    assert probed == (["tensorrt"] if "tensorrt" in installed else [])


def test_package_that_does_not_import_does_not_work() -> None:
    assert PlanProcess.probe("no_tensorrt_of_this_name") is None
