"""A refusal says what is missing and where, and neither the token nor what was sent."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tests.builders import refusal_document, run_request
from tests.planted import PARAMETERS, TOKEN, found_in
from tests.remote import NOBODY, Remote
from tests.wire.conftest import OpenDoor
from tests.wire.doors import QUICK, Door
from tl_orchestration import Execution, OrganizationToken, RunRequest, Status, WorkspaceKey
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.sandbox import SandboxServer, SandboxSettings

NO_RUN, NO_VIEW = f"{TOKEN}-no-run", f"{TOKEN}-no-view"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Remote]:
    """
    A sandbox that knows planted tokens, and the sandbox's own.
    """
    tokens = [
        {"value": TOKEN},
        {"value": NO_RUN, "can_run": False},
        {"value": NO_VIEW, "can_view": False},
        {"value": "tot_new"},
    ]
    with SandboxServer(SandboxSettings(tokens=tokens)) as server, Remote(server.url) as remote:
        yield remote


@pytest.fixture(autouse=True)
def _fresh(guarded: Remote) -> None:
    guarded.reset()


def planted_request(name: str = "kyc-approve") -> RunRequest:
    """A request full of personal data."""
    return run_request(workflow_definition_id=name, parameters=PARAMETERS)


@pytest.mark.parametrize("verb", ["poll", "wait", "result", "cancel"])
@pytest.mark.parametrize("form", ["execution", "handle"])
def test_execution_of_another_service(guarded: Remote, open_door: OpenDoor, verb: str, form: str) -> None:
    """Another service's execution is refused with both names, before anything is sent: ids may be alike."""
    execution = open_door(guarded.url, TOKEN).run(run_request())
    other = open_door(guarded.url, WorkspaceKey("sandbox-key", "sandbox-secret"), service="transactionlink-legacy")
    asked = sum(guarded.count(path) for path in ("GET /workflows/{id}", "POST /auth/authorize"))
    with pytest.raises(InvalidRequest, match=r"transactionlink, .* one of transactionlink-legacy") as caught:
        getattr(other, verb)(execution if form == "execution" else execution.handle)
    assert caught.value.execution_id == execution.id
    assert sum(guarded.count(path) for path in ("GET /workflows/{id}", "POST /auth/authorize")) == asked
    assert guarded.cancels() == []


def check_clean(error: TransactionlinkError) -> None:
    """Neither the error nor its printed traceback shows anything planted, and it is one line."""
    printed = "".join(traceback.format_exception(error))
    assert found_in(f"{error} {error!r} {vars(error)} {printed}") == []
    assert "\n" not in str(error)


class TestStart:
    @pytest.mark.parametrize(
        ("token", "name", "kind", "says"),
        [
            (
                f"{TOKEN}-wrong",
                "kyc-approve",
                AuthenticationError,
                ["(401)", "run", "definition kyc-approve", "Check the token"],
            ),
            (NO_RUN, "kyc-approve", PermissionDenied, ["can_run on the workflow definition", "kyc-approve", "(403)"]),
            (TOKEN, "no-such-thing", NotFound, ["workflow definition no-such-thing", "(404)"]),
        ],
    )
    def test_names_permission_and_definition(
        self,
        guarded: Remote,
        open_door: OpenDoor,
        token: str,
        name: str,
        kind: type[TransactionlinkError],
        says: list[str],
    ) -> None:
        """A refused start names the definition, the permission and the status."""
        with pytest.raises(kind) as caught:
            open_door(guarded.url, token).run(planted_request(name))
        assert kind is type(caught.value)
        assert [words for words in says if words not in str(caught.value)] == []
        assert caught.value.fingerprint is not None
        assert f"(error fingerprint {caught.value.fingerprint})" in str(caught.value)
        check_clean(caught.value)

    def test_echo_of_a_value_is_scrubbed(self, guarded: Remote, open_door: OpenDoor) -> None:
        """A 400 that repeats what was sent is told without it; its code and what remains of its words are kept."""
        message = f"Number {PARAMETERS['document']['number']} of {PARAMETERS['firstName'].upper()} is taken"
        body = json.dumps(refusal_document(message, "BAD", "f00d"))
        guarded.order("start", "status", status=400, body=body, content_type="application/json")
        with pytest.raises(InvalidRequest, match=r"Number … of … is taken") as caught:
            open_door(guarded.url, TOKEN).run(planted_request())
        assert (caught.value.codes, caught.value.fingerprint, caught.value.status_code) == (("BAD",), "f00d", 400)
        check_clean(caught.value)

    @pytest.mark.parametrize("status", [500, 503, 200])
    def test_broken_answer_is_not_quoted(self, guarded: Remote, open_door: OpenDoor, status: int) -> None:
        """A failing service that repeats the whole request in its answer gets none of it into the error."""
        guarded.order("start", "status", status=status, body=f"stack trace: {PARAMETERS} {TOKEN}")
        with pytest.raises(StartOutcomeUnknown) as caught:
            open_door(guarded.url, TOKEN).run(planted_request())
        check_clean(caught.value)


