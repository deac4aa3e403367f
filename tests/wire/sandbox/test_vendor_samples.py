"""
The calls of the vendors' public sample clients, as the contract describes them: they differ only in the base URL.

Left out: the older background quickstart, a slip of the page that posts to `/token`; clients known only by the
events of their widget.
"""

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.wire.sandbox.users import NOW, UNUSED_TLS, Sandbox, at
from tl_orchestration.sandbox import SandboxServer, SandboxSettings

BACKGROUND = "b1f0b0a6-2f4e-4a53-9a9c-2f6a1d2b7c01"
INTERACTIVE = "b1f0b0a6-2f4e-4a53-9a9c-2f6a1d2b7c02"
AT_ONCE = "b1f0b0a6-2f4e-4a53-9a9c-2f6a1d2b7c03"
WORKFLOW = "wf_abc123"
DEFINITIONS = {
    BACKGROUND: {"like": "kyc-approve"},
    INTERACTIVE: {"like": "kyc-review"},
    AT_ONCE: {"like": "kyc-approve", "duration": 0},
    WORKFLOW: {"like": "kyc-fail"},
}
KEY = {"key": "sandbox-key", "secret": "sandbox-secret"}
SAMPLE_PARAMETERS = {"boolParam": True, "textParam": "value"}
# What the libraries say by themselves.
REQUESTS = {"accept": "*/*", "accept-encoding": "gzip, deflate", "user-agent": "python-requests/2.32.3"}
AXIOS = {"accept": "application/json, text/plain, */*", "user-agent": "axios/1.7.9"}
FETCH = {"accept": "*/*", "user-agent": "okhttp/4.9.2"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxSettings(clock=lambda: NOW, seed=7, definitions=DEFINITIONS)) as server:
        yield server


@pytest.fixture
def sandbox(server: SandboxServer) -> Iterator[Sandbox]:
    """The hand that moves the clock; the samples do not use it."""
    server.store.reset()
    sandbox = Sandbox(server, None)
    with sandbox.http:
        yield sandbox


@pytest.fixture
def http(server: SandboxServer) -> Iterator[httpx.Client]:
    """A client that adds nothing of its own but what every HTTP client must."""
    with httpx.Client(base_url=server.url, trust_env=False, verify=UNUSED_TLS, timeout=30) as http:
        http.headers.clear()
        yield http


