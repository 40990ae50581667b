# SPDX-License-Identifier: Apache-2.0
"""Drives a runtime in this process with a workload, as clients of a server would."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from enginery.bench.metrics import RequestRecord
from enginery.bench.workload import BenchRequest, FloatArray
from enginery.runtime.errors import EngineryError
from enginery.runtime.event import Event
from enginery.runtime.runtime import Runtime
from enginery.runtime.sampling_params import SamplingParams

POLL_TIMEOUT_MS = 100


class LoadClient:
    """Submits requests at their times and records when their tokens come.

    Nobody else may poll the runtime.

    Args:
        runtime: serves the requests.
        concurrency: so many requests are in flight at most; None: as many as arrive. A request
            that had to wait for another counts from when it was submitted.
        keep_token_ids: whether records hold the tokens too.
    """

    def __init__(
        self, runtime: Runtime, *, concurrency: int | None = None, keep_token_ids: bool = False
    ) -> None:
        self._runtime = runtime
        self._slots = None if concurrency is None else threading.Semaphore(concurrency)
        self._keep_token_ids = keep_token_ids
        self._records: dict[int, RequestRecord] = {}
        self._lock = threading.Lock()
        self._num_open = 0
        self._all_submitted = False
        self._receiver = threading.Thread()
        self._failure: EngineryError | None = None

    def run(
        self, requests: Sequence[BenchRequest], arrivals: FloatArray, *, seed: int = 0
    ) -> list[RequestRecord]:
        """Runs a workload to its end.

        Args:
            requests: what to ask.
            arrivals: seconds from the start, float64 [len(requests)].
            seed: of the sampled tokens.

        Returns:
            A record per request, in order; `error` tells of those that failed.
        """
        self._records.clear()
        self._num_open, self._all_submitted = 0, False
        self._receiver = threading.Thread(target=self._receive, name="enginery-bench-receive")
        self._receiver.start()
        records = []
        try:
            begin = time.monotonic()
            for index, (request, arrival) in enumerate(zip(requests, arrivals, strict=True)):
                delay = begin + float(arrival) - time.monotonic()
                if delay > 0:
                    time.sleep(delay)
                records.append(self._submit(index, request, seed))
        finally:
            self._all_submitted = True
            self._receiver.join()
        if self._failure is not None:
            raise self._failure
        return records

    def _submit(self, index: int, request: BenchRequest, seed: int) -> RequestRecord:
        self._take_slot()
        params = SamplingParams(max_tokens=request.output_tokens, ignore_eos=True, seed=seed)
        # Held until the record is known: the first token may come before submit returns.
        with self._lock:
            record = RequestRecord(index, len(request.prompt_token_ids), time.monotonic())
            try:
                request_id = self._runtime.submit(request.prompt_token_ids, params)
            except EngineryError as error:
                record.error = str(error)
                if self._slots is not None:
                    self._slots.release()
            else:
                self._records[request_id] = record
                self._num_open += 1
        return record

    def _take_slot(self) -> None:
        while self._slots is not None and not self._slots.acquire(timeout=1.0):
            if not self._receiver.is_alive():  # nobody will give one back
                raise self._failure or EngineryError("the receiving thread has ended")

    def _receive(self) -> None:
        try:
            while not (self._all_submitted and self._num_open == 0):
                events = self._runtime.poll(POLL_TIMEOUT_MS)
                now = time.monotonic()
                with self._lock:
                    for event in events:
                        self._record(event, now)
        except EngineryError as error:
            self._failure = error

    def _record(self, event: Event, now: float) -> None:
        record = self._records[event.request_id]
        record.add(event, now)
        if self._keep_token_ids:
            record.token_ids += event.token_ids
        if event.is_last:
            del self._records[event.request_id]
            self._num_open -= 1
            if self._slots is not None:
                self._slots.release()
