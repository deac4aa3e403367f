"""
The public interface as a typed user writes it. Checked by mypy --strict, not executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from tl_orchestration import (
    AsyncClient,
    B3osKey,
    B3osPublic,
    Client,
    Execution,
    Handle,
    OrganizationToken,
    Pacing,
    Patience,
    RunRequest,
    Settings,
    Status,
    Step,
    WorkspaceKey,
)
from tl_orchestration.errors import (
    ExecutionFailed,
    InvalidRequest,
    NoAnswer,
    NotFound,
    RateLimited,
    StartOutcomeUnknown,
    TransactionlinkError,
    WaitTimeout,
)
from tl_orchestration.ledger import Entry, Event, Ledger, MemoryLedger, State
from tl_orchestration.outcome import OutcomeRules
from tl_orchestration.secret import Secret


def requests() -> list[RunRequest]:
    """A request with a little, and one with everything."""
    smallest = RunRequest("kyc-approve")
    largest = RunRequest(
        workflow_definition_id="kyc-approve",
        parameters={"firstName": "Ada", "documents": [{"number": "X1"}], "age": 36},
        locale="pt-BR",
        expires_in=timedelta(hours=2),
        record_id="e3c23802-537d-4aa4-89f1-397c120f5565",
    )
    assert_type(largest.workflow_definition_id, str)
    assert_type(largest.parameters, Mapping[str, Any])
    assert_type(largest.expires_at, datetime | None)
    moment = RunRequest("kyc-approve", expires_at=datetime.now(UTC) + timedelta(hours=1))
    return [smallest, largest, moment, RunRequest("kyc-approve", {"firstName": "Ada"})]


def run_and_wait(ledger: Ledger) -> str:
    """The whole life of an execution, by the synchronous client."""
    token = OrganizationToken("tot_…")
    with Client(token, "https://api.transactionlink.io", ledger=ledger) as client:
        assert_type(client, Client)
        execution = client.run(RunRequest("kyc-approve", {"firstName": "Ada"}), "customer-7", timeout=3600)
        assert_type(execution, Execution)
        assert_type(client.poll(execution), Execution)
        assert_type(client.wait(execution, 60, stop=lambda: False), Execution)
        assert_type(client.wait(execution.id), Execution)
        assert_type(client.result(execution.handle), dict[str, Any])
        assert_type(client.cancel(execution), Execution)
        client.check()
        client.run(RunRequest("kyc-approve"), Step(key="k", generation="1", retry_failed=True, on_unknown_start="fail"))
        client.run(RunRequest("kyc-approve"), Step(key="k", correlation_parameter="caseRef"))
        client.run(RunRequest("kyc-approve"), key=None)
        client.run(RunRequest("kyc-review"), Step(key="k", on_link_lost="restart"), on_link=told)
    return execution.id


async def run_and_wait_awaited() -> dict[str, Any]:
    """The same by the asynchronous client."""
    settings = Settings(request_timeout=10, status_map={"REVIEWED": Status.SUCCEEDED}, ca_bundle=None)
    async with AsyncClient(OrganizationToken.from_file("/run/secrets/token"), settings=settings) as client:
        assert_type(client, AsyncClient)
        execution = await client.run(RunRequest("kyc-approve"))
        assert_type(execution, Execution)
        await client.run(RunRequest("kyc-review"), on_link=told_later)
        patience = Patience(pacing=Pacing.every(5), cancel_on_timeout=False, on_change=told)
        ended = await client.wait(execution, timeout=600.0, patience=patience)
        assert_type(ended, Execution)
        assert_type(await client.cancel(execution.id), Execution)
        return await client.result(ended)


def credentials() -> list[Client]:
    """A credential that does not change, or one that is read again when it is refused."""
    return [
        Client(WorkspaceKey("key", "secret"), service="transactionlink-legacy"),
        Client(WorkspaceKey.from_source(lambda: ("key", "secret")), service="transactionlink-legacy"),
        Client(B3osKey("b3sk_…", "org_…"), service="b3os"),
        Client(B3osKey(lambda: "b3sk_…"), service="b3os"),
        Client(B3osKey.from_file("/run/secrets/key", organization_id="org_…"), service="b3os"),
        Client(B3osPublic(), service="b3os"),
    ]


def told(execution: Execution) -> None:
    """What is known of an execution."""
    assert_type(execution.status, Status)
    assert_type(execution.raw_status, str)
    assert_type(execution.is_terminal, bool)
    assert_type(execution.link, Secret | None)
    assert_type(execution.expires_at, datetime | None)
    assert_type(execution.handle, Handle)
    assert_type(Handle.from_dict(execution.handle.to_dict()), Handle)
    if execution.link is not None:
        assert_type(execution.link.reveal(), str)
    match execution.status:
        case Status.SUCCEEDED | Status.PARTIAL:
            return
        case Status.UNKNOWN:
            assert_type(execution.status.is_terminal, bool)
        case _:
            OutcomeRules(on_partial="accept", fail_when="decision == 'reject'").check_ending(execution)


async def told_later(execution: Execution) -> None:
    """What is handed over to a coroutine function."""


def errors(client: Client) -> str | float | None:
    """What can go wrong, from the special to the general."""
    try:
        client.wait(client.run(RunRequest("kyc-approve")))
    except StartOutcomeUnknown as error:
        assert_type(error.key, str | None)
        return error.execution_id
    except WaitTimeout as error:
        assert_type(error.result_available, bool | None)
        assert_type(error.cancelled, bool)
        return error.raw_status
    except RateLimited as error:
        return error.retry_after
    except NoAnswer as error:
        assert_type(error.sent, bool)
    except (NotFound, InvalidRequest, ExecutionFailed) as error:
        assert_type(error.codes, tuple[str, ...])
        return error.fingerprint
    except TransactionlinkError as error:
        assert_type(error.status_code, int | None)
        assert_type(error.retryable, bool)
        return error.message
    return None


class OwnLedger:
    """A store of one's own needs three methods, a word about fencing, and no base class."""

    fenced = False

    def read(self, key: str) -> Entry | None:
        return None

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        return Entry(version=1, state=State.INTENT, changed_at=intent.at)

    def append(self, key: str, event: Event) -> Entry:
        return Entry(version=2, state=event.state, changed_at=event.at)


