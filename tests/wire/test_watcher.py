"""
Hundreds of waits over real sockets: few connections, every ending seen, and more than one event loop.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.builders import run_request
from tests.remote import TOKEN, Remote
from tl_orchestration import AsyncClient, Client, Execution, OrganizationToken, Pacing, Patience, Settings

COUNT = 10_000 if os.environ.get("SOAK") else 500
QUICK = Patience(pacing=Pacing(floor=0.3, cap=0.3, share=0.0, jitter=0.1))


def started(remote: Remote, count: int, definition: str = "kyc-approve") -> list[str]:
    """Ids of executions that run in the sandbox."""
    with Client(OrganizationToken(TOKEN), remote.url) as client:
        return [client.run(run_request(workflow_definition_id=definition)).id for _ in range(count)]


def client_of(remote: Remote, **settings: Any) -> AsyncClient:
    """A client of the sandbox."""
    return AsyncClient(OrganizationToken(TOKEN), remote.url, settings=Settings(**settings))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The connections that event loops make from here on."""
    made: list[object] = []
    connect: Any = asyncio.SelectorEventLoop.create_connection

    async def noted(loop: Any, *arguments: Any, **options: Any) -> Any:
        connection = await connect(loop, *arguments, **options)
        made.append(connection)
        return connection

    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_connection", noted)
    return made


def test_hundreds_of_waits_share_few_connections(remote: Remote, opened: list[object]) -> None:
    """Every one of many executions is seen to end, over no more connections than the setting allows."""
    ids = started(remote, COUNT)

    async def main() -> list[Execution]:
        async with client_of(remote, max_connections=5) as client:
            return await asyncio.gather(*(client.wait(one, patience=QUICK) for one in ids))

    ended = asyncio.run(main())
    assert ids == [execution.id for execution in ended]
    assert {execution.status.value for execution in ended} == {"SUCCEEDED"}
    assert 1 <= len(opened) <= 5


def test_cancelled_waits_leave_the_others_alone(remote: Remote) -> None:
    """Half of the waits are cancelled in the middle of their polls: the others see their ending, nothing is left."""
    remote.define("kyc-approve", duration=None)
    ids = started(remote, 100)

    async def main() -> list[Any]:
        async with client_of(remote, max_connections=5) as client:
            waits = [asyncio.create_task(client.wait(one, patience=QUICK)) for one in ids]
            for moment in range(5):
                await asyncio.sleep(0.02)
                for task in waits[moment * 2 :: 10]:
                    task.cancel()
            for one in ids:
                await asyncio.to_thread(remote.force, one, status="COMPLETED")
            outcomes = await asyncio.gather(*waits, return_exceptions=True)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return outcomes

    outcomes = asyncio.run(main())
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    assert [outcome.id for outcome in outcomes[1::2]] == ids[1::2]
    assert remote.cancels() == []


def test_rate_limit_over_the_wire(remote: Remote) -> None:
    """A limit holds for real polls too."""
    ids = started(remote, 40, "kyc-slow")

    async def main() -> None:
        async with client_of(remote, requests_per_second=50) as client:
            waits = [asyncio.create_task(client.wait(one, patience=QUICK)) for one in ids]
            await asyncio.to_thread(remote.wait_for, "GET /workflows/{id}", 100)
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    began = time.monotonic()
    asyncio.run(main())
    assert remote.count("GET /workflows/{id}") <= 50 * (time.monotonic() - began) + 6


def test_no_log_line_for_a_poll(remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO there is a line for each change of an execution and none for a poll, neither ours nor a library's."""
    remote.define("kyc-approve", duration=None)
    ids = started(remote, 2)

    def end() -> None:
        for polls, one in zip((4, 8), ids, strict=True):
            remote.wait_for("GET /workflows/{id}", polls)
            remote.force(one, status="COMPLETED")

    async def waited() -> None:
        async with client_of(remote) as client:
            await client.wait(ids[0], patience=QUICK)

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(1) as beside:
        beside.submit(end)
        asyncio.run(waited())
        with Client(OrganizationToken(TOKEN), remote.url) as client:
            client.wait(ids[1], patience=QUICK)
    said = [record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")]
    assert len(said) <= 4
    assert all(line.startswith("Execution ") for line in said)
    assert remote.count("GET /workflows/{id}") > 4


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # loops end with connections open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_client_outlives_its_event_loop(remote: Remote) -> None:
    """A client that is kept for a second asyncio.run does not stumble over the connections of the first."""
    ids = started(remote, 20)
    client = client_of(remote)

    async def main(*, last: bool) -> list[str]:
        ended = await asyncio.gather(*(client.wait(one, patience=QUICK) for one in ids))
        await client.poll(ids[0])
        if last:
            await client.close()
        return [execution.id for execution in ended]

    assert [asyncio.run(main(last=last)) for last in (False, False, True)] == [ids] * 3
    gc.collect()  # here, so that what Python says of the open connections is not said to another test


def test_two_loops_at_once(remote: Remote) -> None:
    """Two threads with an event loop each wait through one client, and each closes its own connections."""
    ids = started(remote, 40)
    client = client_of(remote, max_connections=3)
    ended: list[str] = []
    both_done = threading.Barrier(2)

    async def main(part: list[str]) -> None:
        ended.extend([one.id for one in await asyncio.gather(*(client.wait(one, patience=QUICK) for one in part))])
        await asyncio.to_thread(both_done.wait, 60)
        await client.close()

    other = threading.Thread(target=lambda: asyncio.run(main(ids[1::2])))
    other.start()
    asyncio.run(main(ids[::2]))
    other.join(60)
    assert sorted(ended) == sorted(ids)


def test_closed_client_sends_nothing(remote: Remote) -> None:
    """After close neither client opens a connection again by accident."""

    async def main() -> None:
        client = client_of(remote)
        await client.check()
        await client.close()
        for verb in (client.check(), client.wait("e-1"), client.poll("e-1")):
            with pytest.raises(RuntimeError, match="closed"):
                await verb

    asyncio.run(main())
    sync = Client(OrganizationToken(TOKEN), remote.url)
    sync.close()
    with pytest.raises(RuntimeError, match="closed"):
        sync.check()


def test_late_answer_closes_its_connection_and_no_other(remote: Remote) -> None:
    """A poll that is given up takes its connection with it, so that the next one does not get its late answer."""
    one, other = started(remote, 2, "kyc-slow")
    remote.order("status", "hold", seconds=0.5)

    async def main() -> None:
        async with client_of(remote, max_connections=1) as client:
            waiting = asyncio.create_task(client.wait(one, patience=QUICK))
            await asyncio.sleep(0.2)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert (await client.poll(other)).id == other

    asyncio.run(main())
