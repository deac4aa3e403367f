"""B3OS in the sandbox: execution sessions, runs, and the variants of what is undocumented there."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.wire.test_sandbox import NOBODY, NOW, UNUSED_TLS, Sandbox
from tl_orchestration.sandbox import SandboxServer, SandboxSettings

DATE = "2026-09-21T14:13:20.250000Z"
SOURCE = {"sourceEntityType": "customer", "sourceSystem": "tests"}
CUSTOMER = {"firstName": "Ada", "lastName": "Quux"}
RUN_ID = re.compile(r"run_\w+")


class B3os:
    """A user of B3OS, with a key unless told otherwise; the `Sandbox` beside it moves clock and variants."""

    def __init__(self, server: SandboxServer, key: str | None = "b3sk_sandbox") -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.server = server
        self.control = Sandbox(server, None)
        self.http = httpx.Client(base_url=server.url, headers=headers, trust_env=False, verify=UNUSED_TLS, timeout=5)

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


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxSettings(clock=lambda: NOW, seed=7)) as server:
        yield server


@pytest.fixture
def b3os(server: SandboxServer) -> Iterator[B3os]:
    server.store.reset()
    b3os = B3os(server)
    yield b3os
    b3os.close()


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


class TestStart:
    def test_answer(self, b3os: B3os) -> None:
        """A start answers a client token and the execution, with what was asked and no result."""
        asked: dict[str, Any] = {
            "externalRef": "ref-1",
            "idempotencyKey": "key-1",
            "sourceEntityId": "c-1",
            "clientSafeMetadata": {"step": 1},
            "requestPayload": CUSTOMER,
        }
        started = b3os.start(**asked, other=1)
        assert set(started) == {"clientToken", "execution"}
        execution = started["execution"]
        assert execution.pop("id")
        assert RUN_ID.fullmatch(execution.pop("runId"))
        assert execution == {
            "workflowId": "kyc-approve",
            "organizationId": "org_sandbox",
            "status": "workflow_running",
            "createdAt": DATE,
            "startedAt": DATE,
            "updatedAt": DATE,
            **SOURCE,
            **asked,
        }

    def test_without_a_key(self, b3os: B3os) -> None:
        """A public workflow starts without a key, and answers as with one."""
        started = data(b3os.post_public_start(requestPayload=CUSTOMER))
        assert started["execution"]["requestPayload"] == CUSTOMER
        assert b3os.execution(started)["status"] == "workflow_running"

    @pytest.mark.parametrize("visibility", ["private", "org", "public_view", "public_execute"])
    def test_visibility(self, b3os: B3os, visibility: str) -> None:
        """Without a key only public_execute starts, and only public runs are seen; with one everything."""
        b3os.control.change("kyc-approve", visibility=visibility)
        answer = b3os.post_public_start()
        assert answer.status_code == (200 if visibility == "public_execute" else 403)
        started = b3os.start()
        assert b3os.get_publicly(started).status_code == 200
        seen = b3os.get_run_publicly(started["execution"]["runId"]).status_code
        assert seen == (200 if visibility.startswith("public") else 404)

    def test_private_definition(self, b3os: B3os) -> None:
        """kyc-private is there to be refused without a key."""
        assert_refused(b3os.post_public_start("kyc-private"), 403)
        assert b3os.start("kyc-private")

    def test_unknown_workflow(self, b3os: B3os) -> None:
        """An unknown workflow is 404 and starts nothing."""
        for answer in (b3os.post_start("kyc-none"), b3os.post_public_start("kyc-none"), b3os.post_run("kyc-none")):
            assert "kyc-none" in assert_refused(answer, 404)
        assert b3os.starts == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("sourceEntityType", None),
            ("sourceEntityType", ""),
            ("sourceSystem", None),
            ("sourceSystem", 1),
            ("externalRef", 1),
            ("idempotencyKey", ["k"]),
            ("sourceEntityId", {}),
            ("clientSafeMetadata", "x"),
            ("requestPayload", []),
        ],
    )
    def test_fields_are_checked(self, b3os: B3os, name: str, value: Any) -> None:
        """A missing required member or a wrong type is 400 and named, with and without a key."""
        for answer in (b3os.post_start(**{name: value}), b3os.post_public_start(**{name: value})):
            assert name in assert_refused(answer, 400)
        assert b3os.starts == []

    def test_body_is_checked(self, b3os: B3os) -> None:
        """A body that is no object or names no workflow is 400."""
        assert_refused(b3os.http.post("/v1/executions", content=b"{"), 400)
        for workflow in (None, "", 7):
            assert "workflowId" in assert_refused(b3os.post_start(workflowId=workflow), 400)

    def test_evidence(self, b3os: B3os) -> None:
        """Every start of B3OS is on record with its service, run, key and source; no token is."""
        started = b3os.start(requestPayload=CUSTOMER, idempotencyKey="k", externalRef="r", sourceEntityId="c")
        b3os.post_public_start()
        b3os.post_run(runId="run_mine", payload={"n": 1})
        first, second, third = b3os.starts
        assert [one["service"] for one in (first, second, third)] == ["b3os"] * 3
        assert first["execution_id"] == started["execution"]["id"]
        assert first["parameters"] == CUSTOMER
        assert first["details"] == {
            "run_id": started["execution"]["runId"],
            "public": False,
            **SOURCE,
            "externalRef": "r",
            "idempotencyKey": "k",
            "sourceEntityId": "c",
        }
        assert second["details"]["public"] is True
        assert third["execution_id"] == "run_mine"
        assert third["details"] == {"run_id": "run_mine", "source_run_id": None}
        assert started["clientToken"] not in str(b3os.starts)
        session = repr(b3os.server.store.b3os.session(started["execution"]["id"]))
        assert started["execution"]["id"] in session
        assert started["clientToken"] not in session
        assert "externalRef" not in session

    def test_deterministic(self) -> None:
        """Under one seed and clock the same calls give the same bytes."""

        def talk() -> list[bytes]:
            with SandboxServer(SandboxSettings(clock=lambda: NOW, seed=3)) as server:
                b3os = B3os(server)
                answers = [b3os.post_start(), b3os.post_run(), b3os.post_start("none")]
                b3os.close()
                return [answer.content for answer in answers]

        assert talk() == talk()


class TestAuthorization:
    @pytest.mark.parametrize("header", ["", "b3sk_sandbox", "Bearer b3sk_other", "Bearer tot_sandbox"])
    def test_missing_or_wrong_key(self, b3os: B3os, header: str) -> None:
        """Anything but a known key as Bearer is 401, before all other checks."""
        b3os.http.headers["authorization"] = header
        answers = [b3os.http.post("/v1/executions", content=b"{"), b3os.get({"execution": {"id": "x"}})]
        answers += [b3os.post_run("none"), b3os.get_run("none"), b3os.cancel("none"), b3os.retry("none")]
        for answer in answers:
            assert_refused(answer, 401)

    def test_read_only_key(self, b3os: B3os) -> None:
        """A key of scope read can look at everything and change nothing."""
        started = b3os.start()
        run_id = started["execution"]["runId"]
        b3os.http.headers["authorization"] = "Bearer b3sk_sandbox_read"
        for answer in (b3os.post_start(), b3os.post_run(), b3os.cancel(run_id), b3os.retry(run_id)):
            assert_refused(answer, 403)
        assert b3os.get(started).status_code == b3os.get_run(run_id).status_code == 200
        assert len(b3os.starts) == 1

    def test_keys_are_a_setting(self) -> None:
        """Given keys replace the default ones."""
        with SandboxServer(SandboxSettings(api_keys=[{"value": "b3sk_mine"}])) as server:
            b3os = B3os(server, "b3sk_mine")
            assert b3os.start()
            b3os.http.headers["authorization"] = "Bearer b3sk_sandbox"
            assert_refused(b3os.post_start(), 401)
            b3os.close()

    @pytest.mark.parametrize(
        ("reading", "organization", "status"),
        [
            ("optional", None, 200),
            ("optional", "org_sandbox", 200),
            ("optional", "org_other", 403),
            ("required", None, 403),
            ("required", "org_sandbox", 200),
        ],
    )
    def test_organization(self, b3os: B3os, reading: str, organization: str | None, status: int) -> None:
        """X-Org-ID may be needed; a wrong one is refused; without a key nobody asks for it."""
        b3os.vary(organization_header=reading)
        assert b3os.post_public_start().status_code == 200
        if organization is not None:
            b3os.http.headers["x-org-id"] = organization
        assert b3os.post_start().status_code == status

    def test_client_token(self, b3os: B3os) -> None:
        """The public answer needs the execution's own client token; one with a key has a token too."""
        first, second = b3os.start(), data(b3os.post_public_start())
        for started in (first, second):
            assert b3os.get_publicly(started).status_code == 200
        for token in ("", "é", second["clientToken"], "b3sk_sandbox"):
            assert_refused(b3os.get_publicly(first, token), 401)

    def test_services_do_not_mix(self, b3os: B3os) -> None:
        """No service finds the executions of another, and no key opens another's door."""
        started = b3os.start()
        current = Sandbox(b3os.server)
        with current.http:
            other = current.start()
            assert current.get({"id": started["execution"]["id"]}).status_code == 404
            assert current.cancel({"id": started["execution"]["id"]}).status_code == 404
        assert_refused(b3os.get({"execution": other}), 404)
        assert_refused(b3os.get_run(other["id"]), 404)