def ledgers() -> list[str]:
    """Any ledger will do."""
    return [run_and_wait(ledger) for ledger in (MemoryLedger(), OwnLedger())]


def mistakes(client: Client, execution: Execution) -> None:
    """What a type checker finds; each ignore is needed, else mypy complains about the ignore."""
    client.run("kyc-approve")  # type: ignore[arg-type]
    client.run(RunRequest("kyc-approve"), 7)  # type: ignore[arg-type]
    client.run(RunRequest("kyc-approve"), "key", 60)  # type: ignore[call-arg]
    client.wait(None)  # type: ignore[arg-type]
    client.wait(execution, stop=True)  # type: ignore[arg-type]
    Step(key="k", on_unknown_start="retry")  # type: ignore[arg-type]
    Step(key="k", correlation_parameter=7)  # type: ignore[arg-type]
    OutcomeRules(on_partial="ignore")  # type: ignore[arg-type]
    Client("tot_…")  # type: ignore[arg-type]
    WorkspaceKey.from_source(lambda: "secret")  # type: ignore[arg-type, return-value]
    execution.status = Status.FAILED  # type: ignore[misc]
    execution.link.reveal()  # type: ignore[union-attr]


async def mistakes_awaited(client: AsyncClient, execution: Execution) -> None:
    """The asynchronous client has no flag: its task is cancelled instead."""
    await client.wait(execution, stop=lambda: False)  # type: ignore[call-arg]
    assert_type(await client.poll(execution), Execution)
