"""The legacy service over real sockets, in every reading of what its documentation leaves open."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.builders import run_request
from tests.planted import DOCUMENT_NUMBER, FIRST_NAME, LAST_NAME, found_in
from tests.remote import TOKEN, Remote
from tests.wire.conftest import OpenDoor
from tests.wire.doors import QUICK, Door
from tl_orchestration import AsyncClient, Client, LegacyOptions, Status, Step, WorkspaceKey
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidRequest,
    LedgerError,
    NoAnswer,
    NoResult,
    NotFound,
    NotSupported,
    ResultNotReady,
    ServerError,
    StartOutcomeUnknown,
    WaitTimeout,
)
from tl_orchestration.ledger import MemoryLedger, State

SERVICE = "transactionlink-legacy"
NOBODY = "00000000-0000-4000-8000-000000000000"
PERSON = LegacyOptions(first_name=FIRST_NAME, last_name=LAST_NAME, personal_number=DOCUMENT_NUMBER)
ABOUT_PERSON = run_request(options=PERSON)
KEY = "step"
#: Seconds until an execution ends that is waited for: long enough to be seen running.
SOON = 0.3


def key() -> WorkspaceKey:
    """The sandbox's key and secret."""
    return WorkspaceKey("sandbox-key", "sandbox-secret")


@pytest.fixture
def client(remote: Remote, open_door: OpenDoor) -> Door:
    """A client of the legacy service, with a ledger."""
    return open_door(remote.url, key(), service=SERVICE, ledger=MemoryLedger())


def counts(remote: Remote) -> tuple[int, int, int]:
    """Cases, parameters sets and starts that the service has carried out."""
    return len(remote.cases()), len(remote.parameter_sets()), len(remote.starts())


class TestRun:
    def test_about_a_new_case(self, client: Door, remote: Remote) -> None:
        """Case, parameters, run, wait, result: in version 1, whose result tells of the party."""
        remote.define("kyc-approve", duration=SOON)
        execution = client.run(ABOUT_PERSON, KEY)
        ended = client.wait(execution)
        assert (ended.status, ended.handle.api_version) == (Status.SUCCEEDED, 1)
        (case,), (made,), (start,) = remote.cases(), remote.parameter_sets(), remote.starts()
        assert case["fields"] == {"firstName": FIRST_NAME, "lastName": LAST_NAME, "personalNumber": DOCUMENT_NUMBER}
        assert start["details"] == {"version": 1, "case_id": case["id"], "parameters_id": made["id"]}
        assert client.result(ended)["partyDetails"]["personal"]["firstName"] == FIRST_NAME
        assert "partyDetails" not in client.result(ended.id)  # an id alone knows no version, and 2 is the default

    def test_about_a_case_that_exists(self, client: Door, remote: Remote) -> None:
        """No other one is made."""
        client.run(run_request(options=PERSON))
        (case,) = remote.cases()
        client.run(run_request(options=LegacyOptions(case_id=case["id"]), parameters={}))
        assert counts(remote) == (1, 1, 2)
        assert remote.starts()[1]["details"] == {"version": 1, "case_id": case["id"], "parameters_id": None}

    @pytest.mark.parametrize("fields", [{}, {"record_id": NOBODY}, {"options": LegacyOptions()}])
    def test_about_a_record_or_nothing(self, client: Door, remote: Remote, fields: dict[str, Any]) -> None:
        """Version 2, whose result has no party."""
        remote.define("kyc-approve", duration=SOON)
        ended = client.wait(client.run(run_request(**fields)))
        (start,) = remote.starts()
        assert (start["details"]["version"], start["record_id"]) == (2, fields.get("record_id"))
        assert start["headers"]["accept"] == "application/json;version=2"
        assert "partyDetails" not in client.result(ended)

    def test_over_before_the_start_is_answered(self, client: Door, remote: Remote) -> None:
        """COMPLETED at once: the first poll of the wait ends it."""
        remote.define("kyc-approve", duration=0)
        execution = client.run(ABOUT_PERSON, KEY)
        assert (execution.status, execution.raw_status) == (Status.SUCCEEDED, "COMPLETED")
        assert client.wait(execution).status is Status.SUCCEEDED
        assert remote.count("GET /workflows/{id}") == 1

    def test_reattaches(self, client: Door, remote: Remote) -> None:
        """A second try of the step makes nothing and starts nothing."""
        first, second = client.run(ABOUT_PERSON, KEY), client.run(ABOUT_PERSON, KEY)
        assert (first.id, True, 1) == (second.id, second.reattached, second.handle.api_version)
        assert counts(remote) == (1, 1, 1)

    @pytest.mark.parametrize(
        ("name", "status"),
        [("kyc-fail", Status.FAILED), ("kyc-expire", Status.EXPIRED), ("kyc-reject", Status.SUCCEEDED)],
    )
    def test_endings(self, client: Door, remote: Remote, name: str, status: Status) -> None:
        """As with the current service."""
        execution = client.run(run_request(workflow_definition_id=name))
        remote.advance(10)
        assert client.wait(execution).status is status
        if status is not Status.SUCCEEDED:
            with pytest.raises(NoResult):
                client.result(execution)

    def test_unknown_definition(self, client: Door, remote: Remote) -> None:
        """Known at POST /parameters at the latest; nothing has started."""
        with pytest.raises(NotFound):
            client.run(run_request(workflow_definition_id="unheard-of"), KEY)
        assert counts(remote) == (0, 0, 0)


