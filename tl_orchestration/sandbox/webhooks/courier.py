"""
Delivers webhooks: one thread that notices what has happened and when which attempt is due, and a few that send.

A delivery fails when there is no answer in 10 seconds or another status than 2xx, and is tried again five times, five
seconds apart (the rule is Transactionlink's; B3OS publishes none).
"""

import contextlib
import heapq
import itertools
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import httpx

from tl_orchestration.sandbox.clock import Clock, to_text
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.ids import Streams
from tl_orchestration.sandbox.services import B3OS
from tl_orchestration.sandbox.variants import Variants
from tl_orchestration.sandbox.webhooks.scripts import Target
from tl_orchestration.sandbox.webhooks.signing import Keyring, b3os_signature

AWAITING = "awaiting"
"""A person has done his part, and the rest goes on."""

COMPLETED = "completed"
"""It is over, whatever its outcome."""

_LOOK = 0.02
_SENDERS = 8
_TRANSACTIONLINK_TYPES = {AWAITING: "WORKFLOW_AWAITING", COMPLETED: "WORKFLOW_COMPLETED"}


@attrs.frozen(kw_only=True)
class Rule:
    """
    How persistently a delivery is tried.

    Args:
        retries: how often after the first attempt.
        interval: seconds between attempts.
        patience: seconds to wait for an answer.
    """

    retries: int = 5
    interval: float = 5.0
    patience: float = 10.0


@attrs.frozen(kw_only=True)
class Attempt:
    """
    One attempt that was made.

    Args:
        number: of the delivery, from 1; attempts and replays of the same delivery share it.
        attempt: from 1.
        forged: how, one of `FORGERIES`; `None`: not at all.
        status: of the answer; `None`: there was none.
        time: epoch seconds.
    """

    number: int
    execution_id: str
    kind: str
    url: str
    attempt: int
    forged: str | None
    status: int | None
    time: float

    def described(self) -> dict[str, Any]:
        """The fields as JSON members, with the time as text."""
        return attrs.asdict(self) | {"time": to_text(self.time)}


@attrs.frozen
class _Delivery:
    number: int
    execution_id: str
    kind: str
    url: str
    body: bytes = attrs.field(repr=False)
    headers: dict[str, str] = attrs.field(repr=False)
    forged: str | None


