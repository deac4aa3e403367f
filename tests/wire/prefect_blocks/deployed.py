"""
Flow runs of a deployment whose passes are made in the process of the test: they can be suspended, and resumed, without
a runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Pending

if TYPE_CHECKING:
    from uuid import UUID

    from prefect import Flow


class DeployedRun:
    """
    One flow run of a deployment of the flow.
    """

    def __init__(self, flow: Flow[..., Any], **parameters: Any) -> None:
        self._flow = flow
        self._parameters = parameters
        with get_client(sync_client=True) as client:
            deployment_id = client.create_deployment(client.create_flow(flow), f"run-{uuid4()}")
            self.id: UUID = client.create_flow_run_from_deployment(deployment_id, state=Pending()).id

    def go(self) -> State[Any]:
        """
        One pass; a flow run that is suspended is resumed first. Returns the state that the server has then.
        """
        with get_client(sync_client=True) as client:
            if self.states()[-1] == "Suspended":
                client.resume_flow_run(self.id)
                client.set_flow_run_state(self.id, Pending(), force=True)
            flow_run = client.read_flow_run(self.id)
        with contextlib.suppress(Pause):
            ran: Any = run_flow(self._flow, flow_run=flow_run, parameters=self._parameters, return_type="state")
            if inspect.iscoroutine(ran):
                asyncio.run(ran)
        with get_client(sync_client=True) as client:
            state: State[Any] | None = client.read_flow_run(self.id).state
        assert state is not None
        return state

    def states(self) -> list[str]:
        """
        Names of the states, the first one first.
        """
        with get_client(sync_client=True) as client:
            states = sorted(client.read_flow_run_states(self.id), key=lambda state: state.timestamp)
        return [state.name or "" for state in states]