class TestStatuses:
    @pytest.mark.parametrize(
        ("workflow", "status", "run_status", "has_result"),
        [
            ("kyc-approve", "workflow_succeeded", "success", True),
            ("kyc-reject", "workflow_succeeded", "success", True),
            ("kyc-partial", "workflow_partial", "partial", True),
            ("kyc-fail", "workflow_failed", "failure", False),
            ("kyc-expire", "workflow_failed", "failure", False),
        ],
    )
    def test_outcomes(self, b3os: B3os, workflow: str, status: str, run_status: str, has_result: bool) -> None:
        """Each scripted workflow ends in its status, as execution and as run; the result is in responsePayload."""
        started = b3os.start(workflow)
        run_id = started["execution"]["runId"]
        assert started["execution"]["status"] == "workflow_running"
        assert data(b3os.get_run(run_id))["status"] == "running"
        b3os.control.advance(3)
        execution = b3os.execution(started)
        assert execution["status"] == status
        assert ("responsePayload" in execution) == has_result
        assert ("statusReason" in execution) == (status != "workflow_succeeded")
        assert execution["finishedAt"] == execution["updatedAt"] > DATE
        run = data(b3os.get_run(run_id))
        assert (run["status"], run["finishedAt"]) == (run_status, execution["finishedAt"])
        if has_result:
            assert run["executionState"]["check"]["result"] == execution["responsePayload"]

    def test_private_answer(self, b3os: B3os) -> None:
        """The answer to a key has execution, events and message."""
        started = b3os.start(requestPayload=CUSTOMER)
        first = data(b3os.get(started))
        assert set(first) == {"execution", "events", "message"}
        assert first["execution"] == started["execution"]
        assert [event["eventType"] for event in first["events"]] == ["sandbox.created"]
        b3os.control.advance(1)
        second = data(b3os.get(started))
        assert second["execution"]["responsePayload"]["customer"] == CUSTOMER
        assert [event["eventType"] for event in second["events"]] == ["sandbox.created", "sandbox.over"]
        assert second["events"][0].items() >= first["events"][0].items()
        assert {"executionId", "workflowId"} <= set(second["events"][1])

    @pytest.mark.parametrize(("workflow", "level"), [("kyc-approve", "info"), ("kyc-fail", "error")])
    def test_events(self, b3os: B3os, workflow: str, level: str) -> None:
        """The event of an end has its time, its level, and an id of its own."""
        started = b3os.start(workflow)
        b3os.control.advance(1)
        created, over = data(b3os.get(started))["events"]
        assert (created["level"], over["level"]) == ("info", level)
        assert (created["createdAt"], over["createdAt"]) == (DATE, "2026-09-21T14:13:21.250000Z")
        assert [created["id"], over["id"]] == [f"{started['execution']['id']}-{number}" for number in (1, 2)]

    def test_public_answer(self, b3os: B3os) -> None:
        """The answer to a client token is flat, and has neither result nor reason nor request."""
        started = b3os.start("kyc-partial", clientSafeMetadata={"a": 1}, externalRef="r", requestPayload=CUSTOMER)
        b3os.control.advance(1)
        answer = data(b3os.get_publicly(started))
        events = answer.pop("events")
        assert answer == {
            "id": started["execution"]["id"],
            "workflowId": "kyc-partial",
            "runId": started["execution"]["runId"],
            "status": "workflow_partial",
            "message": "Some items failed",
            "clientSafeMetadata": {"a": 1},
            "createdAt": DATE,
            "startedAt": DATE,
            "finishedAt": "2026-09-21T14:13:21.250000Z",
        }
        assert len(events) == 2
        assert not {"executionId", "workflowId"} & set(events[0])

    def test_no_run_at_first(self, b3os: B3os) -> None:
        """Awaiting payment, paid and queued, an execution has no run; the work is counted from its end."""
        phases = {"workflow_queued": 3, "awaiting_payment": 10, "payment_confirmed": 2}
        b3os.control.change("kyc-approve", before_run=phases)
        started = b3os.start()
        run_id = b3os.starts[0]["details"]["run_id"]
        for seconds, status in (
            (0, "awaiting_payment"),
            (9.9, "awaiting_payment"),
            (0.1, "payment_confirmed"),
            (2, "workflow_queued"),
            (2.9, "workflow_queued"),
        ):
            b3os.control.advance(seconds)
            for execution in (b3os.execution(started), data(b3os.get_publicly(started))):
                assert execution["status"] == status
                assert not {"runId", "startedAt", "finishedAt"} & set(execution)
            assert_refused(b3os.get_run(run_id), 404)
            assert_refused(b3os.cancel(run_id), 404)
        b3os.control.advance(0.1)
        execution = b3os.execution(started)
        assert (execution["status"], execution["runId"]) == ("workflow_running", run_id)
        assert execution["startedAt"] == "2026-09-21T14:13:35.250000Z"
        b3os.control.advance(1)
        assert b3os.execution(started)["status"] == "workflow_succeeded"

    def test_never_paid(self, b3os: B3os) -> None:
        """A phase may last for ever, until it is forced on; a run by itself has no such phases."""
        b3os.control.change("kyc-approve", before_run={"awaiting_payment": None})
        started = b3os.start()
        b3os.control.advance(10**8)
        assert b3os.execution(started)["status"] == "awaiting_payment"
        force = f"/executions/{started['execution']['id']}"
        b3os.control.control("POST", force, {"status": "workflow_running"})
        assert "runId" in b3os.execution(started)
        assert data(b3os.get_run(data(b3os.post_run())["runId"]))["status"] == "running"

    @pytest.mark.parametrize(
        ("word", "run_word"),
        [
            ("workflow_waiting", "waiting"),
            ("workflow_succeeded", "success"),
            ("workflow_partial", "partial"),
            ("workflow_failed", "failure"),
            ("workflow_cancelled", "cancelled"),
            ("workflow_pondering", "pondering"),
        ],
    )
    def test_forced(self, b3os: B3os, word: str, run_word: str) -> None:
        """Force takes B3OS's own words, and any other."""
        started = b3os.start("kyc-slow")
        b3os.control.control("POST", f"/executions/{started['execution']['id']}", {"status": word})
        assert b3os.execution(started)["status"] == word
        assert data(b3os.get_run(started["execution"]["runId"]))["status"] == run_word
        over = run_word not in {"waiting", "pondering"}
        assert ("finishedAt" in b3os.execution(started)) == over
        assert b3os.cancel(started["execution"]["runId"]).status_code == (409 if over else 200)

    @pytest.mark.parametrize("word", ["succeeded", "failed"])
    def test_word_for_partly_good(self, b3os: B3os, word: str) -> None:
        """Older vocabularies have no partial."""
        b3os.vary(partial_word=word)
        started = b3os.start("kyc-partial")
        b3os.control.advance(1)
        assert b3os.execution(started)["status"] == f"workflow_{word}"
        run = data(b3os.get_run(started["execution"]["runId"]))
        assert run["status"] == {"succeeded": "success", "failed": "failure"}[word]

    def test_unknown_execution(self, b3os: B3os) -> None:
        """An unknown execution is 404 or, by variant, 400, with a key and without."""
        nobody = {"execution": {"id": NOBODY}, "clientToken": "x"}
        run = data(b3os.post_run())["runId"]
        for status in (404, 400):
            b3os.vary(unknown_execution=status)
            for answer in (b3os.get(nobody), b3os.get_publicly(nobody), b3os.get({"execution": {"id": run}})):
                assert_refused(answer, status)

    def test_public_variants(self, b3os: B3os) -> None:
        """The public answer may be nested, may have the result, and may call a run's id id."""
        started = b3os.start()
        b3os.control.advance(1)
        flat = data(b3os.get_publicly(started))
        b3os.vary(public_execution_shape="nested", public_response_payload=True, public_run_id="id")
        nested = data(b3os.get_publicly(started))
        assert set(nested) == {"execution", "events", "message"}
        assert nested["execution"].pop("responsePayload")["decision"] == "approve"
        assert nested["execution"] | {"events": nested["events"], "message": nested["message"]} == flat
        run = data(b3os.get_run_publicly(started["execution"]["runId"]))
        assert run["id"] == started["execution"]["runId"]
        assert "runId" not in run

    def test_timestamps(self, b3os: B3os) -> None:
        """Times may have an offset."""
        b3os.vary(timestamps="+02:00")
        assert b3os.start()["execution"]["createdAt"] == "2026-09-21T16:13:20.250000+02:00"


