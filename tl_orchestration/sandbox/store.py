"""What the sandbox has committed: executions, and the ledger of every start, cancel and request."""

import random
import threading
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs

from tl_orchestration.sandbox.clock import Clock
from tl_orchestration.sandbox.definitions import Definition, merged
from tl_orchestration.sandbox.evidence import Cancel, Start
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.faults import Faults
from tl_orchestration.sandbox.settings import SandboxSettings

DEFAULT_LIFETIME = 3600.0
"""Seconds from start to expiry where the request names none."""


class UnknownDefinitionError(LookupError):
    """No workflow definition has this name."""


class UnknownExecutionError(LookupError):
    """No execution has this id or token."""


class AlreadyFinishedError(Exception):
    """The execution no longer waits for a person."""


class Store:
    """
    Everything one sandbox knows; safe to use from several threads.

    Args:
        settings: the state to begin with, and to come back to on `reset`.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.clock = Clock(settings.clock)
        self.faults = Faults()
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget everything and begin as on the first day: definitions, clock, and ids under a seed."""
        with self._lock:
            self.clock.reset()
            self.faults.clear()
            self._definitions = dict(self.settings.definitions)
            self._executions: dict[str, Execution] = {}
            self._ids_by_token: dict[str, str] = {}
            self._starts: list[Start] = []
            self._cancels: list[Cancel] = []
            self._requests: Counter[str] = Counter()
            # Streams of their own: how many errors or links were handed out does not shift the ids.
            self._ids = self._stream("ids")
            self._tokens = self._stream("tokens")
            self._fingerprints = self._stream("fingerprints")

    def _stream(self, name: str) -> random.Random:
        seed = self.settings.seed
        return random.Random(None if seed is None else f"{seed}/{name}")  # noqa: S311  # guards nothing real

    @property
    def definitions(self) -> dict[str, Definition]:
        """The workflow definitions, by name."""
        with self._lock:
            return dict(self._definitions)

    @property
    def executions(self) -> list[Execution]:
        """Every execution, in the order of their starts."""
        with self._lock:
            return list(self._executions.values())

    @property
    def starts(self) -> list[Start]:
        """Every committed start, oldest first."""
        with self._lock:
            return list(self._starts)

    @property
    def cancels(self) -> list[Cancel]:
        """Every cancel of an execution that exists, oldest first."""
        with self._lock:
            return list(self._cancels)

    @property
    def requests(self) -> dict[str, int]:
        """How many requests came, by method and path template."""
        with self._lock:
            return dict(self._requests)

    def define(self, name: str, fields: Mapping[str, Any]) -> Definition:
        """
        Change a definition, or make a new one (`like` names what it starts from) for later starts.

        Raises:
            ValueError: unknown field, wrong value or unknown `like`.
        """
        with self._lock:
            self._definitions = merged(self._definitions, {name: fields})
            return self._definitions[name]

    def count_request(self, template: str) -> int:
        """Count a request under its method and path template. Returns its number, from 1."""
        with self._lock:
            self._requests[template] += 1
            return self._requests.total()

    def fingerprint(self) -> str:
        """A new id of one error answer."""
        with self._lock:
            return f"{self._fingerprints.getrandbits(64):016x}"

    def start(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        locale: str,
        expires_at: float | None = None,
        record_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        request: int = 0,
    ) -> Execution:
        """
        Commit one start. There is no deduplication, as the service has none.

        Raises:
            UnknownDefinitionError: no definition has this name.
        """
        with self._lock:
            definition = self._definitions.get(name)
            if definition is None:
                raise UnknownDefinitionError(name)
            now = self.clock.now()
            by_itself = definition.duration is not None and not definition.interactive
            execution = Execution(
                id=str(uuid.UUID(int=self._ids.getrandbits(128), version=4)),
                definition_name=name,
                definition=definition,
                parameters=parameters,
                locale=locale,
                record_id=record_id,
                started_at=now,
                expires_at=now + DEFAULT_LIFETIME if expires_at is None else expires_at,
                token=f"{self._tokens.getrandbits(192):048x}" if definition.interactive else None,
                finishes_at=now + (definition.duration or 0) if by_itself else None,
                active_status=definition.active_status,
                decision=None if definition.interactive else definition.decision,
            )
            self._executions[execution.id] = execution
            if execution.token is not None:
                self._ids_by_token[execution.token] = execution.id
            self._starts.append(
                Start(
                    execution_id=execution.id,
                    definition=name,
                    time=now,
                    record_id=record_id,
                    locale=locale,
                    expires_at=expires_at,
                    parameters=parameters,
                    headers=dict(headers or {}),
                    request=request,
                )
            )
            return execution

    def find(self, execution_id: str) -> Execution:
        """The execution with this id. Raises `UnknownExecutionError`."""
        with self._lock:
            try:
                return self._executions[execution_id]
            except KeyError:
                raise UnknownExecutionError(execution_id) from None

    def find_by_token(self, token: str) -> Execution:
        """The interactive execution whose hosted page this token opens. Raises `UnknownExecutionError`."""
        with self._lock:
            return self.find(self._ids_by_token.get(token, ""))

    def cancel(self, execution_id: str, request: int = 0) -> bool:
        """Cancel an execution. Returns whether it was still active. Raises `UnknownExecutionError`."""
        with self._lock:
            execution, now = self.find(execution_id), self.clock.now()
            active = not execution.is_finished_at(now)
            self._cancels.append(
                Cancel(
                    execution_id=execution_id,
                    definition=execution.definition_name,
                    time=now,
                    status_before=execution.status_at(now),
                    took_effect=active,
                    request=request,
                )
            )
            if active:
                self._executions[execution_id] = execution.forced("CANCELLED")
            return active

    def decide(self, token: str, decision: str) -> Execution:
        """
        Take a person's decision, `approve` or `reject`.

        Raises:
            UnknownExecutionError: no interactive execution has this token.
            AlreadyFinishedError: it is decided, cancelled, expired or otherwise over.
        """
        with self._lock:
            execution, now = self.find_by_token(token), self.clock.now()
            if not execution.waits_for_person_at(now):
                raise AlreadyFinishedError(execution.id)
            self._executions[execution.id] = execution.decided(decision, now)
            return self._executions[execution.id]

    def force(self, execution_id: str, changes: Mapping[str, Any]) -> Execution:
        """
        Set `status` and `result` (`None`: no result) of an execution, whichever are given.

        Raises:
            UnknownExecutionError: no execution has this id.
        """
        with self._lock:
            execution = self.find(execution_id)
            if "status" in changes:
                execution = execution.forced(changes["status"])
            if "result" in changes:
                execution = attrs.evolve(execution, result=changes["result"], result_forced=True)
            self._executions[execution_id] = execution
            return execution