class TestOtherVerbs:
    @pytest.mark.parametrize("verb", ["poll", "wait", "result", "cancel", "check"])
    @pytest.mark.parametrize(
        ("token", "kind", "says"),
        [
            (f"{TOKEN}-wrong", AuthenticationError, "(401)"),
            (NO_VIEW, PermissionDenied, "can_view_workspace on the workspace"),
        ],
    )
    def test_names_permission_and_execution(
        self, guarded: Remote, open_door: OpenDoor, verb: str, token: str, kind: type[TransactionlinkError], says: str
    ) -> None:
        """Every verb names what is missing and the execution, at once."""
        client = open_door(guarded.url, token)
        began = time.monotonic()
        with pytest.raises(kind) as caught:
            client.check() if verb == "check" else getattr(client, verb)(NOBODY)
        assert time.monotonic() - began < 20  # a refusal is forgiven for a quarter of an hour where it is
        assert says in str(caught.value)
        if verb != "check":
            assert NOBODY in str(caught.value)
            assert caught.value.execution_id == NOBODY
        check_clean(caught.value)


class TestRotation:
    def door(self, open_door: OpenDoor, url: str, file: Path, token: str) -> Door:
        """A client whose token is in a file."""
        file.write_text(token)
        return open_door(url, OrganizationToken.from_file(file))

    @pytest.mark.parametrize("old", ["tot_old", NO_RUN])
    def test_start_goes_again_with_the_new_token_and_happens_once(
        self, guarded: Remote, open_door: OpenDoor, tmp_path: Path, old: str
    ) -> None:
        """A token that was replaced before its refusal is read again, and the start happens once."""
        client = self.door(open_door, guarded.url, tmp_path / "token", old)
        (tmp_path / "token").write_text("tot_new\n")
        started = client.run(planted_request())
        assert [started.id] == [start["execution_id"] for start in guarded.starts()]
        assert guarded.count("POST /workflows") == 2

    def test_wait_outlives_a_rotation(self, guarded: Remote, open_door: OpenDoor, tmp_path: Path) -> None:
        """A wait whose token is refused for a while goes on with whatever the file then holds."""
        guarded.define("kyc-approve", duration=None)
        file = tmp_path / "token"
        client = self.door(open_door, guarded.url, file, TOKEN)
        started = client.run(planted_request())
        seen: list[str] = []

        def rotate(execution: Execution) -> None:
            seen.append(execution.raw_status)
            if len(seen) == 1:
                file.write_text("")  # as it is for a moment while it is being replaced
                guarded.order("status", "status", status=401, times=3)
                guarded.force(execution.id, status="COMPLETED")

        ended = client.wait(started, patience=evolve(QUICK, on_change=rotate))
        assert (ended.status, seen) == (Status.SUCCEEDED, ["RUNNING", "COMPLETED"])

    def test_refused_token_that_has_not_changed_is_sent_once(
        self, guarded: Remote, open_door: OpenDoor, tmp_path: Path
    ) -> None:
        """A wrong token in a file is refused once, not tried over and over."""
        client = self.door(open_door, guarded.url, tmp_path / "token", "tot_old")
        with pytest.raises(AuthenticationError):
            client.run(planted_request())
        assert guarded.count("POST /workflows") == 1

    def test_missing_file_leaves_the_refusal(self, guarded: Remote, open_door: OpenDoor, tmp_path: Path) -> None:
        """A token file that has gone when the token is refused leaves the refusal as the error."""
        client = self.door(open_door, guarded.url, tmp_path / "token", "tot_old")
        (tmp_path / "token").unlink()
        with pytest.raises(AuthenticationError, match="Check the token"):
            client.run(planted_request())


def test_parameters_reach_the_service_as_they_are(guarded: Remote, open_door: OpenDoor) -> None:
    """What must not be shown is still sent."""
    open_door(guarded.url, TOKEN).run(planted_request())
    found: Any = guarded.starts()[0]["parameters"]
    assert found == PARAMETERS