class TestIdempotency:
    @pytest.mark.parametrize(("reading", "commits"), [("same", 1), ("second", 2), ("conflict", 1)])
    @pytest.mark.parametrize("public", [False, True])
    def test_second_start(self, b3os: B3os, reading: str, commits: int, public: bool) -> None:
        """A key for the second time gives the same execution, a second one or 409: unknown."""
        b3os.vary(idempotency=reading)
        post = b3os.post_public_start if public else b3os.post_start
        first = data(post(idempotencyKey="k", requestPayload={"n": 1}))
        answer = post(idempotencyKey="k", requestPayload={"n": 1})
        if reading == "conflict":
            assert "idempotencyKey" in assert_refused(answer, 409)
        else:
            assert (data(answer) == first) == (reading == "same")
        assert len(b3os.starts) == commits

    def test_other_keys_and_workflows(self, b3os: B3os) -> None:
        """Another key, no key, and the same key for another workflow are other executions."""
        keys: list[dict[str, Any]] = [{"idempotencyKey": "a"}, {"idempotencyKey": "b"}, {}, {"idempotencyKey": None}]
        for fields in keys:
            b3os.start(**fields)
        b3os.start("kyc-slow", idempotencyKey="a")
        assert len(b3os.starts) == 5

    def test_after_a_lost_answer(self, b3os: B3os) -> None:
        """What a lost start committed is found again by its key, as it is by then."""
        b3os.control.order({"on": "start", "kind": "lose"})
        with pytest.raises(httpx.RemoteProtocolError):
            b3os.post_start(idempotencyKey="k")
        b3os.control.advance(1)
        found = b3os.start(idempotencyKey="k")
        assert found["execution"]["id"] == b3os.starts[0]["execution_id"]
        assert found["execution"]["status"] == "workflow_succeeded"
        assert "responsePayload" not in found["execution"]
        assert len(b3os.starts) == 1

    def test_first_with_a_key_stands(self, b3os: B3os) -> None:
        """After a second execution with one key, the first is the one that the key finds."""
        first = b3os.start(idempotencyKey="k")
        b3os.vary(idempotency="second")
        b3os.start(idempotencyKey="k")
        b3os.vary(idempotency="same")
        assert b3os.start(idempotencyKey="k") == first


