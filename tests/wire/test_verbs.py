"""Run, poll, wait, result and cancel against the sandbox, by both clients."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.builders import run_request, travelled
from tests.remote import NOBODY, Remote
from tests.wire.conftest import OpenDoor
from tests.wire.doors import QUICK, QUICK_RETRY, Door
from tl_orchestration import Execution, Handle, Settings, Status
from tl_orchestration.errors import (
    InvalidRequest,
    InvalidSettings,
    NoResult,
    NotFound,
    RateLimited,
    ResultNotReady,
    ServerError,
    WaitTimeout,
)
from tl_orchestration.ledger import MemoryLedger
from tl_orchestration.sandbox import SandboxServer, SandboxSettings

GET = "GET /workflows/{id}"
POST = "POST /workflows"


def kyc(name: str = "kyc-approve", **fields: Any) -> Any:
    """A request to run a definition of the sandbox."""
    return run_request(workflow_definition_id=name, **fields)


def age(execution: Execution) -> float:
    """Seconds from now to the deadline."""
    assert execution.handle.deadline is not None
    return execution.handle.deadline - time.time()


def decide(execution: Execution, decision: str) -> None:
    """Do what a person does on the hosted page."""
    assert execution.link is not None
    assert execution.token is not None
    form = {"token": execution.token.reveal(), "decision": decision}
    httpx.post(execution.link.reveal().partition("?")[0], data=form, trust_env=False).raise_for_status()


class TestRun:
    def test_answer_and_request(self, remote: Remote, client: Door) -> None:
        """A start returns at once what the service said, and the service saw what was asked, once."""
        record = "e3c23802-537d-4aa4-89f1-397c120f5565"
        request = kyc(parameters={"firstName": "Zoë", "n": [1, None]}, locale="uk", record_id=record, expires_in=7200)
        execution = client.run(request, timeout=600)
        assert (Status.RUNNING, "RUNNING", "kyc-approve", "r1", record) == (
            execution.status,
            execution.raw_status,
            execution.name,
            execution.revision,
            execution.record_id,
        )
        assert execution.handle.owned
        assert 590 < age(execution) <= 600
        (start,) = remote.starts()
        assert (execution.id, {"firstName": "Zoë", "n": [1, None]}, "uk", record) == (
            start["execution_id"],
            start["parameters"],
            start["locale"],
            start["record_id"],
        )
        lifetime = datetime.fromisoformat(start["expires_at"]) - datetime.fromisoformat(start["time"])
        assert abs(lifetime - timedelta(hours=2)) < timedelta(seconds=5)
        assert start["headers"] == {
            "accept": "*/*",
            "content-type": "application/json",
            "user-agent": "tl-orchestration",
        }

    def test_every_start_says_when_it_expires(self, remote: Remote, client: Door) -> None:
        """Without an expiry the service would end an execution after an hour; the timeout decides instead."""
        client.run(kyc(), timeout=3 * 3600)
        (start,) = remote.starts()
        lifetime = datetime.fromisoformat(start["expires_at"]) - datetime.fromisoformat(start["time"])
        assert abs(lifetime - timedelta(hours=3)) < timedelta(seconds=5)

    def test_interactive_execution_has_a_link(self, client: Door) -> None:
        """The link of an interactive execution is in the start answer, as a secret that opens the page."""
        execution = client.run(kyc("kyc-review"))
        assert execution.is_interactive
        assert execution.link is not None
        assert httpx.get(execution.link.reveal(), trust_env=False).status_code == 200
        assert execution.link.reveal() not in repr(execution)

    @pytest.mark.parametrize("shown_again", [True, False])
    def test_link_is_handed_over_once(self, remote: Remote, open_door: OpenDoor, shown_again: bool) -> None:
        """The person whom on_link tells can decide; a later call with the key hands nothing over."""
        remote.vary(link_in_status=shown_again)
        client = open_door(remote.url, ledger=MemoryLedger())
        given: list[Execution] = []
        for _ in range(2):
            execution = client.run(kyc("kyc-review"), "step", on_link=given.append)
        (told,) = given
        decide(told, "reject")
        assert told.id == execution.id
        assert client.result(client.wait(execution))["decision"] == "reject"

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
    def test_timeout_must_be_a_time(self, remote: Remote, client: Door, timeout: float) -> None:
        """A timeout that is no span of time is refused before anything is sent."""
        with pytest.raises(InvalidRequest, match="timeout must be"):
            client.run(kyc(), timeout=timeout)
        assert remote.count(POST) == 0

    def test_timeout_of_more_than_a_century(self, remote: Remote, open_door: OpenDoor) -> None:
        """It is one of a century: its deadline is a date, and can be written down and read again."""
        client = open_door(remote.url, ledger=MemoryLedger())
        execution = client.run(kyc(), "step", timeout=10**400)
        deadline = datetime.fromtimestamp(execution.handle.deadline or 0.0, UTC)
        assert timedelta(days=36_499) < deadline - datetime.now(UTC) <= timedelta(days=36_500)
        assert Handle.from_dict(execution.handle.to_dict()) == execution.handle
        assert client.wait(execution, 10**400, patience=QUICK).status is Status.SUCCEEDED


class TestWait:
    @pytest.mark.parametrize(
        ("name", "status", "decision"),
        [
            ("kyc-approve", Status.SUCCEEDED, "approve"),
            ("kyc-reject", Status.SUCCEEDED, "reject"),
            ("kyc-fail", Status.FAILED, None),
            ("kyc-expire", Status.EXPIRED, None),
            ("kyc-slow", Status.SUCCEEDED, "approve"),
        ],
    )
    def test_every_definition_ends_as_it_does(
        self, remote: Remote, client: Door, name: str, status: Status, decision: str | None
    ) -> None:
        """A wait returns the execution at its end, whatever the ending; the result is there if there is one."""
        remote.define(name, duration=0.1)
        started = client.run(kyc(name, parameters={"firstName": "Ada"}))
        ended = client.wait(started)
        assert (started.id, status) == (ended.id, ended.status)
        assert (True, started.handle.deadline) == (ended.handle.owned, ended.handle.deadline)
        if decision is None:
            with pytest.raises(NoResult, match="left no result"):
                client.result(ended)
        else:
            result = client.result(ended)
            assert (decision, {"firstName": "Ada"}) == (result["decision"], result["customer"])

    @pytest.mark.parametrize("decision", ["approve", "reject"])
    def test_person_decides(self, client: Door, decision: str) -> None:
        """An interactive execution ends when a person has decided on its page."""
        started = client.run(kyc("kyc-review"))
        assert Status.RUNNING is client.poll(started).status
        decide(started, decision)
        assert decision == client.result(client.wait(started))["decision"]

    def test_handle_and_id_do_as_well(self, remote: Remote, client: Door) -> None:
        """A wait takes an execution, a handle, a handle that went through JSON, an id, or a pickled execution."""
        remote.define("kyc-approve", duration=0.05)
        started = client.run(kyc())
        remotes: list[Any] = [
            started,
            started.handle,
            type(started.handle).from_dict(started.handle.to_dict()),
            started.id,
            travelled(started),
        ]
        assert {started.id} == {client.wait(target, 10).id for target in remotes}

    def test_taught_literal_ends_the_wait(self, remote: Remote, open_door: OpenDoor) -> None:
        """A literal that this version does not know can be taught by settings."""
        remote.define("kyc-odd", like="kyc-approve", duration=0.1, outcome="MANUALLY_APPROVED")
        client = open_door(remote.url, settings=Settings(status_map={"manually-approved": Status.SUCCEEDED}))
        ended = client.wait(client.run(kyc("kyc-odd")))
        assert (ended.status, ended.raw_status) == (Status.SUCCEEDED, "MANUALLY_APPROVED")

    def test_unknown_literal_does_not(self, remote: Remote, client: Door) -> None:
        """An ending that we cannot read is waited for, is not cancelled, and its result is told of."""
        remote.define("kyc-odd", like="kyc-approve", duration=0, outcome="MANUALLY_APPROVED")
        with pytest.raises(WaitTimeout) as caught:
            client.wait(client.run(kyc("kyc-odd")), 0.3)
        assert (
            caught.value.raw_status,
            caught.value.result_available,
            caught.value.cancelled,
        ) == ("MANUALLY_APPROVED", True, False)
        assert remote.cancels() == []

    def test_deadline_cancels_what_is_ours(self, remote: Remote, client: Door) -> None:
        """The deadline of an execution that we have started cancels it."""
        started = client.run(kyc("kyc-slow"))
        with pytest.raises(WaitTimeout) as caught:
            client.wait(started, 0.2)
        assert caught.value.cancelled
        assert [started.id] == [cancel["execution_id"] for cancel in remote.cancels()]
        assert Status.CANCELLED is client.poll(started).status

    def test_deadline_does_not_cancel_a_bare_id(self, remote: Remote, client: Door) -> None:
        """Whoever has nothing but an id has not started it, and does not cancel it."""
        started = client.run(kyc("kyc-slow"))
        with pytest.raises(WaitTimeout, match="left running") as caught:
            client.wait(started.id, 0.2)
        assert not caught.value.cancelled
        assert remote.cancels() == []
        assert Status.RUNNING is client.poll(started).status

    def test_deadline_is_the_starts_if_none_is_named(self, remote: Remote, client: Door) -> None:
        """A wait without a timeout ends at the deadline that the start has set."""
        began = time.monotonic()
        started = client.run(kyc("kyc-slow"), timeout=0.3)
        with pytest.raises(WaitTimeout):
            client.wait(started)
        assert 0.2 < time.monotonic() - began < 20

    def test_failures_are_outlived(self, remote: Remote, client: Door) -> None:
        """A wait goes on through 503s, 429s, dropped connections and pages of HTML."""
        remote.define("kyc-approve", duration=0.3)
        remote.order("status", "status", status=503, times=2)
        remote.order("status", "drop", times=2)
        remote.order("status", "status", status=429, times=1)
        remote.order("status", "status", status=200, body="<html>", content_type="text/html", times=2)
        started = client.run(kyc())
        assert Status.SUCCEEDED is client.wait(started).status
        assert remote.count(GET) >= 8

    def test_expired_execution_is_expired(self, remote: Remote, client: Door) -> None:
        """An execution that the service lets expire ends the wait with that status."""
        started = client.run(kyc("kyc-slow"))
        remote.define("kyc-slow", duration=600)
        remote.force(started.id, status="EXPIRED")
        assert Status.EXPIRED is client.wait(started).status


class TestPoll:
    def test_tells_how_it_stands(self, remote: Remote, client: Door) -> None:
        """A poll asks once."""
        started = client.run(kyc("kyc-slow"))
        assert Status.RUNNING is client.poll(started).status
        remote.force(started.id, status="AWAITING")
        assert Status.WAITING is client.poll(started.id).status
        remote.force(started.id, status="COMPLETED")
        assert Status.SUCCEEDED is client.poll(started.handle).status
        assert remote.count(GET) == 3

    def test_keeps_what_is_known_of_the_start(self, client: Door) -> None:
        """The handle that was given is the handle that is returned."""
        started = client.run(kyc("kyc-slow"))
        polled = client.poll(started)
        assert (True, started.handle.deadline) == (polled.handle.owned, polled.handle.deadline)
        assert not client.poll(started.id).handle.owned

    @pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "drop"}, {"kind": "lose"}])
    def test_is_repeated_through_faults(self, remote: Remote, client: Door, fault: dict[str, Any]) -> None:
        """A GET may be repeated, and is, after 503s and lost connections."""
        started = client.run(kyc())
        remote.order("status", times=3, **fault)
        assert started.id == client.poll(started).id
        assert remote.count(GET) == 4

    def test_gives_up_in_the_end(self, remote: Remote, client: Door) -> None:
        """A poll that fails as often as the policy allows is an error."""
        started = client.run(kyc())
        remote.order("status", "status", status=503, times=4)
        with pytest.raises(ServerError, match=started.id):
            client.poll(started)
        assert QUICK_RETRY.attempts == remote.count(GET)

    def test_waits_as_told(self, remote: Remote, client: Door) -> None:
        """A Retry-After of a second is a second."""
        started = client.run(kyc())
        remote.order("status", "status", status=429, headers={"Retry-After": "1"})
        began = time.monotonic()
        client.poll(started)
        assert 1.0 <= time.monotonic() - began < 20

    def test_absurd_delay_is_handed_to_the_caller(self, remote: Remote, client: Door) -> None:
        """A Retry-After beyond reason is not slept through but told."""
        started = client.run(kyc())
        remote.order("status", "status", status=429, headers={"Retry-After": "3600"})
        with pytest.raises(RateLimited) as caught:
            client.poll(started)
        assert caught.value.retry_after == 3600.0
        assert remote.count(GET) == 1


class TestResult:
    def test_is_not_there_yet(self, client: Door) -> None:
        """A running execution has no result yet, and that is its own error."""
        started = client.run(kyc("kyc-slow"))
        with pytest.raises(ResultNotReady, match="has not ended yet"):
            client.result(started)

    def test_is_repeated_through_faults(self, remote: Remote, client: Door) -> None:
        """Reading a result may be repeated."""
        remote.define("kyc-approve", duration=0)
        started = client.run(kyc())
        remote.order("result", "status", status=502, body="<html>", times=1)
        remote.order("result", "drop", times=1)
        assert client.result(started)["decision"] == "approve"


class TestCancel:
    def test_ends_it(self, remote: Remote, client: Door) -> None:
        """A cancel returns the execution cancelled; a second one finds it so."""
        started = client.run(kyc("kyc-slow"))
        assert Status.CANCELLED is client.cancel(started).status
        assert Status.CANCELLED is client.cancel(started.id).status
        assert [cancel["took_effect"] for cancel in remote.cancels()] == [True, False]

    @pytest.mark.parametrize("answer", [200, 400])
    def test_finished_execution_is_no_error(self, open_door: OpenDoor, answer: int) -> None:
        """However the service answers the cancel of a finished execution, its ending is returned."""
        with SandboxServer(SandboxSettings(cancel_finished=answer)) as server:
            server.store.define("kyc-approve", {"duration": 0})
            client = open_door(server.url)
            assert Status.SUCCEEDED is client.cancel(client.run(kyc())).status

    def test_lost_answer_is_asked_for_again(self, remote: Remote, client: Door) -> None:
        """A cancel may be repeated: a lost answer does no harm."""
        started = client.run(kyc("kyc-slow"))
        remote.order("cancel", "lose")
        assert Status.CANCELLED is client.cancel(started).status
        assert remote.count("POST /workflows/{id}/cancel") == 2


class TestTargets:
    @pytest.mark.parametrize("verb", ["poll", "wait", "result", "cancel"])
    def test_unknown_execution(self, client: Door, verb: str) -> None:
        """Every verb says of an unknown id that it is unknown, and names it."""
        with pytest.raises(NotFound, match=NOBODY) as caught:
            getattr(client, verb)(NOBODY)
        assert NotFound is type(caught.value)

    @pytest.mark.parametrize("verb", ["poll", "wait", "result", "cancel"])
    @pytest.mark.parametrize("target", ["", "../_sandbox", "a/b", "a?b", "x" * 129, None, 7])
    def test_what_is_no_id_is_not_asked_for(self, remote: Remote, client: Door, verb: str, target: Any) -> None:
        """An id that could not stand in a path reaches nobody."""
        with pytest.raises(InvalidRequest, match="execution id"):
            getattr(client, verb)(target)
        assert remote.count("GET *") + remote.count(GET) == 0

    def test_check_asks_for_nothing(self, remote: Remote, client: Door) -> None:
        """A check is silent where host and credential work, and starts nothing."""
        client.check()
        assert remote.starts() == []
        assert remote.count(GET) == 1


class TestBuilding:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"service": "b4os"}, "no service 'b4os'"),
            ({"settings": Settings(allowed_hosts=("api.transactionlink.io",))}, "not on the allow-list"),
            ({"settings": Settings(ca_bundle="/nowhere/ca.pem")}, "cannot be loaded"),
        ],
    )
    def test_wrong_settings_are_refused_at_once(self, open_door: OpenDoor, options: dict[str, Any], says: str) -> None:
        """A client over wrong settings is not built."""
        with pytest.raises(InvalidSettings, match=says):
            open_door("http://127.0.0.1:1", **options)

    def test_credentials_must_be_credentials(self, kind: str) -> None:
        """A bare token is refused, and not quoted."""
        from tl_orchestration import AsyncClient, Client

        build: Any = Client if kind == "sync" else AsyncClient
        with pytest.raises(InvalidSettings, match="credentials must be a credential") as caught:
            build("tot_bare", "http://127.0.0.1:1")
        assert "tot_bare" not in str(caught.value)


def test_default_patience_is_usable(client: Door, remote: Remote) -> None:
    """The defaults of a wait do for an execution that has ended."""
    remote.define("kyc-approve", duration=0)
    assert Status.SUCCEEDED is client.wait(client.run(kyc()), patience=QUICK).status
