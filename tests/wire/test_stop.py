"""A wait that is told to stop ends soon, whatever it is doing, and leaves the execution alone."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.builders import run_request
from tests.remote import Remote
from tests.wire.fault_server import EXECUTION_ID, Behaviour, FaultServer, hang, http, then
from tl_orchestration import AsyncClient, Client, OrganizationToken, Patience, Settings
from tl_orchestration.errors import LedgerError, NoAnswer, WaitInterrupted
from tl_orchestration.ledger import Entry, Event, MemoryLedger, State
from tl_orchestration.pacing import Pacing
from tl_orchestration.retry import RetryPolicy

TOKEN = OrganizationToken("tot_sandbox")
RARELY = Patience(pacing=Pacing.every(60.0))
OFTEN = Patience(pacing=Pacing.every(0.02))
GET = "GET /workflows/{id}"
#: Seconds for what takes less than one where nothing else goes on. What hangs, or sleeps, would for longer.
SOON = 10.0


class Flag:
    """
    Becomes true on order, as a signal handler sets it.
    """

    def __init__(self) -> None:
        self.raised_at: float | None = None

    def __call__(self) -> bool:
        return self.raised_at is not None

    def raise_when(self, happened: Callable[[], bool]) -> threading.Thread:
        """Raise it a moment after something has happened."""

        def watch() -> None:
            ends = time.monotonic() + 60
            while not happened() and time.monotonic() < ends:
                time.sleep(0.01)
            time.sleep(0.1)
            self.raised_at = time.monotonic()

        thread = threading.Thread(target=watch)
        thread.start()
        return thread


@contextmanager
def stopped_in_time(flag: Flag, happened: Callable[[], bool]) -> Iterator[None]:
    """The body raises WaitInterrupted soon after the flag."""
    thread = flag.raise_when(happened)
    with pytest.raises(WaitInterrupted, match="Stopped as asked"):
        yield
    ended = time.monotonic()
    thread.join()
    assert flag.raised_at is not None
    assert ended - flag.raised_at < SOON


class TestFlag:
    def test_ends_a_hanging_poll(self, remote: Remote) -> None:
        """The flag is seen while a GET hangs."""
        flag = Flag()
        with Client(TOKEN, remote.url) as client:
            started = client.run(run_request(workflow_definition_id="kyc-slow"))
            remote.order("status", "hold", seconds=30)
            with stopped_in_time(flag, lambda: remote.count(GET) == 1):
                client.wait(started, patience=OFTEN, stop=flag)
        assert remote.cancels() == []

    def test_ends_a_sleep(self, remote: Remote) -> None:
        """The flag is seen between two polls."""
        flag = Flag()
        with Client(TOKEN, remote.url) as client:
            started = client.run(run_request(workflow_definition_id="kyc-slow"))
            with stopped_in_time(flag, lambda: remote.count(GET) == 1):
                client.wait(started, patience=RARELY, stop=flag)
        assert remote.cancels() == []

    @pytest.mark.parametrize("behaviour", [hang, then("drip"), then(http()[:-5], "hang")])
    @pytest.mark.parametrize("secure", [False, True])
    def test_ends_whatever_hangs(self, tmp_path: Path, behaviour: Behaviour, *, secure: bool) -> None:
        """The flag is seen while a head or a body does not come, with TLS and without."""
        flag, tls, settings = Flag(), None, Settings()
        if secure:
            authority = trustme.CA()
            authority.cert_pem.write_to_path(tmp_path / "ca.pem")
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(tls)
            settings = Settings(ca_bundle=str(tmp_path / "ca.pem"))
        with (
            FaultServer(behaviour, tls=tls) as server,
            Client(TOKEN, server.url, settings=settings) as client,
            stopped_in_time(flag, lambda: bool(server.received)),
        ):
            client.wait(EXECUTION_ID, stop=flag)

    def test_that_is_set_before_sends_nothing(self, remote: Remote) -> None:
        """A wait that is told to stop before it begins asks nothing."""
        with Client(TOKEN, remote.url) as client, pytest.raises(WaitInterrupted):
            client.wait(EXECUTION_ID, stop=lambda: True)
        assert remote.count(GET) == 0

    def test_may_itself_use_the_client(self, remote: Remote) -> None:
        """A flag that asks the service does not disturb the request during which it is looked at."""
        with Client(TOKEN, remote.url, settings=Settings(request_timeout=5)) as client:
            started = client.run(run_request(workflow_definition_id="kyc-slow"))
            remote.order("status", "hold", seconds=0.6)
            asked: list[str] = []

            def stop() -> bool:
                asked.append(client.poll(started).id)
                return len(asked) > 6

            with pytest.raises(WaitInterrupted):
                client.wait(started, patience=OFTEN, stop=stop)

    def test_belongs_to_its_own_thread(self, remote: Remote) -> None:
        """A flag of one wait does not end another one on the same client."""
        with Client(TOKEN, remote.url) as client:
            remote.define("kyc-approve", duration=0.6)
            started = client.run(run_request())
            outcomes: list[object] = []

            def stopped() -> None:
                try:
                    client.wait(started, patience=OFTEN, stop=lambda: True)
                except WaitInterrupted as error:
                    outcomes.append(error)

            threads = [threading.Thread(target=stopped) for _ in range(4)]
            for thread in threads:
                thread.start()
            assert client.wait(started, patience=OFTEN, stop=lambda: False).is_terminal
            for thread in threads:
                thread.join()
            assert len(outcomes) == 4


class TestStart:
    def test_is_not_stopped_while_its_id_is_recorded(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        """A flag that is raised after the start was sent does not end the tries to record it."""
        monkeypatch.setattr("tl_orchestration.start._RECORD_DELAY", 0.05)

        class Hindered(MemoryLedger):
            failures = 1

            def append(self, key: str, event: Event) -> Entry:
                if self.failures:
                    self.failures -= 1
                    raise LedgerError("down")
                return super().append(key, event)

        with Client(TOKEN, remote.url, ledger=Hindered()) as client:
            started = client.run(run_request(), "k", stop=lambda: bool(remote.starts()))
            assert client.ledger is not None
            entry = client.ledger.read("k")
        assert entry is not None
        assert (entry.execution_id, entry.state) == (started.id, State.STARTED)


class TestQueue:
    """One connection for two threads."""

    @contextmanager
    def occupied(self) -> Iterator[Client]:
        """A client whose only connection waits for an answer, all the time."""
        settings, released = Settings(max_connections=1, request_timeout=60.0), threading.Event()
        with (
            FaultServer(hang) as server,
            Client(TOKEN, server.url, settings=settings, retry=RetryPolicy(attempts=1)) as client,
        ):

            def hang_on() -> None:
                with pytest.raises(WaitInterrupted):
                    client.wait(EXECUTION_ID, stop=released.is_set)

            thread = threading.Thread(target=hang_on)
            thread.start()
            while not server.received:
                time.sleep(0.01)
            yield client
            assert thread.is_alive()
            released.set()
            thread.join()
            assert server.accepted == 1

    def test_is_left_when_told_to_stop(self) -> None:
        """The flag is seen while a wait queues for a connection."""
        flag = Flag()
        with self.occupied() as client, stopped_in_time(flag, lambda: True):
            client.wait(EXECUTION_ID, patience=OFTEN, stop=flag)

    def test_counts_for_the_time_of_a_request(self) -> None:
        """A request that gets no connection in its time was not sent, and says so."""
        with self.occupied() as client:
            client._wire._settings = Settings(request_timeout=0.1)
            with pytest.raises(NoAnswer, match="Nothing was sent"):
                client.poll(EXECUTION_ID)


class TestCancelledTask:
    @pytest.mark.parametrize("patience", [OFTEN, RARELY])
    def test_ends_at_once_and_leaves_the_execution_alone(self, remote: Remote, patience: Patience) -> None:
        """Cancelling the task that waits is no decision about the execution."""

        async def main() -> float:
            async with AsyncClient(TOKEN, remote.url) as client:
                started = await client.run(run_request(workflow_definition_id="kyc-slow"))
                if patience is OFTEN:
                    remote.order("status", "hold", seconds=30)
                task = asyncio.create_task(client.wait(started, patience=patience))
                while remote.count(GET) == 0:  # noqa: ASYNC110 -- another thread counts
                    await asyncio.sleep(0.01)
                began = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert started.id == (await client.poll(started)).id
                return time.monotonic() - began

        assert asyncio.run(main()) < SOON
        assert remote.cancels() == []
