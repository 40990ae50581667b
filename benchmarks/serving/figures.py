# SPDX-License-Identifier: Apache-2.0
"""From the requests of a run to the sample that is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from enginery.bench.metrics import Distribution, RequestRecord, measure, meets

OBJECTIVES_MS = {"ttft": 500.0, "tpot": 50.0}
LATENCIES = ("ttft", "tpot", "itl", "e2e")


def summarise(records: Sequence[RequestRecord], num_ramp: int) -> dict[str, Any]:
    """The figures of one run.

    In a closed loop rates are of the time in which all users were at work: from the first counted
    request to the last one's submission. In an open loop they are of the whole run.

    Args:
        records: all requests of the run, in the order of submission.
        num_ramp: so many first ones are not counted; 0: an open loop.

    Raises:
        RuntimeError: a request failed; a load of which a part is missing is no sample.
    """
    failed = [record.error or "did not end" for record in records if not record.is_complete]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(records)} requests failed, first: {failed[0]}")
    counted = records[num_ramp:]
    metrics = measure(counted, OBJECTIVES_MS)
    share_met = sum(meets(record, OBJECTIVES_MS) for record in counted) / len(counted)
    output_tok_s, request_s = metrics.output_throughput, metrics.request_throughput
    if num_ramp:
        begin, end = counted[0].submit_time, counted[-1].submit_time
        times = [time for record in records for time in record.token_times]
        output_tok_s = sum(begin < time <= end for time in times) / (end - begin)
        request_s = (len(counted) - 1) / (end - begin)
    return {
        "num_requests": len(counted),
        "output_tok_s": output_tok_s,
        "request_s": request_s,
        "share_met": share_met,
        "goodput_s": share_met * request_s,
        **{name: _rounded(getattr(metrics, name)) for name in LATENCIES},
        "ttfts_ms": [round(record.ttft_ms, 2) for record in counted],
        "tpots_ms": [round(record.tpot_ms or 0.0, 3) for record in counted],
        "e2es_ms": [round(record.e2e_ms, 1) for record in counted],
        "ttft_all_mean_ms": sum(record.ttft_ms for record in records) / len(records),
        "delivery_lag_p50_ms": metrics.delivery_lag.p50,
    }


def _rounded(distribution: Distribution) -> dict[str, float]:
    return {name: round(value, 3) for name, value in dataclasses.asdict(distribution).items()}
