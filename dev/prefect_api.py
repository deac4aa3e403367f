"""
Calls of the REST interface of a Prefect server.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dev.http_service import HttpService, ServiceError, ServiceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
"""
Types of states that nothing follows by itself.
"""


class PrefectApi(HttpService):
    """
    Access to one Prefect server without a login.

    Args:
        base_url: With ``/api`` at its end.
    """

    @property
    def api_url(self) -> str:
        """
        As Prefect's own setting has it.
        """
        return self.base_url

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """
        One call, again while the server says 503: a busy SQLite locks it out for moments.

        Returns:
            The decoded answer.
        """
        for wait in (0.5, 1, 2, 4, 8, 16, 0):
            answer = self._send(method, path, arguments)
            if answer.status_code != 503:
                break
            time.sleep(wait)
        return self._decoded(answer)

    def healthy(self) -> bool:
        """
        Whether the server answers.
        """
        try:
            return bool(self.request("GET", "/health"))
        except ServiceError:
            return False

    # --- runs of flows

    def deployment(self, name: str) -> dict[str, Any]:
        """
        A deployment by ``flow-name/deployment-name``.
        """
        found: dict[str, Any] = self.request("GET", f"/deployments/name/{name}")
        return found

    def run(self, deployment: str, parameters: Mapping[str, Any] | None = None, tags: Collection[str] = ()) -> str:
        """
        Create a flow run for now.

        Args:
            deployment: ``flow-name/deployment-name``.
            tags: Of the flow run, as a deployment's are.

        Returns:
            Its id.
        """
        state = {"type": "SCHEDULED", "name": "Scheduled"}
        body = {"parameters": dict(parameters or {}), "state": state, "tags": list(tags)}
        path = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        return str(self.request("POST", path, json=body)["id"])

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        """
        A flow run as the server knows it, labels included.
        """
        found: dict[str, Any] = self.request("GET", f"/flow_runs/{flow_run_id}")
        return found

    def flow_runs_of(self, deployment: str) -> list[dict[str, Any]]:
        """
        All flow runs of a deployment, oldest first.
        """
        wanted = {"deployments": {"id": {"any_": [self.deployment(deployment)["id"]]}}, "sort": "START_TIME_ASC"}
        found: list[dict[str, Any]] = self.request("POST", "/flow_runs/filter", json=wanted)
        return found

    def subflow_runs(self, flow_run_id: str) -> list[str]:
        """
        Ids of the flow runs that a flow run has called.
        """
        wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run_id]}}}
        return [str(run["id"]) for run in self.request("POST", "/flow_runs/filter", json=wanted)]

    def state(self, flow_run_id: str) -> str:
        """
        Name of the present state, such as ``Suspended``.
        """
        return str(self.flow_run(flow_run_id)["state"]["name"])

    def states(self, flow_run_id: str) -> list[str]:
        """
        Names of all states that the run was in, oldest first.
        """
        found = self.request("GET", "/flow_run_states/", params={"flow_run_id": flow_run_id})
        return [state["name"] for state in sorted(found, key=lambda state: str(state["timestamp"]))]

    def task_runs(self, flow_run_id: str) -> list[dict[str, Any]]:
        """
        The task runs of a flow run.
        """
        wanted = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
        found: list[dict[str, Any]] = self.request("POST", "/task_runs/filter", json=wanted)
        return found

    def set_state(self, flow_run_id: str, kind: str, name: str, **fields: Any) -> str:
        """
        Ask for a state, as a page of the server does.

        Returns:
            What the server made of it: ACCEPT, REJECT, WAIT or ABORT.
        """
        body = {"state": {"type": kind, "name": name, **fields}}
        return str(self.request("POST", f"/flow_runs/{flow_run_id}/set_state", json=body)["status"])

    def cancel(self, flow_run_id: str) -> str:
        """
        What a person does with the button *Cancel*, again if the server was too busy to take it.
        """

        def press() -> str | None:
            status = self.set_state(flow_run_id, "CANCELLING", "Cancelling")
            return None if status == "ABORT" else status

        return self.wait_for(press, "the cancel to be taken", 90)

    def resume(self, flow_run_id: str) -> str:
        """
        Let a paused or suspended run go on.
        """
        return str(self.request("POST", f"/flow_runs/{flow_run_id}/resume", json={})["status"])

    def retry(self, flow_run_id: str) -> str:
        """
        What a person does with the button *Retry* of a run that has ended, again if the server was too busy to take it.
        """

        def press() -> str | None:
            status = self.set_state(flow_run_id, "SCHEDULED", "AwaitingRetry", message="Retry from the UI")
            return None if status == "ABORT" else status

        return self.wait_for(press, "the retry to be taken", 90)

    # --- what a person may look at

    def logs(self, flow_run_id: str) -> list[str]:
        """
        The messages that a flow run and its tasks have logged.
        """
        wanted = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return [entry["message"] for entry in self.request("POST", "/logs/filter", json=wanted)]

    def artifacts(self, flow_run_id: str) -> list[dict[str, Any]]:
        """
        The artifacts of a flow run.
        """
        wanted = {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}}
        found: list[dict[str, Any]] = self.request("POST", "/artifacts/filter", json=wanted)
        return found

    def labels(self, flow_run_id: str) -> dict[str, Any]:
        """
        The labels of a flow run.
        """
        return dict(self.flow_run(flow_run_id).get("labels") or {})

    def inputs(self, flow_run_id: str, prefix: str = "") -> dict[str, str]:
        """
        The inputs that are kept with a flow run, by key.
        """
        wanted = {"prefix": prefix, "limit": 200}
        found = self.request("POST", f"/flow_runs/{flow_run_id}/input/filter", json=wanted)
        return {entry["key"]: entry["value"] for entry in found}

    def automations(self) -> list[dict[str, Any]]:
        """
        All automations of the server.
        """
        found: list[dict[str, Any]] = self.request("POST", "/automations/filter", json={})
        return found

    # --- waiting

    def wait_for_state(self, flow_run_id: str, names: Collection[str], timeout: float = 180) -> str:
        """
        Wait until the run is in one of these states; it must not end in another.
        """

        def look() -> str | None:
            state = self.flow_run(flow_run_id)["state"]
            if state["name"] in names:
                return str(state["name"])
            if state["type"] in FINAL:
                raise ServiceTimeoutError(f"The flow run has ended as {state['name']}.\n{self.describe(flow_run_id)}")
            return None

        return self.wait_for(look, f"one of {sorted(names)}", timeout, lambda: self.describe(flow_run_id))

    def wait_for_end(self, flow_run_id: str, timeout: float = 180) -> str:
        """
        Wait until the run has ended.

        Returns:
            Name of its last state.
        """

        def look() -> str | None:
            state = self.flow_run(flow_run_id)["state"]
            return str(state["name"]) if state["type"] in FINAL else None

        return self.wait_for(look, "the end of the flow run", timeout, lambda: self.describe(flow_run_id))

    def wait_for_log(self, flow_run_id: str, text: str, timeout: float = 180, count: int = 1) -> str:
        """
        Wait until a flow run has logged a text so many times.

        Returns:
            The last of so many messages.
        """

        def look() -> str | None:
            said = [line for line in self.logs(flow_run_id) if text in line]
            return said[count - 1] if len(said) >= count else None

        return self.wait_for(look, f"{count} x {text!r} in the log", timeout, lambda: self.describe(flow_run_id))

    def describe(self, flow_run_id: str) -> str:
        """
        States and log of a flow run, for the message of a failed test.
        """
        return "\n".join([" -> ".join(self.states(flow_run_id)), *self.logs(flow_run_id)[-30:]])
