"""What the sandbox has committed: executions, and the ledger of every start, cancel and request."""

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs

from tl_orchestration.sandbox.b3os.book import Book
from tl_orchestration.sandbox.clock import Clock
from tl_orchestration.sandbox.definitions import Definition, merged
from tl_orchestration.sandbox.evidence import Cancel, Start
from tl_orchestration.sandbox.executions import Execution, begun
from tl_orchestration.sandbox.faults import Faults
from tl_orchestration.sandbox.ids import Streams
from tl_orchestration.sandbox.legacy.cases import Cases
from tl_orchestration.sandbox.legacy.sessions import Sessions
from tl_orchestration.sandbox.services import CURRENT
from tl_orchestration.sandbox.settings import SandboxSettings
from tl_orchestration.sandbox.variants import Variants
from tl_orchestration.sandbox.webhooks.courier import Courier, Rule
from tl_orchestration.sandbox.webhooks.signing import Keyring

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

    courier: Courier

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.clock = Clock(settings.clock)
        self.faults = Faults()
        self._lock = threading.RLock()
        self._has_begun = False
        self.reset()

    def reset(self) -> None:
        """Forget everything and begin as on the first day: definitions, clock, and ids under a seed."""
        if self._has_begun:
            self.courier.stop()  # before the lock, which its thread may be waiting for
        self._has_begun = True
        with self._lock:
            self.clock.reset()
            self.faults.clear()
            self._definitions = dict(self.settings.definitions)
            self._executions: dict[str, Execution] = {}
            self._ids_by_token: dict[str, str] = {}
            self._starts: list[Start] = []
            self._cancels: list[Cancel] = []
            self._requests: Counter[str] = Counter()
            self._by_definition: dict[str, Counter[str]] = {}
            self.ids = Streams(self.settings.seed)
            self.variants = Variants(self.settings.first_variants)
            self.sessions = Sessions(self.ids, self.settings.workspace_id)
            self.cases = Cases(self.ids)
            self.b3os = Book(self.ids)
            self.webhook_keys = Keyring(self.ids)
            rule = Rule(retries=self.settings.webhook_retries, interval=self.settings.webhook_interval)
            self.courier = Courier(
                self.find, self._run_of, self.clock, lambda: self.variants, self.ids, self.webhook_keys, rule
            )
            self.courier.deliver_to(self.settings.webhooks)

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

    @property
    def requests_by_definition(self) -> dict[str, dict[str, int]]:
        """How many requests came about each definition's executions, by step."""
        with self._lock:
            return {name: dict(steps) for name, steps in self._by_definition.items()}

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

    def count_step(self, definition: str, step: str) -> None:
        """Count a request of one API step about an execution of a definition."""
        with self._lock:
            self._by_definition.setdefault(definition, Counter())[step] += 1

    def fingerprint(self) -> str:
        """A new id of one error answer."""
        with self._lock:
            return self.ids.hex("fingerprints", 16)

    def start(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        service: str = CURRENT,
        locale: str | None = None,
        expires_at: float | None = None,
        lifetime: float = DEFAULT_LIFETIME,
        record_id: str | None = None,
        case_id: str | None = None,
        execution_id: str | None = None,
        phases: Mapping[str, float | None] | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        request: int = 0,
    ) -> Execution:
        """
        Commit one start. There is no deduplication here.

        Args:
            lifetime: seconds to the expiry where `expires_at` is `None`.
            execution_id: its id, where the service does not choose it.
            phases: seconds in each status before the script begins; `None`: for ever.

        Raises:
            UnknownDefinitionError: no definition has this name.
        """
        with self._lock:
            definition = self._definitions.get(name)
            if definition is None:
                raise UnknownDefinitionError(name)
            now = self.clock.now()
            execution = begun(
                definition,
                now,
                phases or {},
                id=execution_id or self.ids.uuid("ids"),
                service=service,
                definition_name=name,
                parameters=parameters,
                locale=locale,
                record_id=record_id,
                case_id=case_id,
                expires_at=now + lifetime if expires_at is None else expires_at,
                token=self.ids.hex("tokens", 48) if definition.interactive else None,
            )
            self._executions[execution.id] = execution
            for opener in (execution.token, execution.link_id):
                if opener is not None:
                    self._ids_by_token[opener] = execution.id
            self._starts.append(
                Start(
                    execution_id=execution.id,
                    definition=name,
                    time=now,
                    service=service,
                    record_id=record_id,
                    locale=locale,
                    expires_at=expires_at,
                    parameters=parameters,
                    details=dict(details or {}),
                    headers=dict(headers or {}),
                    request=request,
                )
            )
            self.courier.watch(execution.id)
            return execution

    def find(self, execution_id: str) -> Execution:
        """The execution with this id. Raises `UnknownExecutionError`."""
        with self._lock:
            try:
                return self._executions[execution_id]
            except KeyError:
                raise UnknownExecutionError(execution_id) from None

    def _run_of(self, execution_id: str) -> str:
        session = self.b3os.session(execution_id)
        return execution_id if session is None else session.run_id

    def find_by_token(self, token: str) -> Execution:
        """The interactive execution whose hosted page this token or link id opens. Raises `UnknownExecutionError`."""
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
                self._executions[execution_id] = execution.forced("CANCELLED", now)
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
                execution = execution.forced(changes["status"], self.clock.now())
            if "result" in changes:
                execution = attrs.evolve(execution, result=changes["result"], result_forced=True)
            self._executions[execution_id] = execution
            return execution
