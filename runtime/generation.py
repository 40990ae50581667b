# SPDX-License-Identifier: Apache-2.0
"""A request in flight: what `LLM.generate_async` returns."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import TracebackType
from typing import Self

from .errors import EngineryError
from .event import Event
from .outputs import RequestOutput
from .tracker import RequestTracker

Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Mailbox:
    """Where the dispatch thread leaves a request's updates and any thread or task takes them.

    Args:
        tracker: folds events into the output.
        streaming: True keeps an update per event, False the last one only.
    """

    def __init__(self, tracker: RequestTracker, streaming: bool) -> None:
        self._tracker = tracker
        self._streaming = streaming
        self._updates: deque[RequestOutput] = deque()
        self._changed = threading.Condition()
        self._waiters: list[Waiter] = []
        self._error: EngineryError | None = None
        self.final: RequestOutput | None = None

    def put(self, event: Event) -> None:
        """Takes in an event; called by the dispatch thread alone."""
        with self._changed:
            self._tracker.update(event)
            if event.is_last:
                self.final = self._tracker.output
                self._updates.append(self.final)
            elif self._streaming:
                self._updates.append(self._tracker.snapshot())
            self._wake()

    def fail(self, error: EngineryError) -> None:
        """Ends the request for its readers: no event will come any more."""
        with self._changed:
            self._error = error
            self._wake()

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will come."""
        return self.final is not None or self._error is not None

    def take(self) -> RequestOutput | None:
        """The next update, None when there is none yet; raises StopIteration after the last."""
        with self._changed:
            if self._updates:
                return self._updates.popleft()
            if self._error is not None:
                raise self._error
            if self.final is not None:
                raise StopIteration
            return None

    def wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Blocks this thread until `ready()`; False when `timeout` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(ready, timeout)

    async def wait_async(self, ready: Callable[[], bool]) -> None:
        """Suspends this task until `ready()`."""
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[None] = loop.create_future()
            with self._changed:
                if ready():
                    return
                self._waiters.append((loop, future))
            await future

    @property
    def has_update(self) -> bool:
        """Whether `take` would return or raise."""
        return bool(self._updates) or self.is_finished

    def final_or_raise(self) -> RequestOutput:
        """The finished output, once `is_finished`; raises what cut the request off."""
        if self.final is None:
            assert self._error is not None
            raise self._error
        return self.final

    def _wake(self) -> None:
        self._changed.notify_all()
        for loop, future in self._waiters:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # the loop was closed with its tasks: nobody waits there
                continue
        self._waiters.clear()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Generation:
    """A request in flight, to be awaited, iterated or asked for its result.

    `await generation` and `generation.result()` give the finished `RequestOutput`. Iterating, with
    `for` or `async for`, gives an output per update when it is streaming (each with all tokens so
    far and, in `text_diff` and `token_ids_diff`, the new ones), else the finished one. It is one
    iterator: what one reader took another does not see.

    Dropping the object before the end cancels the request.
    """

    def __init__(self, request_id: int, mailbox: Mailbox, cancel: Callable[[int], bool]) -> None:
        self.request_id = request_id
        self._mailbox = mailbox
        self._cancel = cancel

    @property
    def finished(self) -> bool:
        """Whether the request has ended."""
        return self._mailbox.is_finished

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Waits for the end.

        Args:
            timeout: seconds; None: for ever.

        Raises:
            TimeoutError: the request goes on.
            ShutDownError: the LLM was closed before the end.
        """
        mailbox = self._mailbox
        if not mailbox.wait(lambda: mailbox.is_finished, timeout):
            raise TimeoutError(f"request {self.request_id} is not finished after {timeout} s")
        return self._mailbox.final_or_raise()

    def abort(self) -> None:
        """Cancels the request; its last update has finish_reason "cancelled"."""
        if not self.finished:
            self._cancel(self.request_id)

    async def aclose(self) -> None:
        """Cancels the request and waits until it has ended."""
        self.abort()
        await self._mailbox.wait_async(lambda: self.finished)

    def __await__(self) -> Generator[object, None, RequestOutput]:
        return self._result_async().__await__()

    def __iter__(self) -> Iterator[RequestOutput]:
        return self

    def __next__(self) -> RequestOutput:
        mailbox = self._mailbox
        while True:
            update = mailbox.take()
            if update is not None:
                return update
            mailbox.wait(lambda: mailbox.has_update, None)

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        while True:
            try:
                update = self._mailbox.take()
            except StopIteration:
                raise StopAsyncIteration from None
            if update is not None:
                return update
            await self._mailbox.wait_async(lambda: self._mailbox.has_update)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._mailbox.is_finished:
            self._cancel(self.request_id)

    async def _result_async(self) -> RequestOutput:
        try:
            await self._mailbox.wait_async(lambda: self.finished)
        except asyncio.CancelledError:
            self.abort()
            raise
        return self._mailbox.final_or_raise()
