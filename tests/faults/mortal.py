"""
Tries of a step in processes of their own, which can be killed at any point of the start protocol.

The points are not in the product: they are every command that its flow yields, and every statement and commit that
its ledger sends, seen from outside. A try that is let live tells the points that it passed; a later one dies at one.

As a program, this reads one order a line and carries each out in a fork of itself, so that a try does not pay for
imports.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, define, field, frozen
from sqlalchemy import Engine, event

from tests.faults.forks import Killed, Mother, in_a_fork, mother, serve
from tests.remote import TOKEN, Remote
from tl_orchestration import (
    B3osKey,
    B3osOptions,
    Client,
    Execution,
    LegacyOptions,
    OrganizationToken,
    RunRequest,
    Step,
    WorkspaceKey,
)
from tl_orchestration.credentials import Credentials
from tl_orchestration.errors import TransactionlinkError
from tl_orchestration.exchange import AppendEvent, Clock, Command, Request, Sleep
from tl_orchestration.ledger import SqlLedger
from tl_orchestration.options import Options
from tl_orchestration.settings import tls_context

#: The service has carried the start out, and its answer has not come yet.
PENDING = "answer to run pending"
#: By the locale the service's account tells the lives of a step apart; it is no part of what was asked for. A step of a
#: service that takes none has one life here.
LIVES = {"0": "en", "1": "de"}
#: By the service's name, a credential of the sandbox and what only this service takes.
APIS: Mapping[str, tuple[Callable[[], Credentials], Options | None]] = {
    "transactionlink": (lambda: OrganizationToken(TOKEN), None),
    "transactionlink-legacy": (
        lambda: WorkspaceKey("sandbox-key", "sandbox-secret"),
        LegacyOptions(first_name="Ada"),
    ),
    "b3os": (lambda: B3osKey("b3sk_sandbox"), B3osOptions(source_system="crm", source_entity_type="customer")),
}


@frozen(kw_only=True)
class Order:
    """
    One try.

    Args:
        ledger: URL of the ledger.
        service: URL of the sandbox.
        key: Names the step, and the definition that it runs.
        generation: The step's life.
        later: How much later than now the try believes it is, seconds.
        dies_at: The point at which it is killed, counted from 0; None: it lives.
        api: The service's name.
        on_unknown_start: What the try does about a start of unknown fate.
        correlation_parameter: The parameter that carries a correlation id.
        links: File to which the try hands links over, a line for each; None: it does not.
        on_link_lost: What it does where the link of an earlier try is gone.
    """

    ledger: str
    service: str
    key: str
    generation: str = "0"
    later: float = 0.0
    dies_at: int | None = None
    api: str = "transactionlink"
    on_unknown_start: Literal["fail", "repeat-same-key"] = "fail"
    correlation_parameter: str | None = None
    links: str | None = None
    on_link_lost: Literal["fail", "restart"] = "fail"


@define(kw_only=True)
class Outcome:
    """
    What became of a try.

    Args:
        killed: Whether it died of SIGKILL; nothing else is known then.
        execution_id: The execution that it ended with, or that its error names.
        error: Class of the error that it ended with.
        points: The points that it passed.
    """

    killed: bool = False
    execution_id: str | None = None
    reattached: bool = False
    error: str | None = None
    points: list[str] = field(factory=list)


class Points:
    """
    Counts what is passed, and dies where it is told to.
    """

    def __init__(self, dies_at: int | None) -> None:
        self._dies_at = dies_at
        self.names: list[str] = []

    def passing(self, name: str) -> None:
        """Die here, if this is the point."""
        if self.reached(name):
            os.kill(os.getpid(), signal.SIGKILL)

    def reached(self, name: str) -> bool:
        """Note a point; whether it is the one to die at."""
        self.names.append(name)
        return len(self.names) - 1 == self._dies_at


class Mortal(Client):
    """
    A client that passes a point before and after each command, and for which sleeping takes no time.
    """

    def __init__(self, order: Order, points: Points, ledger: SqlLedger) -> None:
        self._later = order.later
        self._points = points
        self._order = order
        super().__init__(
            APIS[order.api][0](),
            order.service,
            order.api,
            ledger=ledger,
            clock=Clock(now=lambda: time.time() + self._later, monotonic=lambda: time.monotonic() + self._later),
        )

    def _perform(self, command: Command, stop: Callable[[], bool] | None) -> Any:
        if isinstance(command, Sleep):
            self._later += command.seconds
            return None
        name = _name(command)
        self._points.passing(f"before {name}")
        if name == "run" and self._points.reached(PENDING):
            threading.Thread(target=self._die_once_committed, daemon=True).start()
        reply = super()._perform(command, stop)
        self._points.passing(f"after {name}")
        return reply

    def _die_once_committed(self) -> None:
        with Remote(self._order.service) as remote:
            while not started(remote, self._order.key, self._order.generation):
                time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)


def _name(command: Command) -> str:
    if isinstance(command, Request):
        return command.operation
    if isinstance(command, AppendEvent):
        return f"append {command.event.state}"
    return type(command).__name__


def started(remote: Remote, key: str, generation: str) -> list[str]:
    """
    The executions that the service has started for one life of a step, by its own account.
    """
    return [
        start["execution_id"]
        for start in remote.starts()
        if start["definition"] == key and (start["locale"] or LIVES["0"]) == LIVES[generation]
    ]


def attempt(order: Order) -> Outcome:
    """
    Carry out a try in this process.
    """
    points = Points(order.dies_at)
    ledger = SqlLedger(order.ledger, "mortal")
    ledger.read(order.key)  # that the tables fit is no part of the protocol
    _watch(points)
    options = APIS[order.api][1]
    request = RunRequest(order.key, {"firstName": "Ada"}, locale=LIVES[order.generation], options=options)
    outcome = Outcome(points=points.names)
    step = Step(
        key=order.key,
        generation=order.generation,
        on_unknown_start=order.on_unknown_start,
        on_link_lost=order.on_link_lost,
        correlation_parameter=order.correlation_parameter,
    )
    with Mortal(order, points, ledger) as client:
        try:
            execution = client.run(request, step, on_link=_delivering_to(order.links) if order.links else None)
        except TransactionlinkError as error:
            outcome.error, outcome.execution_id = type(error).__name__, error.execution_id
        else:
            outcome.execution_id, outcome.reattached = execution.id, execution.reattached
    return outcome


def _delivering_to(links: str) -> Callable[[Execution], None]:
    def deliver(execution: Execution) -> None:
        assert execution.link is not None
        with Path(links).open("a") as file:
            file.write(f"{execution.id} {execution.link.reveal()}\n")

    return deliver


def _watch(points: Points) -> None:
    def before(connection: Any, cursor: Any, statement: str, *arguments: Any) -> None:
        points.passing(f"before {_summary(statement)}")

    def after(connection: Any, cursor: Any, statement: str, *arguments: Any) -> None:
        points.passing(f"after {_summary(statement)}")

    def commit(connection: Any) -> None:
        points.passing("before COMMIT")

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    event.listen(Engine, "commit", commit)


def _summary(statement: str) -> str:
    words = statement.split()
    tables = [word for word in words if word.startswith("tl_ledger_") and "." not in word]
    return f"{words[0]} {tables[0] if tables else ''}".strip()


class Nursery:
    """
    The program below, from the side of a test.
    """

    def __init__(self, mother: Mother) -> None:
        self._mother = mother

    def attempt(self, order: Order) -> Outcome:
        """
        Carry out a try in a process of its own.
        """
        return Outcome(**self._mother.ask(asdict(order)))


@contextmanager
def nursery() -> Iterator[Nursery]:
    """
    A process that makes tries.
    """
    with mother("tests.faults.mortal") as process:
        yield Nursery(process)


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    try:
        told = in_a_fork(lambda: asdict(attempt(Order(**order))))
    except Killed:
        return asdict(Outcome(killed=True))
    return asdict(Outcome(error="crash")) if told is None else dict(told)


if __name__ == "__main__":
    # What would cost every fork the same again.
    tls_context(None, None)
    SqlLedger("postgresql://somebody@somewhere/else")
    serve(_answer)
