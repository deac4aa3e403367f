"""
What happens when Prefect ends a process that starts or waits: what is asked, what is cancelled, what goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from prefect.exceptions import TerminationSignal

from prefect_blocks import decisions, twins, waiting
from tests.unit.prefect_blocks.prefect_server import PrefectServer
from tl_orchestration import Handle
from tl_orchestration.errors import ServerError


def ended_by(error: BaseException, flow_run_id: UUID | None, cancel: Callable[[], object] | None, kind: str) -> None:
    """A wait that an exception ends."""

    def wait() -> twins.Twofold[None]:
        yield from twins.Twin(lambda: None, lambda: asyncio.sleep(0))
        raise error

    stoppable = waiting.stoppable(flow_run_id, cancel, wait())
    if kind == "sync":
        twins.run(stoppable)
    else:
        asyncio.run(twins.arun(stoppable))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("error", [TerminationSignal(15), asyncio.CancelledError()])
@pytest.mark.parametrize(("states", "cancels"), [(("CANCELLING",), 1), (("RUNNING",), 0)])
def test_stop_asks_before_it_cancels(
    prefect_server: PrefectServer, kind: str, error: BaseException, states: tuple[str, ...], cancels: int
) -> None:
    """The signal goes on in either case."""
    cancelled: list[int] = []

    with pytest.raises(type(error)):
        ended_by(error, prefect_server.flow_run(*states), lambda: cancelled.append(1), kind)
    assert len(cancelled) == cancels


def test_stop_of_what_is_not_to_be_cancelled() -> None:
    """Nobody is asked; other errors are none of its business."""
    with pytest.raises(TerminationSignal):
        ended_by(TerminationSignal(15), None, None, "sync")
    with pytest.raises(KeyError):
        ended_by(KeyError("k"), None, lambda: pytest.fail("cancelled"), "sync")


def test_many_waits_of_a_loop_are_cancelled_together(prefect_server: PrefectServer) -> None:
    """
    Each of ten cancels is answered only when all have been sent, the server is asked less than ten times, and other
    coroutines go on meanwhile: one has to let the cancels end.
    """
    many = 10
    flow_run = prefect_server.flow_run("CANCELLING")
    sent, let = threading.Barrier(many), threading.Event()
    cancelled: list[int] = []

    def cancel() -> None:
        sent.wait(30)
        let.wait(30)
        cancelled.append(1)

    def wait() -> twins.Twofold[None]:
        yield from twins.Twin(lambda: None, lambda: asyncio.sleep(60))

    async def main() -> list[BaseException | None]:
        flows = [twins.arun(waiting.stoppable(flow_run, cancel, wait())) for _ in range(many)]
        waits = asyncio.gather(*flows, return_exceptions=True)
        await asyncio.sleep(0.05)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.05)
        let.set()
        return await waits

    ended = asyncio.run(main())

    assert all(isinstance(error, asyncio.CancelledError) for error in ended)
    assert len(cancelled) == many
    assert prefect_server.asked(flow_run) < many


def test_time_out_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own time-out cancels without a server."""
    monkeypatch.setattr(decisions, "timed_out", lambda: True)
    cancelled: list[int] = []

    waiting.last_words(None, lambda: cancelled.append(1))

    assert cancelled == [1]


def test_cancel_that_fails_is_logged(prefect_server: PrefectServer, caplog: pytest.LogCaptureFixture) -> None:
    """It does not hide the signal."""

    def cancel() -> None:
        raise ServerError("PLANTED")

    waiting.last_words(prefect_server.flow_run("CANCELLING"), cancel)

    assert "could not be cancelled: PLANTED" in caplog.text