class TestReadings:
    @pytest.mark.parametrize(
        "reading",
        [
            {"parameters_id": "parametersId"},
            {"parameters_id": "id"},
            {"parameters_status": 200},
            {"case_numbers": 400},
            {"status_shape": "by-accept"},
            {"status_shape": "legacy"},
            {"status_shape": "full"},
            {"legacy_result": "party"},
            {"legacy_result": "status"},
            {"legacy_result": "status-nested"},
            {"running_word": "AWAITING", "completed_word": "DONE", "status_case": "lower"},
            {"timestamps": "+02:00"},
            {"legacy_cancel": "cancels"},
            {"version_3": 406},
        ],
        ids=str,
    )
    def test_run_wait_and_result_work_in_each(self, client: Door, remote: Remote, reading: dict[str, Any]) -> None:
        """Contract C1, C2, C3, C15, C17, C18, A6 and A9."""
        remote.define("kyc-approve", duration=SOON)
        remote.vary(**reading)
        options = LegacyOptions(first_name="Ada", phone=("370", "60000000"), personal_number="38001019999")
        ended = client.wait(client.run(run_request(options=options), KEY))
        assert ended.status is Status.SUCCEEDED
        assert client.result(ended)

    @pytest.mark.parametrize("status", [400, 401])
    def test_bad_credentials(self, remote: Remote, open_door: OpenDoor, status: int) -> None:
        """Both are the same to us (contract C7)."""
        remote.vary(bad_credentials_status=status)
        client = open_door(remote.url, WorkspaceKey("sandbox-key", "wrong"), service=SERVICE)
        with pytest.raises(AuthenticationError, match="does not accept key and secret") as caught:
            client.run(ABOUT_PERSON)
        assert (caught.value.status_code, counts(remote)) == (status, (0, 0, 0))

    @pytest.mark.parametrize("refusal", [404, 400])
    def test_case_that_does_not_exist(self, client: Door, remote: Remote, refusal: int) -> None:
        """However the service says so, nothing has started."""
        remote.vary(unknown_reference=refusal)
        with pytest.raises((NotFound, InvalidRequest)) as caught:
            client.run(run_request(options=LegacyOptions(case_id=NOBODY), parameters={}), KEY)
        assert (caught.value.status_code, len(remote.starts())) == (refusal, 0)

    @pytest.mark.parametrize("taken", [True, False])
    def test_organization_token(self, remote: Remote, open_door: OpenDoor, *, taken: bool) -> None:
        """Whether the service takes one is its own affair (contract A6)."""
        remote.vary(legacy_organization_token=taken)
        client = open_door(remote.url, TOKEN, service=SERVICE)
        if taken:
            assert client.run(run_request()).id
        else:
            with pytest.raises(AuthenticationError):
                client.run(run_request())


