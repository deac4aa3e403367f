"""
Deliveries that somebody else received: a gateway or a queue at the edge of a network in which nothing is public.

It must keep the untouched bytes and the signature header; it need not be trusted with more than losing them.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import IO, Any

from attrs import Factory, define

from tl_orchestration.errors import WebhookRefused, WebhookUndecided
from tl_orchestration.strict_json import strict_object
from tl_orchestration.webhooks.announcement import announcement
from tl_orchestration.webhooks.inbox import Arrival, Inbox
from tl_orchestration.webhooks.signatures import Delivery, Verifier
from tl_orchestration.webhooks.writer import PORTION, Writer

#: Largest line, bytes: a body of 1 MiB as base64, and its headers.
LARGEST_LINE = 2 * 1024 * 1024

#: A delivery, or why there is none.
Handed = Delivery | WebhookRefused


def from_lines(stream: IO[bytes]) -> Iterator[Handed]:
    """
    Read JSON lines with ``headers`` and ``body_base64``. Empty lines are passed over.
    """
    while line := stream.readline(LARGEST_LINE + 1):
        if len(line) > LARGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = stream.readline(LARGEST_LINE)
            yield WebhookRefused("The line is too long.")
        elif line.strip():
            yield _from_line(line)


def from_parts(headers: bytes, body: bytes) -> Iterator[Handed]:
    """
    Read one delivery from its headers, as they arrived, and its body.
    """
    pairs = [line.partition(":")[::2] for line in headers.decode("latin-1").splitlines() if line.strip()]
    yield Delivery(body, tuple((name.strip(), value.strip()) for name, value in pairs))


def _from_line(line: bytes) -> Handed:
    try:
        document = strict_object(line)
        body = base64.b64decode(document["body_base64"], validate=True)
        return Delivery(body, tuple(_pairs(document["headers"])))
    except (ValueError, KeyError, TypeError, binascii.Error):
        return WebhookRefused('The line is not a JSON object with "headers" and "body_base64".')


def _pairs(headers: Any) -> Iterator[tuple[str, str]]:
    for name, value in headers.items() if isinstance(headers, dict) else headers:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("a header is not text")
        yield name, value


@define
class Ingested:
    """
    What became of deliveries.

    Args:
        taken: How many are in the inbox now.
        refused: Numbers, from 1, of those that are not proven.
        undecided: Numbers of those of which nobody knows; they should be handed over again.
    """

    taken: int = 0
    refused: list[int] = Factory(list)
    undecided: list[int] = Factory(list)


class Ingest:
    """
    Verifies deliveries of one service, and keeps them.

    Args:
        told: Called with the number of each delivery that is not taken and why, as soon as it is decided.
    """

    def __init__(
        self,
        inbox: Inbox,
        verifier: Verifier,
        told: Callable[[int, WebhookRefused], None],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._inbox = inbox
        self._verifier = verifier
        self._told = told
        self._now = now

    def take(self, deliveries: Iterable[Handed]) -> Ingested:
        """
        Verify and keep, each as soon as it comes.

        Raises:
            LedgerError: The inbox cannot be written. What was kept before stays kept, and all of it may be handed over
                again.
        """
        done, waiting, writer = Ingested(), deque[Future[None]](), Writer(self._inbox)
        try:
            for number, handed in enumerate(deliveries, 1):
                try:
                    waiting.append(writer.submit(self._arrival(handed)))
                except WebhookUndecided as undecided:
                    done.undecided.append(number)
                    self._told(number, undecided)
                except WebhookRefused as refused:
                    done.refused.append(number)
                    self._told(number, refused)
                while waiting and (waiting[0].done() or len(waiting) >= PORTION):
                    waiting.popleft().result()
                    done.taken += 1
            for kept in waiting:
                kept.result()
                done.taken += 1
        finally:
            writer.close()
        return done

    def _arrival(self, handed: Handed) -> Arrival:
        if isinstance(handed, WebhookRefused):
            raise handed
        self._verifier.begin(handed).finish()
        told = announcement(handed.body, self._verifier.service)
        return Arrival(self._verifier.service, told.execution_id, told.kind, told.digest, self._now())


__all__ = ["Ingest", "Ingested", "from_lines", "from_parts"]