class Courier:
    """
    The deliveries of one sandbox.

    Args:
        find: an execution by its id.
        run_of: the B3OS run of an execution.
        clock: the sandbox's, for when executions end. Delays and retries are in real time.
        variants: the readings in force.
        ids: for what is left to chance.
        keys: signs.
        rule: of retries.
    """

    def __init__(
        self,
        find: Callable[[str], Execution],
        run_of: Callable[[str], str],
        clock: Clock,
        variants: Callable[[], Variants],
        ids: Streams,
        keys: Keyring,
        rule: Rule,
    ) -> None:
        self._find = find
        self._run_of = run_of
        self._clock = clock
        self._variants = variants
        self._ids = ids
        self._keys = keys
        self._rule = rule
        self._targets: tuple[Target, ...] = ()
        self._lock = threading.Condition()
        self._watched: dict[str, set[str]] = {}
        self._due: list[tuple[float, int, _Delivery, int]] = []
        self._order = itertools.count()
        self._sent: list[_Delivery] = []
        self._attempts: list[Attempt] = []
        self._in_flight = 0
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where webhooks go."""
        return self._targets

    @property
    def attempts(self) -> list[Attempt]:
        """Every attempt that was made, oldest first."""
        with self._lock:
            return list(self._attempts)

    @property
    def waiting(self) -> int:
        """How many attempts are out or to come, as far as it is known now."""
        with self._lock:
            return len(self._due) + self._in_flight

    def deliver_to(self, targets: tuple[Target, ...]) -> None:
        """Deliver what happens to executions that are started from now on to these URLs."""
        with self._lock:
            self._targets = targets

    def watch(self, execution_id: str) -> None:
        """Tell what happens to an execution, if there is anybody to tell."""
        with self._lock:
            if not self._targets or self._stopped:
                return
            self._watched[execution_id] = set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sandbox-courier", daemon=True)
                self._thread.start()

    def replay(self, number: int | None = None) -> int:
        """Deliver again what was delivered, byte for byte: one delivery, or every one. Returns how many."""
        with self._lock:
            again = [one for one in self._sent if number in {None, one.number}]
            for delivery in again:
                self._push(delivery, 0.0, 1)
            return len(again)

    def stop(self) -> None:
        """Deliver nothing more."""
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def resume(self) -> None:
        """Go on after a stop."""
        with self._lock:
            self._stopped = False
            self._thread = None
            if self._watched or self._due:
                self._thread = threading.Thread(target=self._run, name="sandbox-courier", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        with (
            ThreadPoolExecutor(_SENDERS, thread_name_prefix="sandbox-webhook") as senders,
            httpx.Client(trust_env=False, timeout=self._rule.patience) as client,
        ):
            while True:
                with self._lock:
                    self._lock.wait(_LOOK)
                    if self._stopped:
                        return
                    watched = {execution_id: set(told) for execution_id, told in self._watched.items()}
                self._notice(watched)
                with self._lock:
                    ready = []
                    while self._due and self._due[0][0] <= time.monotonic():
                        ready.append(heapq.heappop(self._due))
                    self._in_flight += len(ready)
                for _, _, delivery, attempt in ready:
                    senders.submit(self._send, client, delivery, attempt)

    def _notice(self, watched: dict[str, set[str]]) -> None:
        # Not under the lock: the store's own is needed, and the store calls `watch` under that.
        now = self._clock.now()
        for execution_id, told in watched.items():
            execution = self._find(execution_id)
            if execution.token is not None and execution.decision is not None and AWAITING not in told:
                self._announce(execution, AWAITING)
                with self._lock:
                    self._watched[execution_id].add(AWAITING)
            if execution.is_finished_at(now):
                self._announce(execution, COMPLETED)
                with self._lock:
                    del self._watched[execution_id]

    def _announce(self, execution: Execution, kind: str) -> None:
        script = execution.definition.webhooks
        for target in self._targets:
            if (execution.service == B3OS) != (target.service == B3OS):
                continue
            if kind == AWAITING and target.service == B3OS:
                continue
            delivery = self._delivery(execution, kind, target, None)
            forged = None if script.forge is None else self._delivery(execution, kind, target, script.forge)
            dropped = self._ids.share("webhook drops") < script.drop
            with self._lock:
                if forged is not None:
                    self._push(forged, script.delay, 1)
                if dropped:
                    continue
                self._sent.append(delivery)
                for _ in range(script.copies):
                    self._push(delivery, script.delay + script.spread * self._ids.share("webhook spreads"), 1)

    def _delivery(self, execution: Execution, kind: str, target: Target, forge: str | None) -> _Delivery:
        body = json.dumps(self._document(execution, kind, target)).encode()
        name, signature = "jws-signature", ""
        if target.service == B3OS:
            name = "x-b3os-signature"
            signature = b3os_signature("another" if forge == "key" else target.secret or "", body)
        else:
            signature = self._keys.sign_by_stranger(body) if forge == "key" else self._keys.sign(body)
        if forge == "signature":
            signature = signature[:-6] + ("AAAAAA" if signature[-6:] != "AAAAAA" else "BBBBBB")
        if forge == "body":
            body += b" "
        headers = {"content-type": "application/json"} | ({} if forge == "unsigned" else {name: signature})
        return _Delivery(len(self._sent) + 1, execution.id, kind, target.url, body, headers, forge)

    def _document(self, execution: Execution, kind: str, target: Target) -> dict[str, Any]:
        if target.service == B3OS:
            outcome = execution.status_at(self._clock.now())
            event = "run.completed" if outcome in {"COMPLETED", "PARTIAL"} else "run.failed"
            return {
                "eventType": event,
                "executionId": execution.id,
                "runId": self._run_of(execution.id),
                "workflowId": execution.definition_name,
            }
        variants = self._variants()
        document = {
            str(variants["webhook_id"]): execution.id,
            "referenceName": execution.definition_name,
            "type": _TRANSACTIONLINK_TYPES[kind],
        }
        nesting = variants["webhook_nesting"]
        return document if nesting == "top" else {str(nesting): document}

    def _push(self, delivery: _Delivery, delay: float, attempt: int) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay, next(self._order), delivery, attempt))

    def _send(self, client: httpx.Client, delivery: _Delivery, attempt: int) -> None:
        status: int | None = None
        with contextlib.suppress(httpx.HTTPError, OSError):
            status = client.post(delivery.url, content=delivery.body, headers=delivery.headers).status_code
        with self._lock:
            self._in_flight -= 1
            self._attempts.append(
                Attempt(
                    number=delivery.number,
                    execution_id=delivery.execution_id,
                    kind=delivery.kind,
                    url=delivery.url,
                    attempt=attempt,
                    forged=delivery.forged,
                    status=status,
                    time=self._clock.now(),
                )
            )
            failed = status is None or not 200 <= status < 300
            if failed and delivery.forged is None and attempt <= self._rule.retries:
                self._push(delivery, self._rule.interval, attempt + 1)