class TestRuns:
    def test_run(self, b3os: B3os) -> None:
        """A run by itself answers its id, and is looked at by it."""
        run_id = data(b3os.post_run(payload=CUSTOMER))["runId"]
        assert RUN_ID.fullmatch(run_id)
        b3os.control.advance(1)
        run = data(b3os.get_run(run_id))
        node = run.pop("executionState")["check"]
        assert run.pop("workflowDefinition")
        finished = "2026-09-21T14:13:21.250000Z"
        summary = {
            "id": run_id,
            "workflowId": "kyc-approve",
            "workflowVersion": 1,
            "organizationId": "org_sandbox",
            "status": "success",
            "startedAt": DATE,
            "finishedAt": finished,
        }
        assert run == summary == data(b3os.get_run(run_id, summary="true"))
        assert node["result"]["customer"] == node["input"] == CUSTOMER
        assert [node[name] for name in ("status", "startedAt", "finishedAt")] == ["success", DATE, finished]

    def test_public_answer(self, b3os: B3os) -> None:
        """The public answer calls the id runId, and has no payloads."""
        run_id = data(b3os.post_run(payload=CUSTOMER))["runId"]
        b3os.control.advance(1)
        answer = b3os.get_run_publicly(run_id)
        run = data(answer)
        assert set(run) == {
            "runId",
            "workflowId",
            "status",
            "startedAt",
            "finishedAt",
            "nodes",
            "executionState",
        }
        assert run["runId"] == run_id
        assert "Ada" not in answer.text
        assert_refused(b3os.get_run_publicly("run_none"), 404)

    def test_body_may_be_absent(self, b3os: B3os) -> None:
        """A run needs no body; either of two modes may be asked for."""
        assert data(b3os.http.post("/v1/workflows/kyc-approve/run"))
        bodies: list[dict[str, Any]] = [{"simulate": True}, {"dustTest": True}, {"simulate": True, "dustTest": False}]
        for body in bodies:
            assert data(b3os.post_run(**body))

    def test_chosen_id(self, b3os: B3os) -> None:
        """A client may choose the id, once for the whole organization; an execution's run counts too."""
        assert data(b3os.post_run(runId="run_mine")) == {"runId": "run_mine"}
        for workflow, run_id in (("kyc-slow", "run_mine"), ("kyc-approve", b3os.start()["execution"]["runId"])):
            assert_refused(b3os.post_run(workflow, runId=run_id), 400, 400079)
        assert len(b3os.starts) == 2

    @pytest.mark.parametrize("run_id", ["", "mine", "run_", "run_a-b", "run_é", "run_a\n", 7])
    def test_wrong_id(self, b3os: B3os, run_id: object) -> None:
        """An id that is not run_ and word characters is 400 with its own code."""
        assert_refused(b3os.post_run(runId=run_id), 400, 400078)
        assert b3os.starts == []

    @pytest.mark.parametrize(
        "body", [{"payload": []}, {"simulate": 1}, {"dustTest": "yes"}, {"simulate": True, "dustTest": True}]
    )
    def test_wrong_body(self, b3os: B3os, body: dict[str, Any]) -> None:
        """Wrong types, and two modes at once, are 400."""
        assert_refused(b3os.post_run(**body), 400)
        assert_refused(b3os.http.post("/v1/workflows/kyc-approve/run", content=b"[]"), 400)
        assert b3os.starts == []

    @pytest.mark.parametrize(
        ("state", "needed", "status"),
        [
            ("draft", False, 200),
            ("paused", False, 200),
            ("archived", False, 400),
            ("active", True, 200),
            ("draft", True, 400),
            ("paused", True, 400),
        ],
    )
    def test_state(self, b3os: B3os, state: str, needed: bool, status: int) -> None:
        """An archived workflow never runs; draft and paused ones do unless, by variant, it must be active."""
        b3os.control.change("kyc-approve", state=state)
        b3os.vary(run_needs_active=needed)
        assert b3os.post_run().status_code == status

    @pytest.mark.parametrize("workflow", ["kyc-slow", "kyc-review"])
    def test_cancel(self, b3os: B3os, workflow: str) -> None:
        """A running or waiting run is cancelled, with its execution; the answer is the run; then it is 409."""
        started = b3os.start(workflow)
        run_id = started["execution"]["runId"]
        b3os.control.advance(1)
        run = data(b3os.cancel(run_id))
        assert (run["id"], run["status"], run["executionState"]["check"]["status"]) == (
            run_id,
            "cancelled",
            "cancelled",
        )
        execution = b3os.execution(started)
        assert execution["status"] == "workflow_cancelled"
        assert execution["finishedAt"] == "2026-09-21T14:13:21.250000Z"
        assert_refused(b3os.cancel(run_id), 409)
        assert [cancel["took_effect"] for cancel in b3os.control.control("GET", "/cancels").json()] == [True, False]

    def test_cancel_of_what_is_over(self, b3os: B3os) -> None:
        """A finished run is 409 and stays as it was; an unknown one 404."""
        run_id = data(b3os.post_run())["runId"]
        b3os.control.advance(1)
        assert_refused(b3os.cancel(run_id), 409)
        assert data(b3os.get_run(run_id))["status"] == "success"
        assert_refused(b3os.cancel("run_none"), 404)

    @pytest.mark.parametrize(
        ("reading", "members"), [("both", {"id", "runId"}), ("run", {"id"}), ("run-id", {"runId"})]
    )
    def test_retry(self, b3os: B3os, reading: str, members: set[str]) -> None:
        """A failed run is repeated as a new one; the answer is a run, {runId}, or both."""
        b3os.vary(retry_answer=reading)
        run_id = data(b3os.post_run("kyc-fail", payload=CUSTOMER))["runId"]
        assert_refused(b3os.retry(run_id), 409)
        b3os.control.advance(1)
        again = data(b3os.retry(run_id))
        assert {"id", "runId"} & set(again) == members
        assert ("status" in again) == (reading != "run-id")
        (new_id,) = {again[name] for name in members}
        new = data(b3os.get_run(new_id))
        assert (new["status"], new["sourceRunId"]) == ("running", run_id)
        assert new["executionState"]["check"]["input"] == CUSTOMER
        assert b3os.starts[1]["details"] == {"run_id": new_id, "source_run_id": run_id}

    def test_retry_of_others(self, b3os: B3os) -> None:
        """A cancelled run is repeated too; a successful one is 409, an unknown one 404."""
        cancelled, finished = data(b3os.post_run("kyc-slow"))["runId"], data(b3os.post_run())["runId"]
        b3os.cancel(cancelled)
        b3os.control.advance(1)
        assert data(b3os.retry(cancelled))
        assert_refused(b3os.retry(finished), 409)
        assert_refused(b3os.retry("run_none"), 404)