class TestThreePosts:
    @pytest.mark.parametrize(("step", "left"), [("cases", (1, 0, 0)), ("parameters", (1, 1, 0))])
    def test_lost_answer_before_the_run(
        self, client: Door, remote: Remote, step: str, left: tuple[int, int, int]
    ) -> None:
        """Nothing has started; what was made is an orphan, and the next try makes only what it does not know."""
        remote.order(step, "lose")
        with pytest.raises(NoAnswer):
            client.run(ABOUT_PERSON, KEY)
        assert counts(remote) == left
        assert client.run(ABOUT_PERSON, KEY).id
        assert counts(remote) == ((2, 1, 1) if step == "cases" else (1, 2, 1))

    @pytest.mark.parametrize("step", ["cases", "parameters"])
    @pytest.mark.parametrize("fault", [{"kind": "drop"}, {"kind": "status", "status": 503}])
    def test_fault_before_the_run(self, client: Door, remote: Remote, step: str, fault: dict[str, Any]) -> None:
        """The next try leaves nothing behind where nothing was made."""
        remote.order(step, **fault)
        with pytest.raises((NoAnswer, ServerError)):
            client.run(ABOUT_PERSON, KEY)
        assert client.run(ABOUT_PERSON, KEY).id
        assert counts(remote) == (1, 1, 1)

    def test_busy_service(self, client: Door, remote: Remote) -> None:
        """A 429 is waited out at each of the three."""
        for step in ("cases", "parameters", "start"):
            remote.order(step, "status", status=429, headers={"Retry-After": "0"})
        assert client.run(ABOUT_PERSON, KEY).id
        assert counts(remote) == (1, 1, 1)

    @pytest.mark.parametrize("kind", ["lose", "drop"])
    def test_lost_answer_of_the_run(self, client: Door, remote: Remote, kind: str) -> None:
        """Nobody knows, and nobody tries again."""
        remote.order("start", kind)
        for _ in range(2):
            with pytest.raises(StartOutcomeUnknown):
                client.run(ABOUT_PERSON, KEY)
        assert counts(remote) == (1, 1, 1 if kind == "lose" else 0)
        assert remote.count("POST /workflows/run") == 1

    def test_lost_run_is_found_by_its_correlation_id(self, client: Door, remote: Remote) -> None:
        """The id that the error names is in the parameters set that the service has started with."""
        remote.order("start", "lose")
        with pytest.raises(StartOutcomeUnknown) as caught:
            client.run(ABOUT_PERSON, Step(key=KEY, correlation_parameter="caseRef"))
        (start,) = remote.starts()
        assert start["parameters"] == {"firstName": "Ada", "caseRef": caught.value.correlation_id}

    def test_refused_run(self, client: Door, remote: Remote) -> None:
        """Case and parameters are used by the next try."""
        remote.order("start", "status", status=403)
        with pytest.raises(Exception, match="403"):
            client.run(ABOUT_PERSON, KEY)
        assert client.run(ABOUT_PERSON, KEY).id
        assert counts(remote) == (1, 1, 1)

    def test_ledger_knows_ids_only(self, remote: Remote, open_door: OpenDoor) -> None:
        """And the step can be followed through it."""
        ledger = MemoryLedger().for_namespace("tests")
        client = open_door(remote.url, key(), service=SERVICE, ledger=ledger)
        execution = client.run(ABOUT_PERSON, KEY)
        entry = ledger.read(KEY)
        assert entry is not None
        (case,), (made,) = remote.cases(), remote.parameter_sets()
        assert entry.progress == {"case_id": case["id"], "parameters_id": made["id"]}
        assert (entry.state, entry.execution_id) == (State.STARTED, execution.id)
        assert found_in(str(entry.to_dict())) == []

    def test_many_callers_of_one_step(self, remote: Remote) -> None:
        """One case, one start, whoever is first."""
        with Client(key(), remote.url, SERVICE, ledger=MemoryLedger()) as client, ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(client.run, ABOUT_PERSON, Step(key=KEY)) for _ in range(8)]
            outcomes = [call.exception(30) or call.result().id for call in calls]
        assert counts(remote) == (1, 1, 1)
        assert len({one for one in outcomes if isinstance(one, str)}) == 1
        assert all(isinstance(one, str | LedgerError) for one in outcomes)