def test_last_words_are_short(prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that hangs does not keep the process."""
    monkeypatch.setattr(waiting, "LAST_WORDS", 0.05)
    never = threading.Event()

    waiting.last_words(prefect_server.flow_run("CANCELLING"), lambda: never.wait(30))

    never.set()


def interrupted(
    kind: str,
    start: Callable[[], str],
    stopped: Callable[[str], None],
    by: Callable[[int], BaseException] = TerminationSignal,
) -> BaseException | None:
    """Start, and be stopped meanwhile. Returns what came out of it."""
    begun, sent, handled = threading.Event(), threading.Event(), threading.Event()

    def starts() -> str:
        begun.set()
        sent.wait(30)
        return start()

    async def there() -> str:
        return await asyncio.to_thread(starts)

    twin = waiting.uninterrupted(twins.Twin(starts, there), stopped)
    if kind == "sync":

        def handler(number: int, frame: object) -> None:
            if not handled.is_set():
                handled.set()
                raise by(number)

        def kill() -> None:
            begun.wait(30)
            os.kill(os.getpid(), signal.SIGUSR1)
            # A signal just before the main thread blocks does not wake it: the next one does.
            while not handled.wait(0.05):
                os.kill(os.getpid(), signal.SIGUSR1)
            sent.set()

        killer = threading.Thread(target=kill)
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            killer.start()
            twin.here()
        except BaseException as error:
            return error
        finally:
            killer.join()
            signal.signal(signal.SIGUSR1, before)
        return None

    async def main() -> BaseException | None:
        running: asyncio.Future[Any] = asyncio.ensure_future(twin.there())
        await asyncio.to_thread(begun.wait, 30)
        running.cancel()
        sent.set()
        return (await asyncio.gather(running, return_exceptions=True))[0]

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_start_is_not_cut_off(kind: str) -> None:
    """What was started is handed over, then the signal goes on."""
    handed: list[str] = []

    def start() -> str:
        time.sleep(0.2)
        return "e-1"

    error = interrupted(kind, start, handed.append)

    assert isinstance(error, TerminationSignal if kind == "sync" else asyncio.CancelledError)
    assert handed == ["e-1"]


def test_start_is_not_cut_off_by_the_keyboard() -> None:
    """Ctrl-C waits for the start, too, so that it is recorded; it is no decision to cancel."""
    ended: list[str] = []

    def start() -> str:
        time.sleep(0.2)
        ended.append("e-1")
        return "e-1"

    error = interrupted("sync", start, lambda _: pytest.fail("handed over"), lambda _: KeyboardInterrupt())

    assert isinstance(error, KeyboardInterrupt)
    assert ended == ["e-1"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_start_that_fails_or_hangs_hands_nothing_over(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal goes on all the same."""
    monkeypatch.setattr(waiting, "LAST_WORDS", 0.3)

    def fails() -> str:
        time.sleep(0.1)
        raise ServerError("no")

    def hangs() -> str:
        time.sleep(3)
        return "e-1"

    for start in (fails, hangs):
        error = interrupted(kind, start, lambda _: pytest.fail("handed over"))
        assert isinstance(error, TerminationSignal | asyncio.CancelledError)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_start_that_nobody_stops(kind: str) -> None:
    """Its answer or its error comes through."""

    def failing() -> str:
        raise KeyError("k")

    def flow(start: Callable[[], str]) -> twins.Twofold[str]:
        return (yield from waiting.uninterrupted(twins.blocking(start), lambda _: pytest.fail("handed over")))

    def drive(flow: twins.Twofold[str]) -> str:
        return twins.run(flow) if kind == "sync" else asyncio.run(twins.arun(flow))

    assert drive(flow(lambda: "e-1")) == "e-1"
    with pytest.raises(KeyError):
        drive(flow(failing))


def test_asynchronous_work_in_a_thread_of_its_own() -> None:
    """Also where a loop runs in this one; its context comes along, and its error comes back."""

    async def work() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    async def fails() -> int:
        raise KeyError("k")

    async def main() -> int:
        return waiting.in_loop(work)

    assert waiting.in_loop(work) != threading.get_ident()
    assert asyncio.run(main()) != threading.get_ident()
    with pytest.raises(KeyError):
        waiting.in_loop(fails)
    assert asyncio.run(twins.arun(iter(waiting.anywhere(work)))) == threading.get_ident()


@pytest.mark.parametrize(
    ("deadline", "expires_at", "seconds", "within"),
    [
        (None, None, 1e9, False),
        (10, None, 5, False),
        (10, None, 15, True),
        (None, 10, 15, True),
        (100, 10, 15, True),
        (10, 100, 15, True),
        (100, 100, 15, False),
    ],
)
def test_nearest_end_counts(deadline: float | None, expires_at: float | None, seconds: float, *, within: bool) -> None:
    """The deadline or the expiry, whichever comes first."""
    now = time.time()
    handle = Handle(
        execution_id="e-1",
        deadline=None if deadline is None else now + deadline,
        expires_at=None if expires_at is None else now + expires_at,
    )
    assert waiting.ends_within(handle, seconds) is within
