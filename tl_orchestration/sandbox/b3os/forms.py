"""
Executions, events and runs as B3OS tells them.

Members whose values are documented nowhere are left out: those of payment, orders and initiators, of triggers and
costs. Event types are the sandbox's own. What has no value yet is left out too.
"""

from typing import Any

from tl_orchestration.sandbox.b3os.book import Run, Session
from tl_orchestration.sandbox.clock import to_text
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.store import Store
from tl_orchestration.sandbox.words import execution_word, has_run, run_word

NODE = "check"
"""The id of the only node that a workflow has here."""

_REASONS = {
    "FAILED": "A node failed",
    "PARTIAL": "Some items failed",
    "CANCELLED": "Cancelled on request",
    "EXPIRED": "Timed out",
}


class Teller:
    """
    Tells executions and runs at the present moment.

    Args:
        store: has the clock, and what is to be told.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def execution(self, execution: Execution, session: Session) -> dict[str, Any]:
        """The execution object of answers to a key, without its `responsePayload`."""
        common = self._execution(execution, session)
        over_at = execution.over_at(self._store.clock.now())
        return common | _present(
            organizationId=self._store.settings.organization_id,
            statusReason=_REASONS.get(self._status(execution)),
            requestPayload=execution.parameters,
            updatedAt=self._time(max(execution.started_at, over_at or self._began_at(execution) or 0)),
            **session.asked,
        )

    def public_execution(self, execution: Execution, session: Session) -> dict[str, Any]:
        """The execution as its client token shows it."""
        return self._execution(execution, session) | _present(
            clientSafeMetadata=session.asked.get("clientSafeMetadata"),
        )

    def payload(self, execution: Execution) -> dict[str, Any]:
        """`responsePayload`, where there is a result."""
        return _present(responsePayload=execution.result_at(self._store.clock.now()))

    def message(self, execution: Execution) -> str:
        """One sentence on how it stands."""
        word = execution_word(self._status(execution), self._store.variants)
        return _REASONS.get(self._status(execution), word.removeprefix("workflow_").replace("_", " ").capitalize())

    def events(self, execution: Execution, *, public: bool) -> list[dict[str, Any]]:
        """What has happened to it: that it was created, and that it is over."""
        over_at = execution.over_at(self._store.clock.now())
        told = [("created", "info", execution.started_at)]
        if over_at is not None:
            told.append(("over", "error" if self._status(execution) == "FAILED" else "info", over_at))
        events = []
        for number, (kind, level, time) in enumerate(told, start=1):
            event = {
                "id": f"{execution.id}-{number}",
                "eventType": f"sandbox.{kind}",
                "level": level,
                "title": kind.capitalize(),
                "message": self.message(execution) if kind == "over" else "Created",
                "createdAt": self._time(time),
            }
            if not public:
                event |= {"executionId": execution.id, "workflowId": execution.definition_name}
            events.append(event)
        return events

    def run(self, run: Run, execution: Execution, *, summary: bool = False) -> dict[str, Any]:
        """The run object of answers to a key."""
        told = {"id": run.id, "organizationId": self._store.settings.organization_id, **self._run(execution)}
        told |= {"workflowVersion": 1, **_present(sourceRunId=run.source_run_id)}
        if summary:
            return told
        node = self._node(execution) | _present(
            input=execution.parameters, result=execution.result_at(self._store.clock.now())
        )
        return told | {"executionState": {NODE: node}, "workflowDefinition": {"nodes": [NODE]}}

    def public_run(self, run: Run, execution: Execution) -> dict[str, Any]:
        """The run as anybody may see it: without payloads."""
        node = self._node(execution)
        name = self._store.variants["public_run_id"]
        return {name: run.id, **self._run(execution), "nodes": [{"id": NODE}], "executionState": {NODE: node}}

    def _execution(self, execution: Execution, session: Session) -> dict[str, Any]:
        status = self._status(execution)
        return _present(
            id=execution.id,
            workflowId=execution.definition_name,
            runId=session.run_id if has_run(status) else None,
            status=execution_word(status, self._store.variants),
            createdAt=self._time(execution.started_at),
            startedAt=self._time(self._began_at(execution)),
            finishedAt=self._time(execution.over_at(self._store.clock.now())),
        )

    def _run(self, execution: Execution) -> dict[str, Any]:
        return _present(
            workflowId=execution.definition_name,
            status=run_word(self._status(execution), self._store.variants),
            startedAt=self._time(self._began_at(execution)),
            finishedAt=self._time(execution.over_at(self._store.clock.now())),
        )

    def _node(self, execution: Execution) -> dict[str, Any]:
        told = self._run(execution)
        return {"type": "sandbox", **{name: told[name] for name in told if name != "workflowId"}}

    def _status(self, execution: Execution) -> str:
        now = self._store.clock.now()
        status = execution.status_at(now)
        return "WAITING" if status == "RUNNING" and execution.waits_for_person_at(now) else status

    def _began_at(self, execution: Execution) -> float | None:
        return execution.begins_at if has_run(self._status(execution)) else None

    def _time(self, epoch: float | None) -> str | None:
        return None if epoch is None else to_text(epoch, self._store.variants["timestamps"])


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