class TestAfterwards:
    def test_cancel(self, client: Door, remote: Remote) -> None:
        """Refused in a sentence; nothing is sent, and the ledger does not believe in a cancel that never was."""
        remote.vary(legacy_cancel="cancels")
        execution = client.run(run_request(workflow_definition_id="kyc-slow"), KEY)
        with pytest.raises(NotSupported):
            client.cancel(execution)
        assert (remote.cancels(), remote.count("POST /workflows/{id}/cancel")) == ([], 0)
        again = client.run(run_request(workflow_definition_id="kyc-slow"), Step(key=KEY, retry_failed=True))
        assert (again.id, len(remote.starts())) == (execution.id, 1)

    def test_deadline(self, client: Door, remote: Remote) -> None:
        """The wait ends and says that the execution goes on."""
        execution = client.run(run_request(workflow_definition_id="kyc-slow"), KEY, timeout=0.3)
        with pytest.raises(WaitTimeout, match="this service cannot cancel it"):
            client.wait(execution)
        assert remote.count("POST /workflows/{id}/cancel") == 0
        with pytest.raises(ResultNotReady):
            client.result(execution)

    def test_id_alone(self, client: Door, remote: Remote) -> None:
        """What is known by its id belongs to the client's service."""
        execution = client.run(run_request())
        assert client.poll(execution.id).handle.service == execution.handle.service == SERVICE

    def test_check(self, client: Door, remote: Remote) -> None:
        """Asks for something that cannot exist, with a token."""
        client.check()
        assert (remote.count("POST /auth/authorize"), len(remote.starts())) == (1, 0)


class TestAuthorization:
    def test_one_token_for_everything(self, client: Door, remote: Remote) -> None:
        """Three posts, polls and a result."""
        client.result(client.wait(client.run(ABOUT_PERSON)))
        assert remote.count("POST /auth/authorize") == 1

    def test_token_that_the_service_no_longer_takes(self, client: Door, remote: Remote) -> None:
        """An hour passes at the service and not here: one 401, one new token, and a start that happens once."""
        client.check()
        remote.advance(3601)
        execution = client.run(ABOUT_PERSON, KEY)
        assert (counts(remote), remote.count("POST /auth/authorize")) == ((1, 1, 1), 2)
        remote.advance(3601)
        assert client.wait(execution).status is Status.SUCCEEDED
        assert remote.count("POST /auth/authorize") == 3

    @pytest.mark.parametrize("fault", [{"kind": "drop"}, {"kind": "lose"}, {"kind": "status", "status": 500}])
    def test_fault_is_overcome(self, client: Door, remote: Remote, fault: dict[str, Any]) -> None:
        """Nothing of the start was sent, so it is tried again at once."""
        remote.order("authorize", **fault)
        assert client.run(ABOUT_PERSON, KEY).id
        assert counts(remote) == (1, 1, 1)

    def test_many_waits_share_tokens(self, remote: Remote) -> None:
        """However many there are, and again when the token ends under all of them."""
        waits = 50

        async def scene() -> list[Status]:
            async with AsyncClient(key(), remote.url, SERVICE) as client:
                started = [await client.run(run_request(parameters={})) for _ in range(waits)]
                await asyncio.gather(*(client.poll(one) for one in started))
                remote.advance(4000)
                ended = await asyncio.gather(*(client.wait(one, patience=QUICK) for one in started))
            return [one.status for one in ended]

        assert asyncio.run(scene()) == [Status.SUCCEEDED] * waits
        assert remote.count("POST /auth/authorize") == 2

    def test_for_the_current_service_too(self, remote: Remote, open_door: OpenDoor) -> None:
        """The vendor still supports it there (contract A2.1)."""
        client = open_door(remote.url, key())
        assert client.wait(client.run(run_request())).status is Status.SUCCEEDED
