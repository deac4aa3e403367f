"""A tenth of all requests fails in every way a network knows: nothing starts twice, and nothing gets lost."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from attrs import define, field

from tests.faults.chaotic import REFUSALS, SILENCES, WAIT, Account, ChaoticService
from tests.wire.fault_server import FaultServer
from tl_orchestration import AsyncClient, OrganizationToken, Pacing, Patience, RunRequest, Settings, Status
from tl_orchestration.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.ledger import Ledger, MemoryLedger, SqlLedger, State
from tl_orchestration.retry import RetryPolicy

EXECUTIONS = 10_000 if os.environ.get("SOAK") else 1_000
#: Clients, each with connections, a poller and pauses of its own, as processes have. The last one's ledger is SQL.
CLIENTS = 8
#: Steps that a client has at work at the same time.
AT_ONCE = 8
#: How often a step is tried again, as an orchestrator would; after a refusal, as a person would who has seen to it.
TRIES = 6
SEEN_TO = (InvalidRequest, NotFound, PermissionDenied)
#: Seconds between two moments in which the service's listener is closed, and how long each takes.
OPEN, CLOSED = 0.4, 0.1
#: Requests that come at least between two such moments, however slow this machine is: two of each step that is at work.
SERVED = 2 * CLIENTS * AT_ONCE
#: How late an event loop is that has been kept from working for a while, seconds.
STALL = 1.0

SETTINGS = Settings(request_timeout=4.0, connect_timeout=4.0, max_connections=AT_ONCE)
RETRY = RetryPolicy(base=0.01, cap=0.02, retry_after_cap=2.0)
PATIENCE = Patience(pacing=Pacing.every(0.01))


@define
class Report:
    """
    What the client said, by key.

    Args:
        ended: Executions that were started and waited for to their end.
        unknown: Keys whose start was called unknown.
        failed: Any other error that was left after all tries.
        stalls: How often this machine has kept the clients from working for a while.
    """

    ended: dict[str, str] = field(factory=dict)
    unknown: set[str] = field(factory=set)
    failed: dict[str, TransactionlinkError] = field(factory=dict)
    stalls: int = 0


async def run_step(client: AsyncClient, key: str, report: Report, is_open: asyncio.Event) -> None:
    """Run one step as an orchestrator does: with retries, but none after an unknown start."""
    request = RunRequest("kyc-approve", {"step": key})
    for left in reversed(range(TRIES)):
        try:
            execution = await client.run(request, key=key)
            ended = await client.wait(execution, patience=PATIENCE)
        except StartOutcomeUnknown:
            report.unknown.add(key)
            with pytest.raises(StartOutcomeUnknown):  # nor does whoever retries nevertheless start a second one
                await client.run(request, key=key)
            return
        except TransactionlinkError as error:
            if not (left and (error.retryable or isinstance(error, SEEN_TO))):
                report.failed[key] = error
                return
            await asyncio.sleep(2 * CLOSED)  # not all of them in one moment in which nobody listens
            await is_open.wait()
        else:
            assert ended.status is Status.SUCCEEDED
            report.ended[key] = ended.id
            return


async def close_at_times(server: FaultServer, account: Account, is_open: asyncio.Event) -> None:
    """Have the service's listener closed for a moment, again and again."""
    served = 0
    is_open.set()
    while True:
        await asyncio.sleep(OPEN)
        if account.requests < served + SERVED:
            continue
        is_open.clear()
        with server.closed():
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.sleep(CLOSED)
        is_open.set()
        served = account.requests


async def note_stalls(report: Report) -> None:
    """Count the moments in which no client could read what had come, so that it may have called it late."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.1)
        report.stalls += time.monotonic() - before > STALL


async def run_all(server: FaultServer, account: Account, ledgers: list[Ledger], keys: list[list[str]]) -> Report:
    """Run the steps of each client, some at once."""
    report, is_open = Report(), asyncio.Event()

    async def work(client: AsyncClient, mine: Iterator[str]) -> None:
        for key in mine:
            await run_step(client, key, report, is_open)

    beside = [
        asyncio.create_task(close_at_times(server, account, is_open)),
        asyncio.create_task(note_stalls(report)),
    ]
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        for ledger, some in zip(ledgers, keys, strict=True):
            made = AsyncClient(OrganizationToken("tot_x"), server.url, ledger=ledger, settings=SETTINGS, retry=RETRY)
            client = await stack.enter_async_context(made)
            mine = iter(some)
            for _ in range(AT_ONCE):
                tasks.create_task(work(client, mine))
    for task in beside:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    return report


@pytest.mark.timeout(900)
def test_nothing_starts_twice_and_nothing_is_lost(tmp_path: Path) -> None:
    """Every commit is one of its key, and in the ledger or reported; unknown is said only of what is unknown."""
    service = ChaoticService(seed=20_261_121)
    sql = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    ledgers: list[Ledger] = [*(MemoryLedger() for _ in range(CLIENTS - 1)), sql]
    keys = [[f"step-{number}" for number in range(first, EXECUTIONS, CLIENTS)] for first in range(CLIENTS)]
    with FaultServer(service) as server:
        report = asyncio.run(run_all(server, service.account, ledgers, keys))
        namespace = f"transactionlink@127.0.0.1:{server.port}"
    account = service.account

    # The premise: every fault has struck, and together they struck a tenth.
    assert set(account.faults) == {*SILENCES, *REFUSALS, WAIT}
    assert 0.08 <= account.faults.total() / account.requests <= 0.12

    # None started twice.
    assert {key: made for key, made in account.commits.items() if len(made) > 1} == {}
    assert report.failed == {}
    assert len(report.ended) + len(report.unknown) == EXECUTIONS
    # None lost, and none invented.
    states: Counter[State] = Counter()
    for ledger, some in zip(ledgers, keys, strict=True):
        view = ledger.for_namespace(namespace)  # type: ignore[attr-defined]  # both kinds have it
        for key in some:
            entry = view.read(key)
            states[entry.state] += 1
            made = account.commits.get(key, [])
            if key in report.ended:
                assert (entry.state, [entry.execution_id]) == (State.SETTLED, made)
                assert report.ended[key] == entry.execution_id
            else:
                assert entry.state is State.UNKNOWN
                # What was answered is unknown only to a client that could not wait for the answer.
                assert key in account.unanswered or entry.reason == "NoAnswer"
    sql.close()
    # Unknown is what nobody can know without the service's account; a machine that stalls may add what is under way.
    late = report.stalls * CLIENTS * AT_ONCE
    assert len(report.unknown) <= 1.2 * len(account.unanswered) + late
    assert account.unanswered <= report.unknown
    assert states == {State.SETTLED: len(report.ended), State.UNKNOWN: len(report.unknown)}
    assert len(report.ended) >= 0.85 * EXECUTIONS - late
    print(  # noqa: T201  # shown by -s: the figures of this run
        f"{EXECUTIONS} executions, {account.requests} requests, {account.faults.total()} faulted;"
        f" {len(report.ended)} ended, {len(report.unknown)} reported unknown,"
        f" {len(account.unanswered)} truly so, {sum(len(account.commits.get(k, [])) for k in report.unknown)} committed"
    )
