"""Whatever happens in whatever order, the laws of the start protocol hold."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pytest
from attrs import define, field, frozen
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.planted import PARAMETERS, PERSONAL, found_in
from tests.scripted import Crashed
from tl_orchestration import Client, Execution, OrganizationToken, RunRequest, Settings, Status, Step
from tl_orchestration.claim import SETTLE_WINDOW
from tl_orchestration.errors import LedgerError, StartOutcomeUnknown, TransactionlinkError
from tl_orchestration.exchange import AppendEvent, ClaimStart, Command, Flow, Request, Response, Send
from tl_orchestration.ledger import Entry, Event, MemoryLedger, State
from tl_orchestration.ledger.entry import OPEN, UNDECIDED
from tl_orchestration.ledger.verdicts import adopt, not_started
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.testing import FakeService

T = TypeVar("T")

EXAMPLES = 2_000 if os.environ.get("SOAK") else 100
KEYS = ("first", "second")
some_key = st.sampled_from(("first", "first", "first", "second"))  # more happens to one of them
DEFINITIONS = ("kyc-approve", "kyc-fail", "kyc-slow", "kyc-review")

#: One start that a try was allowed to make: key, generation, number of the attempt.
Attempt = tuple[str, str, int]


@define
class Store:
    """
    A ledger that outlives every process, that may fail, and the notes of somebody who saw all its writes.

    Args:
        failures: What becomes of the next writes: ``refused`` is not written, ``unconfirmed`` is, but its writer is
            told that it failed; None: all is well.
        known: Every execution id that it has ever held for a key.
        endings: Attempts that another may follow: it knows that they ended without success, or the service has accepted
            a cancel. A decision to cancel is none.
        held: Attempts of which it has known an execution.
    """

    fenced = False
    memory: MemoryLedger = field(factory=MemoryLedger)
    failures: list[str | None] = field(factory=list)
    known: dict[str, set[str]] = field(factory=lambda: {key: set() for key in KEYS})
    endings: set[Attempt] = field(factory=set)
    held: dict[Attempt, str] = field(factory=dict)

    def read(self, key: str) -> Entry | None:
        return self.memory.read(key)

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        return self._write(key, lambda: self.memory.claim(key, intent, after))

    def append(self, key: str, event: Event) -> Entry:
        return self._write(key, lambda: self.memory.append(key, event))

    def _write(self, key: str, write: Callable[[], Entry]) -> Entry:
        failure = self.failures.pop(0) if self.failures else None
        if failure == "refused":
            raise LedgerError("The ledger is not there.")
        before = self.read(key)
        entry = write()
        self._note(key, before, entry)
        if failure == "unconfirmed":
            raise LedgerError("The ledger did not confirm.")
        return entry

    def _note(self, key: str, before: Entry | None, entry: Entry) -> None:
        attempt = (key, entry.generation, entry.attempt)
        if before is not None and before.state is State.SETTLED:
            # Absorbing: only another attempt can follow.
            same = (before.generation, before.attempt) == (entry.generation, entry.attempt)
            assert entry.state is State.SETTLED if same else entry.state is State.INTENT
        if entry.execution_id is not None:
            self.known[key].add(entry.execution_id)
            # An attempt never changes its mind about which execution is its own.
            assert self.held.setdefault(attempt, entry.execution_id) == entry.execution_id
        if entry.state is State.SETTLED:
            (self.endings.discard if entry.status == Status.SUCCEEDED else self.endings.add)(attempt)

    def accepted_cancel(self, execution_id: str) -> None:
        self.endings |= {attempt for attempt, held in self.held.items() if held == execution_id}


@frozen
class Trouble:
    """
    What befalls a process at one of its commands, counted from 0: it dies before or after the command is carried out,
    or another process tries the same step in between.
    """

    kind: str
    at: int


troubles = st.none() | st.builds(
    Trouble, kind=st.sampled_from(["dies before", "dies after", "meets another"]), at=st.integers(0, 11)
)

MADE = ("case_id", "parameters_id")


@frozen
class Preparing(Transactionlink):
    """
    The current API, if its starts needed ids that have to be made first, as those of the legacy one do.
    """

    def needs(self, request: RunRequest, known: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(name for name in MADE if name not in known)

    def make(self, name: str, request: RunRequest, send: Send) -> Flow[str]:
        response = yield from send(Request("prepare", "POST", "/cases", repeatable=False))
        return response.body.decode()


class AtMostOnce(RuleBasedStateMachine):
    """
    Two steps, any number of processes one after another (or, for a moment, at the same time), one ledger, one service.
    """

    def __init__(self) -> None:
        super().__init__()
        self.service = FakeService()
        self.clock = self.service.clock
        self.store = Store()
        self.generation = dict.fromkeys(KEYS, 0)
        self.definition = dict.fromkeys(KEYS, "kyc-approve")
        self.prepares: set[str] = set()
        self.made: list[str] = []  # what starts were prepared with
        self.commits: list[tuple[Attempt, str]] = []
        self.unknown: set[Attempt] = set()
        self.named: set[str] = set()  # executions that a StartOutcomeUnknown has named
        self.restarts: set[tuple[str, str]] = set()
        self.retries: set[tuple[str, str]] = set()
        self.answered: set[str] = set()  # ids that the service has told anybody
        self.running: dict[str, Execution] = {}  # what the last try of a step returned
        self.delivered: set[str] = set()  # executions whose link somebody has been given
        self.said: list[str] = []
        self.handler = _Listening(self.said)
        logging.getLogger("tl_orchestration").addHandler(self.handler)
        self.level = logging.getLogger("tl_orchestration").level
        logging.getLogger("tl_orchestration").setLevel(logging.DEBUG)

    @initialize(
        definitions=st.tuples(*[st.sampled_from(DEFINITIONS)] * len(KEYS)), prepares=st.sets(st.sampled_from(KEYS))
    )
    def define(self, definitions: tuple[str, ...], prepares: set[str]) -> None:
        """Each step runs one definition for good, and its starts need preparing or not."""
        self.prepares = prepares
        self.definition = dict(zip(KEYS, definitions, strict=True))

    # What processes do.

    @rule(
        key=some_key,
        retry_failed=st.booleans(),
        policy=st.sampled_from(["fail", "fail", "restart"]),
        trouble=troubles,
        on_link=st.none() | st.sampled_from(["delivers", "fails"]),
        on_link_lost=st.sampled_from(["fail", "restart"]),
    )
    def try_step(
        self, key: str, retry_failed: bool, policy: str, trouble: Trouble | None, on_link: str | None, on_link_lost: str
    ) -> None:
        """A first try, a retry, or a try after a clear; perhaps in trouble."""
        self._try(key, retry_failed, policy, trouble, on_link, on_link_lost)

    @rule(key=some_key, trouble=troubles)
    def poll(self, key: str, trouble: Trouble | None) -> None:
        """A look at what the last try returned."""
        if key in self.running:
            self._as_process(key, lambda client: client.poll(self.running[key]), trouble)

    @rule(key=some_key, trouble=troubles)
    def cancel(self, key: str, trouble: Trouble | None) -> None:
        """A person cancels."""
        if key in self.running:
            self._as_process(key, lambda client: client.cancel(self.running[key]), trouble)

    @rule(key=some_key, seconds=st.sampled_from([2.0, 60.0, 7200.0]), trouble=troubles)
    def wait(self, key: str, seconds: float, trouble: Trouble | None) -> None:
        """A wait to the end, or to a deadline that cancels."""
        if key in self.running:
            self._as_process(key, lambda client: client.wait(self.running[key], seconds), trouble)

    @rule(key=some_key, literal=st.sampled_from(["COMPLETED", "FAILED", "CANCELLED"]))
    def finish(self, key: str, literal: str) -> None:
        """What the last try returned ends, and somebody looks."""
        if key in self.running:
            self.service.end(self.running[key].id, literal)
            self._as_process(key, lambda client: client.poll(self.running[key]), None)

    # What happens to them.

    @rule(key=some_key, policies=st.lists(st.sampled_from(["fail", "restart"]), min_size=1, max_size=4))
    def lose_start_after_start(self, key: str, policies: list[str]) -> None:
        """Every try of a step loses its answer."""
        for policy in policies:
            self.service.lose_answer("run")
            self._try(key, retry_failed=False, policy=policy, trouble=None)
            self.clock.advance(2 * SETTLE_WINDOW)

    @rule(key=some_key, status=st.sampled_from([404, 503]))
    def cancel_in_vain(self, key: str, status: int) -> None:
        """A cancel is decided and the service takes none; then a retry that may run again what has failed."""
        if key in self.running:
            self.service.refuse("cancel", status, times=20)
            self._as_process(key, lambda client: client.cancel(self.running[key]), None)
            self._try(key, retry_failed=True, policy="fail", trouble=None)
            self.service.recover()

    @rule(key=some_key)
    def clear(self, key: str) -> None:
        """A person clears the step: a new generation."""
        self.generation[key] += 1

    @rule(seconds=st.sampled_from([0.5, 10.0, SETTLE_WINDOW, 3 * SETTLE_WINDOW, 86400.0]))
    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule(literal=st.sampled_from(["COMPLETED", "FAILED", "CANCELLED", "NEW_WORD"]), which=st.integers(0, 9))
    @precondition(lambda self: bool(self.commits))
    def change_status(self, literal: str, which: int) -> None:
        """An execution ends by itself, or says something that nobody has taught us."""
        self.service.end(self.commits[which % len(self.commits)][1], literal)

    @rule(operation=st.sampled_from(["run", "run", "poll", "cancel"]), times=st.integers(1, 4))
    def lose_answers(self, operation: Any, times: int) -> None:
        """The service carries out what is asked, and its answer is lost."""
        self.service.lose_answer(operation, times=times)

    @rule(operation=st.sampled_from(["run", "poll", "cancel"]), times=st.integers(1, 5))
    def disconnect(self, operation: Any, times: int) -> None:
        """The service cannot be reached."""
        self.service.disconnect(operation, times=times)

    @rule(
        operation=st.sampled_from(["run", "run", "poll", "cancel"]),
        status=st.sampled_from([307, 400, 401, 403, 404, 409, 429, 500, 503]),
        times=st.integers(1, 5),
        retry_after=st.sampled_from([None, "0", "30", "3600", "soon"]),
    )
    def refuse(self, operation: Any, status: int, times: int, retry_after: str | None) -> None:
        """The service refuses."""
        self.service.refuse(operation, status, times=times, retry_after=retry_after)

    @rule(failures=st.lists(st.sampled_from([None, "refused", "unconfirmed"]), min_size=1, max_size=7))
    def disturb_ledger(self, failures: list[str | None]) -> None:
        """The ledger does not take the next writes, or takes them and does not say so."""
        self.store.failures = failures

    @rule(key=some_key)
    def look_in_the_dashboard(self, key: str) -> None:
        """A person finds out about a start of unknown fate, and tells the ledger the truth."""
        entry = self.store.read(key)
        if entry is None or entry.state not in UNDECIDED:
            return
        self.clock.advance(SETTLE_WINDOW)
        made = [made for attempt, made in self.commits if attempt == (key, entry.generation, entry.attempt)]
        with contextlib.suppress(LedgerError):
            if made:
                self.answered.add(made[0])
                adopt(self.store, key, made[0], reason="seen", actor="jo", now=self.clock.now())
            else:
                not_started(self.store, key, reason="not there", actor="jo", now=self.clock.now())

    # The laws.

    @invariant()
    def one_commit_per_attempt(self) -> None:
        """At most one start per step, generation and attempt."""
        commits = Counter(attempt for attempt, _ in self.commits)
        assert {attempt: count for attempt, count in commits.items() if count > 1} == {}
        assert sorted(made for _, made in self.commits) == sorted(start.execution_id for start in self.service.starts)

    @invariant()
    def no_commit_without_a_reason(self) -> None:
        """A step starts once, and again only after a clear, or an ending or unknown fate where the caller said so."""
        for key in KEYS:
            made = sum(attempt[0] == key for attempt, _ in self.commits)
            endings = sum(attempt[0] == key and attempt[:2] in self.retries for attempt in self.store.endings)
            restarts = sum(where[0] == key for where in self.restarts)
            assert made <= 1 + endings + self.generation[key] + restarts

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every commit is held by the ledger, or its attempt was or will be called unknown."""
        for attempt, made in self.commits:
            key, generation, number = attempt
            if made in self.store.known[key] or made in self.named or attempt in self.unknown:
                continue
            entry = self.store.read(key)
            assert entry is not None
            assert (entry.generation, entry.attempt) == (generation, number)
            assert entry.state in UNDECIDED
            assert not entry.preparing

    @invariant()
    def nothing_personal_is_said(self) -> None:
        """No parameter and no link is in any log record, error or ledger entry."""
        told = "\n".join([*self.said, *(repr(self.store.read(key)) for key in KEYS)])
        assert found_in(told, (*PERSONAL, "service.test/", "page-token")) == []
        self.said.clear()

    def teardown(self) -> None:
        """Once service and ledger are well, every step knows what it has, or says that it does not."""
        try:
            self.store.failures.clear()
            self.service.recover()
            self.clock.advance(3 * SETTLE_WINDOW)
            for key in KEYS:
                before, entry = len(self.service.starts), self.store.read(key)
                self._try(key, retry_failed=False, policy="fail", trouble=None)
                if entry is not None and entry.state in UNDECIDED and not entry.preparing:
                    assert (key, entry.generation, entry.attempt) in self.unknown
                    assert len(self.service.starts) == before
            self.one_commit_per_attempt()
            self.no_commit_without_a_reason()
            self.nothing_is_lost()
            self.nothing_personal_is_said()
        finally:
            logging.getLogger("tl_orchestration").removeHandler(self.handler)
            logging.getLogger("tl_orchestration").setLevel(self.level)

    def _try(
        self,
        key: str,
        retry_failed: bool,
        policy: Any,
        trouble: Trouble | None,
        on_link: str | None = None,
        on_link_lost: Any = "fail",
    ) -> None:
        step = Step(
            key=key,
            generation=str(self.generation[key]),
            retry_failed=retry_failed,
            on_unknown_start=policy,
            on_link_lost=on_link_lost,
        )
        entry = self.store.read(key)
        if policy == "restart":
            self.restarts.add((key, step.generation))
            if entry is not None and entry.state in UNDECIDED:
                self.unknown.add((key, entry.generation, entry.attempt))  # the caller has said that he knows
        if retry_failed or on_link_lost == "restart":
            self.retries.add((key, step.generation))
        request = RunRequest(self.definition[key], PARAMETERS)
        hand_over = {"delivers": self._deliver, "fails": self._fail}[on_link] if on_link else None
        found = self._as_process(key, lambda client: client.run(request, step, on_link=hand_over), trouble)
        if found is not None:
            self.running[key] = found
            assert found.id in self.store.known[key]
            held = self.store.read(key)
            if on_link and held is not None and held.execution_id == found.id and held.interactive:
                # Nobody goes on with what waits for a person whom nobody has told, unless it is to end.
                assert found.id in self.delivered or found.is_terminal or held.cancel_requested

    def _deliver(self, execution: Execution) -> None:
        assert execution.link is not None
        self.delivered.add(execution.id)

    def _fail(self, execution: Execution) -> None:
        assert execution.link is not None
        raise RuntimeError(f"cannot mail {execution.link.reveal()}")

    def _as_process(self, key: str, call: Callable[[Client], T], trouble: Trouble | None) -> T | None:
        """Let a process do something; what it returns, if it lives and nothing fails."""
        process = Process(self, key, trouble)
        try:
            return call(process.client)
        except Crashed:
            return None
        except StartOutcomeUnknown as error:
            self._hear(error)
            entry = self.store.read(key)
            assert entry is not None
            self.unknown.add((key, entry.generation, entry.attempt))
            if error.execution_id is not None:
                self.named.add(error.execution_id)
        except TransactionlinkError as error:
            self._hear(error)
        return None

    def _hear(self, error: TransactionlinkError) -> None:
        cause: BaseException | None = error
        while cause is not None:
            self.said += [str(cause), repr(cause), repr(cause.__dict__)]
            cause = cause.__cause__ or cause.__context__


