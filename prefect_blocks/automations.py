"""
What has to stand on the Prefect server beside the deployments: a timer and a rule that wake flow runs which wait for
executions, and a rule that cancels the executions of a flow run which somebody cancelled while it had no process.

All are found by name: creating them again changes what differs and nothing else. None holds a secret.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from prefect_blocks.announcing import WAITING, WAITS_NO_MORE, announce, waiting_flow_runs
from prefect_blocks.waking import WAKE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from prefect.automations import AutomationCore
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation

TIMER = "transactionlink: wake flow runs that wait for executions"
WAKE_UP = "transactionlink: wake flow runs whose executions were announced"
CLEANUP = "transactionlink: cancel executions of cancelled flow runs"

SHORTEST = timedelta(seconds=10)
"""
Prefect does not look for the absence of events in a shorter time.
"""


@frozen
class Outcome:
    """
    What became of one automation.

    Args:
        name: Of the automation.
        id: Given by the server; None if there is none.
        change: What was done about it, or whether it is there.
    """

    name: str
    id: UUID | None
    change: Literal["created", "updated", "unchanged", "deleted", "present", "absent"]


def create_automations(
    *,
    wake_after: timedelta = timedelta(minutes=5),
    cleanup_deployment: str | None = None,
    cleanup_tag: str | None = None,
) -> list[Outcome]:
    """
    Create the automations, or bring those that are there to these settings.

    Args:
        wake_after: How long a flow run that waits is left without a process before it looks at its executions again.
            Each look costs the start of a process. At least ten seconds.
        cleanup_deployment: ``flow-name/deployment-name`` that serves :func:`prefect_blocks.cancelling.cleanup_flow`.
            None: no automation cancels; one that is there is left as it is.
        cleanup_tag: Only flow runs with this tag, by their deployment, are cleaned up; None: all that are cancelled on
            the server, at the cost of two short runs each. Prefect hears a tag only if the flow run is made with it.

    Raises:
        ValueError: ``wake_after`` is too short. Nothing was sent.
        prefect.exceptions.ObjectNotFound: There is no such deployment. Nothing was changed.
    """
    from prefect import get_client

    if wake_after < SHORTEST:
        raise ValueError(f"wake_after must be at least {SHORTEST.total_seconds():g} seconds.")
    with get_client(sync_client=True) as client:
        wanted = [_timer(wake_after), _wake_up()]
        if cleanup_deployment is not None:
            wanted.append(_cleanup(client.read_deployment_by_name(cleanup_deployment).id, cleanup_tag))
        outcomes = [_bring(client, automation) for automation in wanted]
        if outcomes[0].change != "unchanged":
            for run in waiting_flow_runs(client):  # a timer knows only what was announced since it was made
                announce(client, run.id)
        return outcomes


def delete_automations() -> list[Outcome]:
    """
    Delete the automations; flow runs that wait are then woken by nobody.
    """
    from prefect import get_client

    with get_client(sync_client=True) as client:
        outcomes = []
        for name, found in _found(client):
            for automation in found:
                client.delete_automation(automation.id)
            outcomes.append(Outcome(name, found[0].id if found else None, "deleted" if found else "absent"))
        return outcomes


def read_automations() -> list[Outcome]:
    """
    Which of the automations are there; nothing is changed.
    """
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return [
            Outcome(name, found[0].id if found else None, "present" if found else "absent")
            for name, found in _found(client)
        ]


def timer_span() -> timedelta | None:
    """
    How long the timer leaves a flow run without a process; None: there is none, or it is disabled.

    Raises:
        prefect.exceptions.PrefectException, httpx.HTTPError: The server does not say.
    """
    from prefect import get_client
    from prefect.automations import EventTrigger

    with get_client(sync_client=True) as client:
        spans = [
            automation.trigger.within
            for automation in client.read_automations_by_name(TIMER)
            if automation.enabled and isinstance(automation.trigger, EventTrigger)
        ]
    return max(spans, default=None)


def wake_waiting() -> list[UUID]:
    """
    Resume every flow run that waits for an execution, now: each looks once and, if it has to, waits on. For the day on
    which a timer was deleted or missed.
    """
    from prefect import get_client

    with get_client(sync_client=True) as client:
        woken = [run.id for run in waiting_flow_runs(client)]
        for flow_run_id in woken:
            client.resume_flow_run(flow_run_id)
        return woken


def _timer(wake_after: timedelta) -> AutomationCore:
    from prefect.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.actions import ResumeFlowRun

    over = {f"prefect.flow-run.{name}" for name in ("Resuming", "Cancelled", "Completed", "Failed", "Crashed")}
    return AutomationCore(
        name=TIMER,
        description="Resumes a flow run that has announced to wait for an execution and has not gone on since.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            after={WAITING},
            # The announcement, too: it begins the span anew. Else one that comes within the span of a former one, after
            # an early resume, would be passed over, and nobody would wake the flow run.
            expect={WAITING, WAITS_NO_MORE, *over},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=wake_after,
        ),
        actions=[ResumeFlowRun()],
    )


def _wake_up() -> AutomationCore:
    from prefect.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.actions import ResumeFlowRun

    return AutomationCore(
        name=WAKE_UP,
        description="Resumes a flow run when `tl webhooks forward` says that what it waits for was announced.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            expect={WAKE},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[ResumeFlowRun()],
    )


def _cleanup(deployment_id: UUID, tag: str | None) -> AutomationCore:
    from prefect.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.actions import RunDeployment

    return AutomationCore(
        name=CLEANUP,
        description="Runs the cleanup flow for each flow run that is cancelled: it may have no process to do it.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={} if tag is None else {"prefect.resource.id": f"prefect.tag.{tag}"},
            # Cancelling: there is a process, whose runner may be dead. Cancelled: there is none, and what a task has
            # still started after the former is on record.
            expect={"prefect.flow-run.Cancelling", "prefect.flow-run.Cancelled"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment_id,
                job_variables=None,
                parameters={"flow_run_id": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"}},
            )
        ],
    )


def _found(client: SyncPrefectClient) -> Iterator[tuple[str, list[Automation]]]:
    for name in (TIMER, WAKE_UP, CLEANUP):
        yield name, client.read_automations_by_name(name)


def _bring(client: SyncPrefectClient, wanted: AutomationCore) -> Outcome:
    found = client.read_automations_by_name(wanted.name)
    for surplus in found[1:]:
        client.delete_automation(surplus.id)
    if not found:
        return Outcome(wanted.name, client.create_automation(wanted), "created")
    if _compared(found[0]) == _compared(wanted):
        return Outcome(wanted.name, found[0].id, "unchanged")
    # Prefect leaves out what was not set by hand, also that an action is a resume, and then does nothing.
    client.update_automation(found[0].id, type(wanted).model_validate(wanted.model_dump(exclude={"owner_resource"})))
    return Outcome(wanted.name, found[0].id, "updated")


def _compared(automation: AutomationCore) -> dict[str, Any]:
    """
    What makes two automations the same; sets have no order in JSON.
    """

    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: ordered(inner) for key, inner in value.items() if key != "id" and inner is not None}
        return sorted(map(ordered, value), key=repr) if isinstance(value, list | tuple | set | frozenset) else value

    fields = {"enabled", "trigger", "actions", "description"}
    found: dict[str, Any] = ordered(automation.model_dump(mode="json", include=fields))
    return found


__all__ = [
    "CLEANUP",
    "SHORTEST",
    "TIMER",
    "WAKE_UP",
    "Outcome",
    "create_automations",
    "delete_automations",
    "read_automations",
    "timer_span",
    "wake_waiting",
]
