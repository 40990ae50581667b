# SPDX-License-Identifier: Apache-2.0
"""Which providers run the segments on a SKU, and the plans of those that compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from enginery.builder.cache import Cache, content_key
from enginery.builder.errors import Problem, SkuError
from enginery.builder.sku import Sku
from enginery.builder.targets.tensorrt.plans import (
    Plan,
    PlanJob,
    TensorRT,
    build_plans,
    find_tensorrt,
)
from enginery.builder.targets.tensorrt.segment import SegmentType

NATIVE = "native"
CACHE_KIND = "plans"

PlanName = tuple[tuple[int, int], SegmentType]
"""What tells plans of one build apart: compute capability and segment."""


def plan_name(job: PlanJob) -> PlanName:
    """The name of the plan that a job makes."""
    return job.capability, job.segment


def providers_of(sku: Sku) -> tuple[str, ...]:
    """The providers that are built for a SKU, in its order of preference.

    A SKU lists TensorRT-RTX for both packages of TensorRT: whichever is installed compiles.

    Raises:
        SkuError: the SKU has none but TensorRT, and no TensorRT here builds for it.
    """
    gpu = sku.gpu
    assert gpu is not None
    tensorrt = find_tensorrt()
    can_plan = tensorrt is not None and tensorrt.builds_for(gpu.compute_capability)
    found = []
    for provider in gpu.providers:
        if provider == NATIVE:
            found.append(NATIVE)
        elif tensorrt is not None and can_plan and tensorrt.package not in found:
            found.append(tensorrt.package)
    if not found:
        major, minor = gpu.compute_capability
        message = (
            "no TensorRT is installed"
            if tensorrt is None
            else f"{tensorrt.package} {tensorrt.version} does not build for SM {major}.{minor}"
        )
        problem = Problem("providers", message, "pip install 'enginery[rtx]'")
        raise SkuError(sku.name, [problem])
    return tuple(found)


def cached_plans(jobs: Sequence[PlanJob], cache: Cache) -> dict[PlanName, Plan]:
    """The plans that the cache holds."""
    found = {}
    for job in jobs:
        content = cache.get(CACHE_KIND, _key(job))
        if content is not None:
            found[plan_name(job)] = Plan.from_bytes(content)
    return found


def make_plans(
    jobs: Sequence[PlanJob], cache: Cache, on_done: Callable[[], None]
) -> dict[PlanName, Plan]:
    """Builds plans in a process of its own and caches each as it is done.

    Raises:
        PlanError: TensorRT refuses a segment, or its plan has other GEMM operands than asked for.
    """

    def keep(job: PlanJob, plan: Plan) -> None:
        cache.put(CACHE_KIND, _key(job), plan.to_bytes())
        on_done()

    plans = build_plans(jobs, _tensorrt(), keep)
    return {plan_name(job): plan for job, plan in zip(jobs, plans, strict=True)}


def _key(job: PlanJob) -> str:
    return content_key(job.key_parts(_tensorrt()))


def _tensorrt() -> TensorRT:
    tensorrt = find_tensorrt()
    assert tensorrt is not None, "a plan is asked for where no provider compiles"
    return tensorrt