class Process:
    """
    A client in a process that may come to grief, watched at every command.
    """

    def __init__(self, world: AtMostOnce, key: str, trouble: Trouble | None) -> None:
        self._world = world
        self._key = key
        self._trouble = trouble
        self._passed = 0
        self._claimed: Entry | None = None
        self.client = world.service.client(ledger=world.store)
        if key in world.prepares:
            credentials = OrganizationToken("tot_x")
            self.client._service = Preparing.configured(credentials, Settings(), world.clock.now)
        self._carry_out = self.client._perform
        setattr(self.client, "_perform", self._perform)  # noqa: B010  # the one place that all commands pass

    def _perform(self, command: Command, stop: Callable[[], bool] | None) -> Any:
        here = self._trouble is not None and self._trouble.at == self._passed
        kind = self._trouble.kind if self._trouble is not None and here else None
        self._passed += 1
        if kind == "meets another":
            self._world._try(self._key, retry_failed=False, policy="restart", trouble=None)
        if kind == "dies before":
            raise Crashed
        reply = self._watched(command, stop)
        if kind == "dies after":
            raise Crashed
        return reply

    def _watched(self, command: Command, stop: Callable[[], bool] | None) -> Any:
        if isinstance(command, Request):
            return self._send(command, stop)
        if isinstance(command, ClaimStart):
            self._check_intent(command)
        reply = self._carry_out(command, stop)
        if isinstance(command, ClaimStart):
            self._claimed = reply  # only once it was acknowledged
        if isinstance(command, AppendEvent):
            self._claimed = None
        return reply

    def _send(self, request: Request, stop: Callable[[], bool] | None) -> Any:
        world, before = self._world, len(self._world.service.starts)
        if request.operation == "cancel":
            assert request.path.split("/")[2] in world.answered  # never of an execution that nobody was told of
        if request.operation == "prepare":
            assert self._claimed is not None
            assert self._claimed.preparing
            world.made.append(f"made-{len(world.made)}")
            return Response(200, body=world.made[-1].encode())
        if request.operation == "run":
            self._check_start()
        try:
            response = self._carry_out(request, stop)
        finally:
            if len(world.service.starts) > before:
                assert self._claimed is not None
                attempt = (self._key, self._claimed.generation, self._claimed.attempt)
                world.commits.append((attempt, world.service.starts[-1].execution_id))
        if request.operation == "cancel" and response.is_success:
            world.store.accepted_cancel(request.path.split("/")[2])
        if request.operation == "run" and response.is_success:
            world.answered.add(world.service.starts[-1].execution_id)
        return response

    def _check_intent(self, claim: ClaimStart) -> None:
        before = claim.after
        if before is not None and before.state in OPEN | {State.SETTLED} and before.belongs_to(claim.intent.generation):
            attempt = (self._key, before.generation, before.attempt)
            assert attempt in self._world.store.endings, "another start beside an execution that may run, or succeeded"

    def _check_start(self) -> None:
        claimed, entry = self._claimed, self._world.store.read(self._key)
        assert claimed is not None, "a start without an acknowledged intent"
        assert claimed.state is State.INTENT
        assert not claimed.preparing
        assert set(claimed.progress) == (set(MADE) if self._key in self._world.prepares else set())
        assert entry is not None
        assert entry.state not in OPEN | {State.SETTLED}, "a start after STARTED"
        assert entry == claimed, "a start that somebody else has taken over"


class _Listening(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said += [record.getMessage(), repr(record.args)]


TestAtMostOnce = pytest.mark.timeout(1800)(AtMostOnce.TestCase)
TestAtMostOnce.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=not os.environ.get("SOAK"),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