class TestResume:
    @pytest.mark.parametrize(
        ("body", "decision"),
        [({}, "approve"), ({"data": {"decision": "reject"}}, "reject"), ({"data": {"other": 1}}, "approve")],
    )
    def test_waits_to_be_resumed(self, b3os: B3os, body: dict[str, Any], decision: str) -> None:
        """An interactive workflow waits; a resume ends it, with the decision it brings; then it is skipped."""
        started = b3os.start("kyc-review")
        run_id = started["execution"]["runId"]
        assert started["execution"]["status"] == "workflow_waiting"
        b3os.control.advance(10**6)
        assert data(b3os.get_run(run_id))["status"] == "waiting"
        answer = b3os.resume(run_id, **body)
        assert answer.status_code == 200
        assert answer.json()["action"] == "resumed"
        assert b3os.execution(started)["responsePayload"]["decision"] == decision
        again = b3os.resume(run_id).json()
        assert again["action"] == "skipped"
        assert again["reason"]

    def test_answer_may_be_wrapped(self, b3os: B3os) -> None:
        """The answer may be in the envelope."""
        run_id = b3os.start("kyc-review")["execution"]["runId"]
        b3os.vary(resume_answer="data")
        assert data(b3os.resume(run_id))["action"] == "resumed"

    def test_mistakes(self, b3os: B3os) -> None:
        """A wrong secret is 401; an unknown run or node 404; a wrong body 400; nothing is resumed."""
        started = b3os.start("kyc-review")
        run_id = started["execution"]["runId"]
        assert_refused(b3os.resume(run_id, given="é"), 401)
        assert_refused(b3os.resume("run_none"), 404)
        other = f"/v1/runs/{run_id}/nodes/other/resume?secret=sandbox-resume"
        assert_refused(b3os.http.post(other), 404)
        assert_refused(b3os.resume(run_id, data=[]), 400)
        assert_refused(b3os.resume(run_id, data={"decision": "maybe"}), 400)
        assert b3os.execution(started)["status"] == "workflow_waiting"

    def test_work_after_it(self, b3os: B3os) -> None:
        """A duration of a waiting workflow counts from its resume."""
        b3os.control.change("kyc-review", duration=5)
        started = b3os.start("kyc-review")
        b3os.resume(started["execution"]["runId"])
        assert b3os.execution(started)["status"] == "workflow_running"
        b3os.control.advance(5)
        assert b3os.execution(started)["status"] == "workflow_succeeded"


