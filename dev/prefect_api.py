"""
Calls of the REST interface of a Prefect server, and waiting for what they bring about.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

T = TypeVar("T")

POLL = 0.2
"""
Seconds between two looks at something that is awaited.
"""

FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
"""
Types of states that nothing follows by itself.
"""


class PrefectError(RuntimeError):
    """
    Prefect did not do what was asked.

    Args:
        status: HTTP status of the answer, if there was one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PrefectTimeoutError(PrefectError, TimeoutError):
    """
    Something awaited did not come about in time.
    """


class PrefectApi:
    """
    Access to one Prefect server without a login.

    Args:
        api_url: With ``/api`` at its end.
    """

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url
        self._http = httpx.Client(base_url=api_url, timeout=20, trust_env=False)

    def close(self) -> None:
        """
        Close the connections.
        """
        self._http.close()

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """
        One call, again while the server says 503: a busy SQLite locks it out for moments.

        Returns:
            The decoded answer.
        """
        for wait in (0.5, 1, 2, 4, 0):
            try:
                answer = self._http.request(method, path, **arguments)
            except (httpx.HTTPError, RuntimeError) as error:  # httpx says RuntimeError if the client was closed
                raise PrefectError(f"{method} {path}: {error!r}") from error
            if answer.status_code != 503:
                break
            time.sleep(wait)
        if answer.is_error:
            raise PrefectError(f"{method} {path}: {answer.status_code} {answer.text[:2000]}", answer.status_code)
        return answer.json() if answer.content else None

    def healthy(self) -> bool:
        """
        Whether the server answers.
        """
        try:
            return bool(self.request("GET", "/health"))
        except PrefectError:
            return False

    # --- runs of flows

    def deployment(self, name: str) -> dict[str, Any]:
        """
        A deployment by ``flow-name/deployment-name``.
        """
        found: dict[str, Any] = self.request("GET", f"/deployments/name/{name}")
        return found

    def run(self, deployment: str, parameters: Mapping[str, Any] | None = None) -> str:
        """
        Create a flow run for now.

        Args:
            deployment: ``flow-name/deployment-name``.

        Returns:
            Its id.
        """
        body = {"parameters": dict(parameters or {}), "state": {"type": "SCHEDULED", "name": "Scheduled"}}
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

        return self.wait_for(press, "the cancel to be taken", 20)

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

        return self.wait_for(press, "the retry to be taken", 20)

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

    def wait_for(self, look: Callable[[], T | None], what: str, timeout: float, explain: Callable[[], str] = str) -> T:
        """
        Look until there is something to see. A server that does not answer, or cannot, is no reason to give up.

        Args:
            what: Named in the error.
            timeout: Seconds.
            explain: What to add to the error.
        """
        deadline = time.monotonic() + timeout
        while True:
            seen, trouble = self._look(look)
            if seen is not None:
                return seen
            self.check()
            if time.monotonic() >= deadline:
                said = f"Waited {timeout:g} s in vain for {what}."
                raise PrefectTimeoutError("\n".join(filter(None, [said, trouble or explain(), self.complaints()])))
            time.sleep(POLL)

    def wait_for_state(self, flow_run_id: str, names: Collection[str], timeout: float = 60) -> str:
        """
        Wait until the run is in one of these states; it must not end in another.
        """

        def look() -> str | None:
            state = self.flow_run(flow_run_id)["state"]
            if state["name"] in names:
                return str(state["name"])
            if state["type"] in FINAL:
                raise PrefectTimeoutError(f"The flow run has ended as {state['name']}.\n{self.describe(flow_run_id)}")
            return None

        return self.wait_for(look, f"one of {sorted(names)}", timeout, lambda: self.describe(flow_run_id))

    def wait_for_end(self, flow_run_id: str, timeout: float = 90) -> str:
        """
        Wait until the run has ended.

        Returns:
            Name of its last state.
        """

        def look() -> str | None:
            state = self.flow_run(flow_run_id)["state"]
            return str(state["name"]) if state["type"] in FINAL else None

        return self.wait_for(look, "the end of the flow run", timeout, lambda: self.describe(flow_run_id))

    def wait_for_log(self, flow_run_id: str, text: str, timeout: float = 60, count: int = 1) -> str:
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

    def check(self) -> None:
        """
        Raise if waiting has become pointless.
        """

    def complaints(self) -> str:
        """
        What Prefect has to say about itself.
        """
        return ""

    @staticmethod
    def _look(look: Callable[[], T | None]) -> tuple[T | None, str]:
        try:
            return look(), ""
        except PrefectTimeoutError:
            raise
        except PrefectError as error:
            if error.status is not None and error.status < 500:
                raise
            return None, str(error)
