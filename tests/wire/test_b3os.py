"""B3OS over real sockets, with and without a key, in every reading of what its documentation leaves open."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from attrs import evolve

from tests.builders import run_request
from tests.planted import FIRST_NAME, found_in
from tests.remote import Remote
from tests.wire.conftest import OpenDoor
from tests.wire.doors import Door
from tl_orchestration import B3osKey, B3osOptions, B3osPublic, Execution, RunRequest, Status, Step
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidRequest,
    InvalidSettings,
    NotCancellableYet,
    NotFound,
    NotSupported,
    PermissionDenied,
    ResultNotReady,
    ServerError,
    StartOutcomeUnknown,
    TransactionlinkError,
    WaitTimeout,
)
from tl_orchestration.ledger import MemoryLedger, State

KEY = "step"
ORGANIZATION = "org_sandbox"
OPTIONS = B3osOptions(source_system="airflow", source_entity_type="customer", external_ref="r-1")
NOBODY = "00000000-0000-4000-8000-000000000000"


def request(name: str = "kyc-approve", **fields: Any) -> RunRequest:
    """A request for a workflow of the sandbox."""
    return run_request(workflow_definition_id=name, **{"options": OPTIONS, **fields})


@pytest.fixture(autouse=True)
def _quick(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for ends after two or three polls; a start is repeated without a long pause."""
    for name in ("kyc-approve", "kyc-fail", "kyc-partial", "kyc-reject"):
        remote.define(name, duration=0.05)
    monkeypatch.setattr("tl_orchestration.attempt._SAME_KEY_DELAY", 0.01)


@pytest.fixture
def client(remote: Remote, open_door: OpenDoor) -> Door:
    """A client with a key and a ledger."""
    return keyed(remote, open_door, ledger=MemoryLedger())


@pytest.fixture
def keyless(remote: Remote, open_door: OpenDoor) -> Door:
    """A client without a key."""
    return open_door(remote.url, B3osPublic(), service="b3os", ledger=MemoryLedger())


def keyed(remote: Remote, open_door: OpenDoor, credential: B3osKey | None = None, **options: Any) -> Door:
    """A client with a key."""
    return open_door(remote.url, credential or B3osKey("b3sk_sandbox"), service="b3os", **options)