class TestEnvelope:
    def test_code_of_success(self, b3os: B3os) -> None:
        """The code of a success may be 0."""
        b3os.vary(success_code=0)
        assert b3os.post_start().json()["code"] == 0

    def test_older_envelope(self, b3os: B3os) -> None:
        """A success may be {success, data}."""
        b3os.vary(envelope="success-data")
        body = b3os.post_run(runId="run_a").json()
        assert body == {"success": True, "data": {"runId": "run_a"}}

    @pytest.mark.parametrize("reading", ["success-error", "text", "html"])
    def test_errors(self, b3os: B3os, reading: str) -> None:
        """An error may be {success, error}, plain text or a page, also from a fault and where no route is."""
        b3os.vary(error_envelope=reading)
        b3os.post_run(runId="run_a")
        b3os.control.order({"on": "start", "kind": "status", "status": 402})
        paid, twice = b3os.post_start(), b3os.post_run(runId="run_a")
        nowhere = b3os.http.get("/v1/<nothing>")
        assert [answer.status_code for answer in (paid, twice, nowhere)] == [402, 400, 404]
        if reading == "success-error":
            assert paid.json() == {"success": False, "error": {"message": "Payment Required", "code": 402}}
            assert twice.json()["error"]["code"] == 400079
            assert nowhere.json()["error"]["code"] == 404
        else:
            kind = {"text": "text/plain", "html": "text/html"}[reading]
            for answer in (paid, twice, nowhere):
                assert answer.headers["content-type"].startswith(kind)
            assert "Payment Required" in paid.text
            assert reading == "text" or "<nothing>" not in nowhere.text

    def test_unknown_place(self, b3os: B3os) -> None:
        """A path or method that is not there is refused in B3OS's form."""
        assert_refused(b3os.http.get("/v1/nothing"), 404)
        assert_refused(b3os.http.delete("/v1/executions"), 405)


