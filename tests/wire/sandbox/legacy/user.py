"""
A user of the legacy API.
"""

from typing import Any

import httpx

from tests.wire.sandbox.users import Sandbox
from tl_orchestration.sandbox import SandboxServer
from tl_orchestration.sandbox.settings import SANDBOX_JWT

KEY = {"key": "sandbox-key", "secret": "sandbox-secret"}
CUSTOMER = {"firstName": "Ada", "lastName": "Quux", "email": "ada@example.com"}
V2 = {"accept": "application/json;version=2"}


class Legacy(Sandbox):
    """A user of the legacy API, authorized unless told otherwise."""

    def __init__(self, server: SandboxServer, credential: str | None = f"Bearer {SANDBOX_JWT}") -> None:
        super().__init__(server, credential)

    def authorize(self, **fields: Any) -> httpx.Response:
        return self.http.post("/auth/authorize", json=KEY | fields, headers={"authorization": ""})

    def refresh(self, token: object) -> httpx.Response:
        return self.http.post("/auth/refresh", json={"refreshToken": token}, headers={"authorization": ""})

    def make_case(self, **fields: Any) -> dict[str, Any]:
        answer = self.http.post("/cases", json=fields)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def keep(self, parameters: Any, definition: str = "kyc-approve") -> httpx.Response:
        return self.http.post("/parameters", json={"workflowDefinitionId": definition, "parameters": parameters})

    def post_run(self, definition: str = "kyc-approve", version: int = 1, **fields: Any) -> httpx.Response:
        body = {"workflowDefinitionId": definition, **fields}
        return self.http.post("/workflows/run", json=body, headers=V2 if version == 2 else {})

    def run(self, definition: str = "kyc-approve", version: int = 1, **fields: Any) -> dict[str, Any]:
        if version == 1 and "caseId" not in fields:
            fields["caseId"] = self.make_case(**CUSTOMER)["caseId"]
        answer = self.post_run(definition, version, **fields)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def vary(self, **readings: Any) -> None:
        answer = self.control("PATCH", "/variants", readings)
        assert answer.status_code == 200, answer.text