def succeeded(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, answer.text
    return dict(answer.json())


class TestServers:
    """The sample servers and the client that polls through them (X1)."""

    @pytest.mark.parametrize("library", [REQUESTS, AXIOS])
    @pytest.mark.parametrize("definition", [BACKGROUND, INTERACTIVE])
    def test_sample_server(
        self, sandbox: Sandbox, http: httpx.Client, library: dict[str, str], definition: str
    ) -> None:
        """Authorize in version 2, start with a random record and no Accept of one's own, poll until COMPLETED."""
        version_2 = library | JSON | {"accept": "application/json;version=2"}
        authorized = succeeded(http.post("/auth/authorize", json=KEY, headers=version_2))
        assert set(authorized) == {"accessToken", "refreshToken", "expiryDuration", "tokenType"}

        bearer = library | {"authorization": f"Bearer {authorized['accessToken']}"}
        body: dict[str, Any] = {"workflowDefinitionId": definition, "locale": "en", "recordId": str(uuid.uuid4())}
        if library is REQUESTS:
            body["parameters"] = SAMPLE_PARAMETERS
        started = succeeded(http.post("/workflows", json=body, headers=bearer | JSON))
        assert started["parameters"] == body.get("parameters", {})
        assert ("token" in started) == ("link" in started) == (definition == INTERACTIVE)

        def poll() -> str:
            return str(succeeded(http.get(f"/workflows/{started['id']}", headers=bearer))["status"])

        assert poll() != "COMPLETED"
        if definition == INTERACTIVE:
            sandbox.decide(started, "approve")
        sandbox.advance(2)
        assert poll() == "COMPLETED"
        assert succeeded(http.get(f"/workflows/{started['id']}/result", headers=bearer))["decision"] == "approve"

    def test_fields_of_older_samples(self, sandbox: Sandbox, http: httpx.Client) -> None:
        """parametersId and uiMode, sent in August 2025 and removed since, do no harm (X2 d9c1495)."""
        bearer = authorize(http, FETCH)
        for mode in ("hosted", "embedded"):
            body = {"workflowDefinitionId": INTERACTIVE, "locale": "en", "uiMode": mode}
            body["parametersId"] = str(uuid.uuid4())
            assert succeeded(http.post("/workflows", json=body, headers=bearer))["token"]


class TestMobile:
    """The sample apps that call the API themselves (X2)."""

    def test_react_native(self, sandbox: Sandbox, http: httpx.Client) -> None:
        """Authorize without a version, keep the token for expiryDuration * 1000 ms, hand link and token on."""
        authorized = succeeded(http.post("/auth/authorize", json=KEY, headers=FETCH | JSON))
        assert authorized["expiryDuration"] * 1000 == 3_600_000
        bearer = FETCH | JSON | {"authorization": f"{authorized['tokenType']} {authorized['accessToken']}"}
        body: dict[str, Any] = {"workflowDefinitionId": INTERACTIVE, "locale": "en", "parameters": {}}
        started = succeeded(http.post("/workflows", json=body, headers=bearer))
        assert started["link"].endswith(f"?token={started['token']}")

    def test_kotlin_model(self, sandbox: Sandbox, http: httpx.Client) -> None:
        """The fourteen fields of the app's model are there, and but for origin no others."""
        body: dict[str, Any] = {"workflowDefinitionId": INTERACTIVE, "locale": "en", "parameters": {}}
        started = succeeded(http.post("/workflows", json=body, headers=authorize(http, FETCH)))
        model = "id workspaceId workflowDefinitionId parameters name revision status locale expiresAt uiOptions"
        assert set(started) - {"origin"} == set(f"{model} token link executionType executionVersion".split())


class TestPages:
    """Requests shown in the documentation."""

    @pytest.mark.parametrize("expires_at", [None, at(hours=1)])
    def test_reference(self, sandbox: Sandbox, http: httpx.Client, expires_at: str | None) -> None:
        """The reference's request, with an organization token as it is (S0, T2)."""
        headers = {"authorization": "tot_sandbox", "content-type": "application/json;charset=UTF-8", "accept": "*/*"}
        start: dict[str, Any] = {"workflowDefinitionId": BACKGROUND, "locale": "uk", "expiresAt": expires_at}
        start["parameters"] = {}
        started = succeeded(http.post("/workflows", json=start, headers=headers))
        assert (started["status"], started["executionType"]) == ("RUNNING", "BACKGROUND")
        path = f"/workflows/{started['id']}"
        assert succeeded(http.get(path, headers=headers))["id"] == started["id"]
        assert http.post(f"{path}/cancel", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        ("definition", "wanted"),
        [(INTERACTIVE, "link"), (INTERACTIVE, "token"), (BACKGROUND, "id")],
        ids=["hosted-page", "inside-your-application", "background-process"],
    )
    def test_quickstart(self, sandbox: Sandbox, http: httpx.Client, definition: str, wanted: str) -> None:
        """The quickstarts start with a JWT and a random record, and use one member of the answer (T10)."""
        body = {"workflowDefinitionId": definition, "locale": "en", "parameters": {}, "recordId": str(uuid.uuid4())}
        assert succeeded(http.post("/workflows", json=body, headers=authorize(http, AXIOS)))[wanted]

    def test_legacy_pages(self, sandbox: Sandbox, http: httpx.Client) -> None:
        """A case with numbers for texts, a parameters set of mixed kinds, a run that is over at once (T11, S3, T13)."""
        bearer = authorize(http, {"accept": "application/json"})
        phone = {"countryCode": 371, "number": 20000000}
        case = succeeded(http.post("/cases", json={"personalNumber": 12345, "phone": phone}, headers=bearer))
        mixed = {"workflowDefinitionId": AT_ONCE, "parameters": {"a": 1, "b": 1.5, "c": True, "d": "text"}}
        made = succeeded(http.post("/parameters", json=mixed, headers=bearer))
        body = {"caseId": case["caseId"], "workflowDefinitionId": AT_ONCE, "parametersId": made["parametersId"]}
        run = succeeded(http.post("/workflows/run", json=body, headers=bearer))
        assert run == {"id": run["id"], "caseId": case["caseId"], "status": "COMPLETED"}
        assert succeeded(http.get(f"/workflows/{run['id']}", headers=bearer)) == run
        assert succeeded(http.get(f"/workflows/{run['id']}/result", headers=bearer))["partyId"] == case["partyId"]

    def test_legacy_pages_in_version_2(self, sandbox: Sandbox, http: httpx.Client) -> None:
        """The same in version 2, as the migration guide has it: a record, or none (T7, T13)."""
        bearer = authorize(http, {"accept": "application/json;version=2"})
        body = {"workflowDefinitionId": AT_ONCE, "recordId": str(uuid.uuid4())}
        run = succeeded(http.post("/workflows/run", json=body, headers=bearer))
        assert run == {"id": run["id"], "recordId": body["recordId"], "status": "COMPLETED"}
        result = succeeded(http.get(f"/workflows/{run['id']}/result", headers=bearer))
        assert "partyDetails" not in result


class TestB3os:
    """The vendor's own API client (BM), and the reference's requests."""

    def test_own_client(self, sandbox: Sandbox, http: httpx.Client) -> None:
        """It sends a key and nothing else, takes .data of every answer, and finds runId in that of a retry."""

        def call(method: str, path: str, body: Any = None) -> dict[str, Any]:
            headers = JSON | {"authorization": "Bearer b3sk_sandbox"}
            answer = http.request(method, path, json=body, headers=headers)
            assert answer.is_success, answer.text
            return dict(answer.json()["data"])

        run_id = f"run_{uuid.uuid4().hex}"
        body = {"payload": {"a": 1}, "runId": run_id}
        assert call("POST", f"/v1/workflows/{WORKFLOW}/run", body)["runId"] == run_id
        assert call("GET", f"/v1/runs/{run_id}?summary=true")["status"] == "running"
        assert call("POST", f"/v1/runs/{run_id}/cancel")["status"] == "cancelled"
        again = call("POST", f"/v1/runs/{run_id}/retry")["runId"]
        sandbox.advance(1)
        assert call("GET", f"/v1/runs/{again}")["status"] == "failure"

    def test_reference(self, sandbox: Sandbox, http: httpx.Client) -> None:
        """An execution as its required members describe it, with a key and without, and polled both ways (S4, B3)."""
        key = {"authorization": "Bearer b3sk_sandbox"}
        body = {"sourceEntityType": "user", "sourceSystem": "app"}
        for path, headers, more in (
            (f"/v1/public/workflows/{WORKFLOW}/executions", {}, {}),
            (f"/v1/public/workflows/{WORKFLOW}/executions", key, {}),
            ("/v1/executions", key, {"workflowId": WORKFLOW}),
        ):
            started = succeeded(http.post(path, json=body | more, headers=headers))["data"]
            place = started["execution"]["id"]
            public = http.get(f"/v1/public/executions/{place}?token={started['clientToken']}")
            private = http.get(f"/v1/executions/{place}", headers=key)
            assert succeeded(public)["data"]["status"] == succeeded(private)["data"]["execution"]["status"]


def authorize(http: httpx.Client, library: dict[str, str]) -> dict[str, str]:
    """The headers of a client that has authorized."""
    token = succeeded(http.post("/auth/authorize", json=KEY, headers=library | JSON))["accessToken"]
    return library | JSON | {"authorization": f"Bearer {token}"}