class TestWithKey:
    def test_run_wait_result(self, client: Door, remote: Remote) -> None:
        """The whole way, and what the service has got."""
        execution = client.run(request(parameters={"firstName": FIRST_NAME}), KEY)
        ended = client.wait(execution)
        assert (ended.status, ended.raw_status) == (Status.SUCCEEDED, "workflow_succeeded")
        assert client.result(ended)["decision"] == "approve"
        assert client.result(ended.id) == client.result(ended)
        (start,) = remote.starts()
        assert (start["service"], start["parameters"]) == ("b3os", {"firstName": FIRST_NAME})
        assert start["details"]["sourceSystem"] == "airflow"
        assert (start["details"]["externalRef"], start["details"]["public"]) == ("r-1", False)
        assert start["details"]["run_id"] == ended.run_id

    def test_key_is_the_recorded_one(self, remote: Remote, open_door: OpenDoor) -> None:
        """The idempotency key that was sent is the one that the ledger has."""
        ledger = MemoryLedger().for_namespace("tests")
        keyed(remote, open_door, ledger=ledger).run(request(), KEY)
        entry = ledger.read(KEY)
        assert entry is not None
        assert entry.progress == {"idempotency_key": remote.starts()[0]["details"]["idempotencyKey"]}

    def test_reattaches(self, client: Door, remote: Remote) -> None:
        """A second try of the step starts nothing."""
        first, second = client.run(request(), KEY), client.run(request(), KEY)
        assert (first.id, True) == (second.id, second.reattached)
        assert len(remote.starts()) == 1

    @pytest.mark.parametrize(
        ("name", "status"),
        [
            ("kyc-fail", Status.FAILED),
            ("kyc-partial", Status.PARTIAL),
            ("kyc-reject", Status.SUCCEEDED),
        ],
    )
    def test_endings(self, client: Door, remote: Remote, name: str, status: Status) -> None:
        """Partial is an ending of its own (contract C27)."""
        assert client.wait(client.run(request(name))).status is status

    def test_result_is_not_there_yet(self, client: Door, remote: Remote) -> None:
        """What goes on has none."""
        with pytest.raises(ResultNotReady):
            client.result(client.run(request("kyc-slow")))

    def test_cancel(self, client: Door, remote: Remote) -> None:
        """Through the run; again, it is over already."""
        execution = client.run(request("kyc-slow"), KEY)
        assert client.cancel(execution).status is Status.CANCELLED
        assert client.cancel(execution).status is Status.CANCELLED
        assert [cancel["execution_id"] for cancel in remote.cancels()] == [execution.id]

    @pytest.mark.parametrize("stage", ["awaiting_payment", "payment_confirmed", "workflow_queued"])
    def test_cancel_before_there_is_a_run(self, client: Door, remote: Remote, stage: str) -> None:
        """Later it can be cancelled (contract C39)."""
        remote.define("kyc-slow", before_run={stage: 60})
        execution = client.run(request("kyc-slow"))
        assert (execution.raw_status, execution.is_terminal) == (stage, False)
        with pytest.raises(NotCancellableYet, match=stage):
            client.cancel(execution)
        remote.advance(61)
        assert client.cancel(execution).status is Status.CANCELLED

    def test_cancel_that_crosses_the_end(self, client: Door, remote: Remote) -> None:
        """A 409 is read as over only after a look; here it is not."""
        execution = client.run(request("kyc-slow"))
        remote.order("cancel", "status", status=409)
        with pytest.raises(InvalidRequest, match="409"):
            client.cancel(execution)
        assert client.poll(execution).status is Status.RUNNING

    def test_deadline_cancels(self, client: Door, remote: Remote) -> None:
        """As with every service that can."""
        execution = client.run(request("kyc-slow"), KEY, timeout=0.3)
        with pytest.raises(WaitTimeout, match="It was cancelled"):
            client.wait(execution)
        assert len(remote.cancels()) == 1

    def test_deadline_before_there_is_a_run(self, client: Door, remote: Remote) -> None:
        """The wait ends and says that the cancel did not work."""
        remote.define("kyc-slow", before_run={"awaiting_payment": None})
        with pytest.raises(WaitTimeout, match=r"could not be cancelled: .* has no run yet.* `tl cancel ") as caught:
            client.wait(client.run(request("kyc-slow"), KEY, timeout=0.3))
        assert caught.value.raw_status == "awaiting_payment"

    def test_wrong_key(self, remote: Remote, open_door: OpenDoor) -> None:
        """Said at once; nothing has started."""
        with pytest.raises(AuthenticationError):
            keyed(remote, open_door, B3osKey("b3sk_wrong")).run(request())
        assert remote.starts() == []

    def test_key_that_may_only_read(self, client: Door, remote: Remote, open_door: OpenDoor) -> None:
        """It may poll and read, and the error names the scope that is missing."""
        reader = keyed(remote, open_door, B3osKey("b3sk_sandbox_read"))
        with pytest.raises(PermissionDenied, match="scope read-write"):
            reader.run(request())
        execution = client.run(request())
        assert reader.wait(execution.id).status is Status.SUCCEEDED
        assert reader.result(execution.id)

    def test_another_organization(self, remote: Remote, open_door: OpenDoor) -> None:
        """An id that does not fit is the service's to refuse; one that we were told to insist on is ours."""
        with pytest.raises(PermissionDenied):
            keyed(remote, open_door, B3osKey("b3sk_sandbox", "org_other")).run(request())
        assert remote.starts() == []

    def test_check(self, client: Door, remote: Remote, open_door: OpenDoor) -> None:
        """Starts nothing, and notices a wrong key."""
        client.check()
        with pytest.raises(AuthenticationError):
            keyed(remote, open_door, B3osKey("b3sk_wrong")).check()
        assert remote.starts() == []


