# SPDX-License-Identifier: Apache-2.0
"""One thread that polls a runtime and hands each event to its request's mailbox."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .errors import EngineryError, ShutDownError
from .generation import Mailbox
from .runtime import Runtime

POLL_TIMEOUT_MS = 60_000


class Dispatcher:
    """Owns a runtime's event stream.

    Args:
        runtime: nobody else polls it; closed by `close`.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._mailboxes: dict[int, Mailbox] = {}
        self._lock = threading.Lock()
        self._failure: EngineryError | None = None
        # A daemon, so that an interpreter that forgot to close does not wait for it.
        self._thread = threading.Thread(target=self._run, name="enginery-dispatch", daemon=True)
        self._thread.start()

    def submit(self, submit: Callable[[], int], mailbox: Mailbox) -> int:
        """Calls `submit` and registers the request that it returns before any event is dispatched.

        Raises:
            EngineryError: what `submit` raises, or what ended the dispatch thread.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            request_id = submit()
            self._mailboxes[request_id] = mailbox
            return request_id

    def cancel(self, request_id: int) -> bool:
        """Cancels a request; False when it has ended, or the runtime has."""
        try:
            return self._runtime.cancel(request_id)
        except ShutDownError:
            return False

    def close(self) -> None:
        """Cancels what runs, waits for the thread and closes the runtime; twice is harmless."""
        self._runtime.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        failure: EngineryError = ShutDownError("the LLM was closed")
        try:
            while True:
                self._dispatch()
        except ShutDownError:
            pass
        except Exception as error:
            failure = EngineryError(f"the dispatch thread failed: {error!r}")
            raise
        finally:
            with self._lock:
                self._failure = failure
                cut_off = list(self._mailboxes.values())
                self._mailboxes.clear()
            for mailbox in cut_off:
                mailbox.fail(failure)

    def _dispatch(self) -> None:
        for event in self._runtime.poll(POLL_TIMEOUT_MS):
            with self._lock:
                mailbox = self._mailboxes[event.request_id]
                if event.is_last:
                    del self._mailboxes[event.request_id]
            mailbox.put(event)
