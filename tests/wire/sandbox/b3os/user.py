"""
A user of B3OS.
"""

import re
from typing import Any

import httpx

from tests.wire.sandbox.users import UNUSED_TLS, Sandbox
from tl_orchestration.sandbox import SandboxServer

SOURCE = {"sourceEntityType": "customer", "sourceSystem": "tests"}
CUSTOMER = {"firstName": "Ada", "lastName": "Quux"}
RUN_ID = re.compile(r"run_\w+")


class B3os:
    """A user of B3OS, with a key unless told otherwise; the `Sandbox` beside it moves clock and variants."""

    def __init__(self, server: SandboxServer, key: str | None = "b3sk_sandbox") -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.server = server
        self.control = Sandbox(server, None)
        self.http = httpx.Client(base_url=server.url, headers=headers, trust_env=False, verify=UNUSED_TLS, timeout=30)

    def post_start(self, workflow: str = "kyc-approve", **fields: Any) -> httpx.Response:
        return self.http.post("/v1/executions", json={"workflowId": workflow, **SOURCE, **fields})

    def post_public_start(self, workflow: str = "kyc-approve", **fields: Any) -> httpx.Response:
        path = f"/v1/public/workflows/{workflow}/executions"
        return self.control.http.post(path, json={**SOURCE, **fields})

    def start(self, workflow: str = "kyc-approve", **fields: Any) -> dict[str, Any]:
        return dict(data(self.post_start(workflow, **fields)))

    def get(self, started: dict[str, Any]) -> httpx.Response:
        return self.http.get(f"/v1/executions/{started['execution']['id']}")

    def get_publicly(self, started: dict[str, Any], token: str | None = None) -> httpx.Response:
        params = {"token": started["clientToken"] if token is None else token}
        path = f"/v1/public/executions/{started['execution']['id']}"
        return self.control.http.get(path, params=params)

    def execution(self, started: dict[str, Any]) -> dict[str, Any]:
        return dict(data(self.get(started))["execution"])

    def post_run(self, workflow: str = "kyc-approve", **body: Any) -> httpx.Response:
        return self.http.post(f"/v1/workflows/{workflow}/run", json=body)

    def get_run(self, run_id: str, **params: str) -> httpx.Response:
        return self.http.get(f"/v1/runs/{run_id}", params=params)

    def get_run_publicly(self, run_id: str) -> httpx.Response:
        return self.control.http.get(f"/v1/public/runs/{run_id}")

    def cancel(self, run_id: str) -> httpx.Response:
        return self.http.post(f"/v1/runs/{run_id}/cancel")

    def retry(self, run_id: str) -> httpx.Response:
        return self.http.post(f"/v1/runs/{run_id}/retry")

    def resume(self, run_id: str, given: str = "sandbox-resume", **body: Any) -> httpx.Response:
        path = f"/v1/runs/{run_id}/nodes/check/resume"
        return self.control.http.post(path, params={"secret": given}, json=body)

    def vary(self, **readings: Any) -> None:
        answer = self.control.control("PATCH", "/variants", readings)
        assert answer.status_code == 200, answer.text

    @property
    def starts(self) -> list[dict[str, Any]]:
        return list(self.control.control("GET", "/starts").json())

    def close(self) -> None:
        self.http.close()
        self.control.http.close()


def data(answer: httpx.Response) -> Any:
    """The data of a success in the default envelope."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"code", "data", "message", "requestId"}
    assert body["code"] == 200
    assert body["message"] == "success"
    assert re.fullmatch(r"req_\d{8}", body["requestId"])
    return body["data"]


def assert_refused(answer: httpx.Response, status: int, code: int | None = None) -> str:
    """The answer is an error in the default envelope. Returns its message."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"code", "message", "details", "requestId"}
    assert body["code"] == (status if code is None else code)
    assert body["details"] == []
    return str(body["message"])