class TestReadings:
    @pytest.mark.parametrize(
        "reading",
        [
            {"envelope": "code-data"},
            {"envelope": "success-data"},
            {"success_code": 0},
            {"public_execution_shape": "nested"},
            {"public_response_payload": True},
            {"timestamps": "+02:00"},
        ],
        ids=str,
    )
    def test_run_and_wait_work_in_each(
        self, client: Door, keyless: Door, remote: Remote, reading: dict[str, Any]
    ) -> None:
        """Contract C24, C25, C29, C30 and A9, with and without a key."""
        remote.vary(**reading)
        for door in (client, keyless):
            assert door.wait(door.run(request())).status is Status.SUCCEEDED
        assert client.result(client.wait(client.run(request())))
        assert client.cancel(client.run(request("kyc-slow"))).status is Status.CANCELLED

    @pytest.mark.parametrize("form", ["code-message", "success-error", "text", "html"])
    def test_errors_are_read_in_each_form(self, client: Door, remote: Remote, form: str) -> None:
        """The status decides; text is kept where it is the service's own (contract C26)."""
        remote.vary(error_envelope=form)
        with pytest.raises(NotFound, match="does not know workflow unheard-of") as caught:
            client.run(request("unheard-of"), KEY)
        assert "<" not in str(caught.value)
        assert (caught.value.fingerprint is not None) == (form == "code-message")
        assert client.run(request(), KEY).id

    @pytest.mark.parametrize(("word", "status"), [("partial", Status.PARTIAL), ("failed", Status.FAILED)])
    def test_partial_in_other_words(self, client: Door, remote: Remote, word: str, status: Status) -> None:
        """Older pages do not know it (contract C27)."""
        remote.vary(partial_word=word)
        assert client.wait(client.run(request("kyc-partial"))).status is status

    def test_organization_may_be_needed(self, client: Door, remote: Remote, open_door: OpenDoor) -> None:
        """X-Org-ID is sent if it is given (contract C28)."""
        remote.vary(organization_header="required")
        with pytest.raises(PermissionDenied):
            client.run(request())
        named = keyed(remote, open_door, B3osKey("b3sk_sandbox", ORGANIZATION))
        assert named.wait(named.run(request())).status is Status.SUCCEEDED

    @pytest.mark.parametrize("status", [404, 400])
    def test_execution_that_does_not_exist(self, client: Door, remote: Remote, status: int) -> None:
        """An error either way; and the check is content with either."""
        remote.vary(unknown_execution=status)
        with pytest.raises((NotFound, InvalidRequest)):
            client.poll(NOBODY)
        client.check()


class TestIdempotencyKey:
    REPEAT = Step(key=KEY, on_unknown_start="repeat-same-key")

    def test_lost_answer_is_an_unknown_fate_by_default(self, client: Door, remote: Remote) -> None:
        """The key is no licence to repeat."""
        remote.order("start", "lose")
        for _ in range(2):
            with pytest.raises(StartOutcomeUnknown):
                client.run(request(), KEY)
        assert remote.count("POST /v1/executions") == 1

    @pytest.mark.parametrize("kind", ["lose", "drop"])
    def test_repeat_finds_what_was_started(self, client: Door, remote: Remote, kind: str) -> None:
        """If the service keeps its key's promise, one execution comes of it, whatever was lost (contract C38)."""
        remote.order("start", kind, times=2)
        execution = client.run(request(), self.REPEAT)
        (start,) = remote.starts()
        assert start["execution_id"] == execution.id
        assert remote.count("POST /v1/executions") == 3
        assert client.wait(execution).status is Status.SUCCEEDED

    def test_repeat_has_the_same_correlation_id(self, client: Door, remote: Remote) -> None:
        """One request, so one id, also in a later try: what that one starts is found by what the error has named."""
        step = evolve(self.REPEAT, correlation_parameter="caseRef")
        remote.order("start", "drop", times=3)
        with pytest.raises(StartOutcomeUnknown) as caught:
            client.run(request(), step)
        execution = client.run(request(), step)
        (start,) = remote.starts()
        assert (start["execution_id"], start["parameters"]["caseRef"]) == (execution.id, caught.value.correlation_id)

    def test_repeat_of_a_failure(self, client: Door, remote: Remote) -> None:
        """A 5xx leaves as much unknown as no answer."""
        remote.order("start", "status", status=502)
        assert client.run(request(), self.REPEAT).id
        assert len(remote.starts()) == 1

    def test_conflict_does_not_show_that_nothing_runs(self, remote: Remote, open_door: OpenDoor) -> None:
        """A service that refuses a used key has started something: the fate stays unknown (contract C38)."""
        remote.vary(idempotency="conflict")
        remote.order("start", "lose")
        ledger = MemoryLedger().for_namespace("tests")
        client = keyed(remote, open_door, ledger=ledger)
        with pytest.raises(StartOutcomeUnknown):
            client.run(request(), self.REPEAT)
        entry = ledger.read(KEY)
        assert entry is not None
        assert (entry.state, len(remote.starts())) == (State.UNKNOWN, 1)

    def test_service_without_a_key_refuses_the_policy(self, remote: Remote, open_door: OpenDoor) -> None:
        """Where there is nothing to repeat with."""
        client = open_door(remote.url, ledger=MemoryLedger())
        with pytest.raises(InvalidRequest, match="takes none"):
            client.run(run_request(), self.REPEAT)
        assert remote.starts() == []


