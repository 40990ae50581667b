# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: work that was enqueued once is recorded, and replayed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from .driver import Driver, DriverError


class GraphCache:
    """Graphs by key, recorded on one stream; used from one thread at a time.

    Args:
        driver: in a current context.
        stream: where work is enqueued and graphs are launched.
        enabled: False: every work is enqueued each time.
    """

    def __init__(self, driver: Driver, stream: Any, enabled: bool = True) -> None:
        self._driver, self._stream, self.enabled = driver, stream, enabled
        self._graphs: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable | None, work: Callable[[], None]) -> None:
        """Runs `work`, which enqueues on the stream, or replays the graph of its key.

        The first run of a key enqueues the work and then calls `work` again to record it. So what
        happens at first use alone (modules load lazily) never falls into a recording, and what
        `work` does on the host must not matter when it is done twice.
        """
        if key is None or not self.enabled:
            work()
        elif key in self._graphs:
            self._driver.call("cuGraphLaunch", self._graphs[key], self._stream)
        else:
            work()
            self._graphs[key] = self._record(work)

    def _record(self, work: Callable[[], None]) -> Any:
        driver = self._driver
        # Calls of other threads must not end the recording.
        mode = driver.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        driver.call("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            self._abandon()
            raise
        graph = driver.call("cuStreamEndCapture", self._stream)
        try:
            return driver.call("cuGraphInstantiate", graph, 0)
        finally:
            driver.call("cuGraphDestroy", graph)

    def _abandon(self) -> None:
        """Ends a recording whose work failed; that error counts, not this one's."""
        try:
            graph = self._driver.call("cuStreamEndCapture", self._stream)
        except DriverError:
            return
        if graph is not None and int(graph):
            self._driver.call("cuGraphDestroy", graph)

    def close(self) -> None:
        """Frees all graphs."""
        while self._graphs:
            self._driver.call("cuGraphExecDestroy", self._graphs.popitem()[1])
