"""
One thread that inserts for all requests of a receiver: what arrives during a commit shares the next one.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future

from tl_orchestration.errors import LedgerError
from tl_orchestration.webhooks.inbox import Arrival, Inbox

#: Most deliveries that wait for their commit, and most in one transaction.
BACKLOG = 2000
PORTION = 500

_Waiting = tuple[Arrival, "Future[None]"]


class Writer:
    """
    Inserts arrivals. The thread begins with the first one.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(BACKLOG)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, arrival: Arrival) -> Future[None]:
        """
        Insert an arrival. The future is done when it is durable, and fails with ``LedgerError`` if it may not be.

        Raises:
            queue.Full: Too many wait already.
        """
        if self._thread is None:
            self._start()
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # who gives up waiting must not take it out of the transaction
        self._waiting.put_nowait((arrival, future))
        return future

    def close(self) -> None:
        """
        Insert what waits, and end the thread.
        """
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tl-inbox-writer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = [self._waiting.get()]
            while len(batch) < PORTION and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            ended = None in batch
            self._insert([one for one in batch if one is not None])

    def _insert(self, batch: list[_Waiting]) -> None:
        try:
            self._inbox.put(arrival for arrival, _ in batch)
        except Exception as error:  # whatever it is, those who wait must hear of it, and the thread goes on
            told = error if isinstance(error, LedgerError) else LedgerError(f"Unexpected {type(error).__name__}.")
            for _, future in batch:
                future.set_exception(told)
        else:
            for _, future in batch:
                future.set_result(None)


__all__ = ["Writer"]