class TestWithoutKey:
    def test_run_and_wait(self, keyless: Door, remote: Remote) -> None:
        """With what run returned, and with what poll returned."""
        execution = keyless.run(request())
        assert remote.starts()[0]["details"]["public"] is True
        assert keyless.wait(keyless.poll(execution)).status is Status.SUCCEEDED

    def test_only_what_run_returned_will_do(self, keyless: Door, remote: Remote) -> None:
        """An id, a handle, or an execution that has travelled has no client token; nothing is asked."""
        execution = keyless.run(request())
        travelled = pickle.loads(pickle.dumps(execution))  # noqa: S301 -- our own
        assert isinstance(travelled, Execution)
        for target in (execution.id, execution.handle):
            with pytest.raises(NotSupported, match="only in the process that started it"):
                keyless.wait(target)
        with pytest.raises(InvalidSettings, match="did not travel"):
            keyless.poll(travelled)
        assert remote.count("GET /v1/public/executions/{id}") == 0

    def test_nothing_but_looking(self, keyless: Door, remote: Remote) -> None:
        """Result and cancel need a key, and say so before anything is sent."""
        execution = keyless.run(request("kyc-slow"), timeout=0.3)
        for verb in (keyless.result, keyless.cancel):
            with pytest.raises(NotSupported, match="key"):
                verb(execution)
        with pytest.raises(WaitTimeout, match="cannot cancel it"):
            keyless.wait(execution)
        assert (remote.cancels(), remote.count("POST /v1/runs/{id}/cancel")) == ([], 0)

    def test_private_workflow(self, keyless: Door, remote: Remote) -> None:
        """Who has no key may start what is public."""
        with pytest.raises(PermissionDenied):
            keyless.run(request("kyc-private"))
        assert remote.starts() == []

    def test_second_try_of_a_step_starts_nothing(self, keyless: Door, remote: Remote) -> None:
        """And cannot look either: it says what is needed."""
        keyless.run(request(), KEY)
        with pytest.raises(NotSupported, match="Use B3osKey"):
            keyless.run(request(), KEY)
        assert len(remote.starts()) == 1

    def test_client_token_is_nowhere(
        self, remote: Remote, open_door: OpenDoor, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not in the ledger, the handle, the repr, a pickle or a log."""
        ledger = MemoryLedger().for_namespace("tests")
        client = open_door(remote.url, B3osPublic(), service="b3os", ledger=ledger)
        execution = client.run(request(), KEY)
        client.wait(execution)
        assert execution.client_token is not None
        token, entry = execution.client_token.reveal(), ledger.read(KEY)
        assert entry is not None
        seen = f"{entry.to_dict()} {execution!r} {execution.handle.to_dict()} {caplog.text}"
        assert token not in seen
        assert token.encode() not in pickle.dumps(execution)

    def test_check(self, keyless: Door, remote: Remote) -> None:
        """Shows that the service is there."""
        keyless.check()
        remote.order("status", "status", status=500, times=10)
        with pytest.raises(ServerError):
            keyless.check()


def test_personal_data_is_in_no_error(client: Door, remote: Remote) -> None:
    """Whatever the service repeats."""
    remote.order(
        "start",
        "status",
        status=400,
        body=f'{{"code": 400001, "message": "{FIRST_NAME} is wrong"}}',
        content_type="application/json",
    )
    with pytest.raises(TransactionlinkError) as caught:
        client.run(request(parameters={"name": FIRST_NAME}), KEY)
    assert found_in(repr(caught.value)) == []
    assert caught.value.codes == ("400001",)