class TestFaults:
    def test_too_many_requests(self, b3os: B3os) -> None:
        """429 with Retry-After on order, in B3OS's form, before anything is committed."""
        fault = {"on": "start", "kind": "status", "status": 429, "headers": {"Retry-After": "7"}, "times": 2}
        b3os.control.order(fault)
        for answer in (b3os.post_public_start(), b3os.post_start()):
            assert_refused(answer, 429)
            assert answer.headers["retry-after"] == "7"
        assert b3os.starts == []
        assert data(b3os.post_start())

    @pytest.mark.parametrize(
        ("step", "call"),
        [
            ("start", "post_run"),
            ("status", "get"),
            ("status", "get_publicly"),
            ("status", "get_run"),
            ("status", "get_run_publicly"),
            ("cancel", "cancel"),
            ("retry", "retry"),
            ("resume", "resume"),
        ],
    )
    def test_every_step(self, b3os: B3os, step: str, call: str) -> None:
        """Each step is struck for its service and workflow only."""
        started = b3os.start("kyc-review")
        argument = {"post_run": "kyc-review", "get": started, "get_publicly": started}
        b3os.control.order(
            {"on": step, "kind": "status", "status": 418, "service": "transactionlink"},
            {"on": step, "kind": "status", "status": 503, "definition": "kyc-slow"},
            {"on": step, "kind": "status", "status": 502, "definition": "kyc-review", "service": "b3os"},
        )
        method = getattr(b3os, call)
        assert_refused(method(argument.get(call, started["execution"]["runId"])), 502)
        assert [fault.status for fault in b3os.server.store.faults.pending] == [418, 503]

    def test_of_what_is_not_there(self, b3os: B3os) -> None:
        """Also a request for nothing is struck, where the fault names no workflow."""
        b3os.control.order(*({"on": on, "kind": "status", "status": 502} for on in ("status", "cancel")))
        assert_refused(b3os.get({"execution": {"id": NOBODY}}), 502)
        assert_refused(b3os.cancel("run_none"), 502)

    def test_lost_cancel(self, b3os: B3os) -> None:
        """A lost cancel has cancelled."""
        run_id = data(b3os.post_run("kyc-slow"))["runId"]
        b3os.control.order({"on": "cancel", "kind": "lose", "service": "b3os"})
        with pytest.raises(httpx.RemoteProtocolError):
            b3os.cancel(run_id)
        assert data(b3os.get_run(run_id))["status"] == "cancelled"

    def test_requests_are_counted(self, b3os: B3os) -> None:
        """Requests are counted by method and path template."""
        started = b3os.start()
        b3os.get(started)
        b3os.get_run(f"run_{uuid.uuid4().hex}")
        assert b3os.control.control("GET", "/requests").json() == {
            "POST /v1/executions": 1,
            "GET /v1/executions/{id}": 1,
            "GET /v1/runs/{id}": 1,
        }
