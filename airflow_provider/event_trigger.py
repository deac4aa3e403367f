"""
Completions as events of an asset: an execution that has ended, wherever it was started, schedules a DAG.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider import connection_form, versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider.completions import Completions
    from tl_orchestration import AsyncClient, Execution
    from tl_orchestration.webhooks.inbox import Inbox

#: Seconds between two looks at the inbox, and after a failure.
_INTERVAL = 1.0
_PAUSE = 15.0
#: Name of the place in the asset's state.
_STATE = "transactionlink_completions"
EVENT_FORMAT = 1


class TransactionlinkWorkflowEventTrigger(BaseEventTrigger):
    """
    Fires for each execution that webhooks announce and that has ended, as the service confirms. For an
    ``AssetWatcher``; it starts and cancels nothing.

    The payload is a dict with ``format`` (1), ``execution_id``, ``status``, ``service`` and ``workflow_definition_id``
    (None where the service does not tell it): Airflow keeps it in clear, so it has ids and states only.

    From Airflow 3.3 on its place is kept with the asset: a restart of the triggerer misses nothing, and may report
    again what ended in the last seconds before it. Before 3.3, it begins two minutes before each start.

    Args:
        transactionlink_conn_id: Connection to ask with. It, or ``[transactionlink] inbox_url``, names the inbox.
        workflow_definition_id: Only executions of this definition; those of which the service does not tell the
            definition, as the legacy API does not, are reported all the same, and a warning says so. Default: all that
            the connection may read.
    """

    def __init__(
        self,
        *,
        transactionlink_conn_id: str = connection_form.DEFAULT_CONN_ID,
        workflow_definition_id: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.transactionlink_conn_id = transactionlink_conn_id
        self.workflow_definition_id = workflow_definition_id
        self._failing = self._troubled = self._said_undefined = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """
        Class path and arguments, for the triggerer.
        """
        return (
            "airflow_provider.event_trigger.TransactionlinkWorkflowEventTrigger",
            {
                "transactionlink_conn_id": self.transactionlink_conn_id,
                "workflow_definition_id": self.workflow_definition_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """
        Read the inbox for ever. Whatever fails is tried again: a watcher that ends would be a DAG that never runs.
        """
        inbox: Inbox | None = None
        completions: Completions | None = None
        stored: dict[str, Any] | None = None
        now = asyncio.get_running_loop().time
        while True:
            ended: list[Execution] = []
            try:
                if inbox is None:
                    inbox = await self._inbox()
                if completions is None:
                    completions = await self._resumed(inbox)
                ended = await self._look(inbox, completions)
            except Exception as error:
                self._complain(error)
                inbox = None  # the connection may name another one by then
                await asyncio.sleep(_PAUSE)
                continue
            for execution in ended:
                yield TriggerEvent(_payload(execution))  # type: ignore[no-untyped-call]  # Airflow's
                completions.has_ended(execution.id, now())
            completions.round_is_over(now())
            stored = await self._store(completions.to_dict(now()), stored)
            await asyncio.sleep(_INTERVAL)

    async def _inbox(self) -> Inbox:
        from airflow_provider import shared_clients
        from tl_orchestration.errors import InvalidSettings

        inbox = await shared_clients.inbox_of(self.transactionlink_conn_id)
        if inbox is None:
            raise InvalidSettings(
                "Completions are read from an inbox of webhooks, and neither connection"
                f" {self.transactionlink_conn_id!r} (inbox_url) nor [transactionlink] inbox_url of airflow.cfg names"
                " one that can be used."
            )
        return inbox

    async def _resumed(self, inbox: Inbox) -> Completions:
        """
        Go on where an earlier process of this trigger was.
        """
        from airflow_provider.completions import Completions
        from tl_orchestration.errors import InvalidRequest

        for store in versions.asset_states(self):
            document = await store.aget(_STATE)
            if document is not None:
                try:
                    kept = Completions.from_dict(document)
                    return Completions(await inbox.aresume(kept.cursor.to_text()), kept.reported)
                except InvalidRequest as error:
                    self.log.error("The asset's completions begin anew: %s", error)
        return Completions(await inbox.astart())

    async def _look(self, inbox: Inbox, completions: Completions) -> list[Execution]:
        """
        Read on, ask about what is due, and return what has ended and is wanted.
        """
        from airflow_provider import shared_clients

        now = asyncio.get_running_loop().time
        self._troubled = False
        async with shared_clients.borrowed(self.transactionlink_conn_id, {}) as client:
            if not completions.is_full:
                hints, cursor = await inbox.asince(completions.cursor)
                # The legacy API and the current one announce under one name.
                completions.take(hints, cursor, "b3os" if client.service == "b3os" else "transactionlink", now())
            due = completions.due(now())
            found = await asyncio.gather(*(self._ended(client, completions, one) for one in due))
        self._failing = self._troubled
        return [execution for execution in found if execution is not None]

    async def _ended(self, client: AsyncClient, completions: Completions, execution_id: str) -> Execution | None:
        from airflow_provider import shared_clients
        from tl_orchestration.errors import AuthenticationError, InvalidRequest, NotFound, PermissionDenied

        now = asyncio.get_running_loop().time
        try:
            execution = await client.poll(execution_id)
        except (InvalidRequest, NotFound, PermissionDenied) as error:
            self.log.info("An announced execution is passed over unless it is announced again: %s", error)
            completions.goes_on(execution_id, now())
            return None
        except Exception as error:
            if isinstance(error, AuthenticationError):
                shared_clients.forget(client)
            self._complain(error)
            completions.is_unknown(execution_id, now())
            return None
        if not execution.is_terminal:
            completions.goes_on(execution_id, now())
            return None
        if execution.workflow_definition_id is None:
            self._say_undefined(execution)
        elif self.workflow_definition_id not in {None, execution.workflow_definition_id}:
            completions.has_ended(execution_id, now())
            return None
        return execution

    def _say_undefined(self, execution: Execution) -> None:
        if self.workflow_definition_id is not None and not self._said_undefined:
            self._said_undefined = True
            self.log.warning(
                "The service does not tell the definition of execution %s, so workflow_definition_id=%r holds nothing"
                " back here: completions of unknown definitions are reported. Let the DAG leave what it does not know.",
                execution.id,
                self.workflow_definition_id,
            )

    async def _store(self, document: dict[str, Any], stored: dict[str, Any] | None) -> dict[str, Any] | None:
        """
        Keep the place with the asset, if it has changed. Returns what is kept now.
        """
        if document == stored:
            return stored
        try:
            for store in versions.asset_states(self):
                await store.aset(_STATE, document)
        except Exception as error:  # a restart then reports more of it again
            self._complain(error)
            return stored
        return document

    def _complain(self, error: Exception) -> None:
        from tl_orchestration.errors import TransactionlinkError

        said = str(error) if isinstance(error, TransactionlinkError) else type(error).__name__
        (self.log.debug if self._failing else self.log.warning)("Completions are looked for again: %s", said)
        self._failing = self._troubled = True


def _payload(execution: Execution) -> dict[str, Any]:
    return {
        "format": EVENT_FORMAT,
        "execution_id": execution.id,
        "status": execution.status.value,
        "service": execution.service,
        "workflow_definition_id": execution.workflow_definition_id,
    }


__all__ = ["EVENT_FORMAT", "TransactionlinkWorkflowEventTrigger"]
