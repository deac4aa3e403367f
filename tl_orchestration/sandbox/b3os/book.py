"""What B3OS knows beside the executions themselves: sessions, runs and idempotency keys."""

import threading
from collections.abc import Mapping
from typing import Any

import attrs

from tl_orchestration.sandbox.ids import Streams


@attrs.frozen(kw_only=True)
class Run:
    """
    One run.

    Args:
        execution_id: the execution whose script it follows; its own id where it was started without a session.
        source_run_id: the run that it repeats, or `None`.
    """

    id: str
    execution_id: str
    source_run_id: str | None = None


@attrs.frozen(kw_only=True)
class Session:
    """
    One execution session, with the request's members beside the payload.

    Args:
        run_id: the run it has, from when it has one.
        client_token: opens its public answer.
        asked: the members of the request that are told again, by their names on the wire.
        public: whether it was started without a key.
    """

    execution_id: str
    run_id: str
    client_token: str = attrs.field(repr=False)
    asked: Mapping[str, Any] = attrs.field(repr=False)
    public: bool


class Book:
    """
    Every session and run of one sandbox.

    Args:
        ids: makes run ids and client tokens.
    """

    def __init__(self, ids: Streams) -> None:
        self.lock = threading.Lock()
        """To be held from the look for an idempotency key or run id until what was started is entered."""
        self._ids = ids
        self._sessions: dict[str, Session] = {}
        self._runs: dict[str, Run] = {}
        self._by_key: dict[tuple[str, str], Session] = {}

    def new_run_id(self) -> str:
        """An id for a run whose client chose none."""
        return f"run_{self._ids.hex('runs', 24)}"

    def new_client_token(self) -> str:
        """A token for the public answer of an execution."""
        return self._ids.hex("client tokens", 48)

    def enter(self, session: Session, definition: str) -> None:
        """Remember a session, its run, and its idempotency key if it has one and is the first with it."""
        self._sessions[session.execution_id] = session
        self.enter_run(Run(id=session.run_id, execution_id=session.execution_id))
        key = session.asked.get("idempotencyKey")
        if key is not None:
            self._by_key.setdefault((definition, key), session)

    def enter_run(self, run: Run) -> None:
        """Remember a run."""
        self._runs[run.id] = run

    def session(self, execution_id: str) -> Session | None:
        """The session of an execution, or `None`: a run may have none."""
        return self._sessions.get(execution_id)

    def run(self, run_id: str) -> Run | None:
        """The run with this id, or `None`."""
        return self._runs.get(run_id)

    def with_key(self, definition: str, key: str | None) -> Session | None:
        """The first session of this workflow with this idempotency key, or `None`."""
        return None if key is None else self._by_key.get((definition, key))
