"""`tl` against each service of a running sandbox: credentials from the environment, options, what is missing."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from tests.planted import DOCUMENT_NUMBER, FIRST_NAME, LAST_NAME, found_in
from tl_orchestration.cli.commands import tl
from tl_orchestration.cli.outcomes import SUCCESS, USAGE, code_of_error
from tl_orchestration.errors import AuthenticationError, InvalidRequest, WaitTimeout

if TYPE_CHECKING:
    from pathlib import Path

    from tests.remote import Remote

LEGACY = {"SERVICE": "transactionlink-legacy", "KEY": "sandbox-key", "SECRET": "sandbox-secret"}
B3OS = {"SERVICE": "b3os", "TOKEN": "b3sk_sandbox"}
KEYLESS = {"SERVICE": "b3os"}
ORIGIN = json.dumps({"source_system": "shell", "source_entity_type": "customer"})
PERSON = json.dumps({"first_name": FIRST_NAME, "last_name": LAST_NAME, "personal_number": DOCUMENT_NUMBER})


@pytest.fixture(autouse=True)
def environment(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names the sandbox and no credential."""
    for name in list(os.environ):
        if name.startswith("TRANSACTIONLINK_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TRANSACTIONLINK_BASE_URL", remote.url)
    remote.define("kyc-approve", duration=0.1)
    return monkeypatch


def given(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        environment.setenv(f"TRANSACTIONLINK_{name}", value)


def call(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(tl, arguments, input=stdin, prog_name="tl")
    assert "Traceback" not in result.output
    assert found_in(result.output) == []
    assert not [secret for secret in ("sandbox-secret", "b3sk_sandbox") if secret in result.output]
    return result


def answer(*arguments: str, stdin: str | None = None) -> dict[str, Any]:
    """The one JSON object on stdout, whatever the exit code."""
    document: dict[str, Any] = json.loads(call(*arguments, "--json", stdin=stdin).stdout)
    return document


class TestLegacy:
    def test_run_about_a_new_case(self, environment: pytest.MonkeyPatch, remote: Remote) -> None:
        """Key and secret from the environment, the case from standard input; then wait and result by the id."""
        given(environment, LEGACY)
        execution = answer("run", "kyc-approve", "--options", "-", "--wait", stdin=PERSON)
        assert (execution["service"], execution["status"]) == ("transactionlink-legacy", "SUCCEEDED")
        assert call("wait", execution["id"]).exit_code == SUCCESS
        assert answer("result", execution["id"])["decision"] == "approve"
        (case,) = remote.cases()
        assert FIRST_NAME in str(case)

    def test_secret_from_a_file(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The file may end with a newline; a file that is not there is named."""
        (tmp_path / "secret").write_text("sandbox-secret\n")
        given(environment, {**LEGACY, "SECRET": "", "SECRET_FILE": str(tmp_path / "secret")})
        assert call("run", "kyc-approve").exit_code == SUCCESS
        environment.setenv("TRANSACTIONLINK_SECRET_FILE", str(tmp_path / "none"))
        assert f"The secret file {tmp_path / 'none'} cannot be read" in call("run", "kyc-approve").stderr

    def test_jwt_does_as_well(self, environment: pytest.MonkeyPatch, remote: Remote) -> None:
        """A token file that is named by an option goes before key and secret; what it holds is refused here."""
        given(environment, {"SERVICE": "transactionlink-legacy", "TOKEN": "eyJ.not.accepted"})
        assert call("poll", "e1").exit_code == code_of_error(AuthenticationError)
        assert remote.count("POST /auth/authorize") == 0

    @pytest.mark.parametrize(
        ("variables", "says"),
        [
            ({}, "set TRANSACTIONLINK_KEY, and TRANSACTIONLINK_SECRET or TRANSACTIONLINK_SECRET_FILE"),
            ({"KEY": "sandbox-key"}, "a key of the workspace and no secret: set TRANSACTIONLINK_SECRET"),
            ({"SECRET": "sandbox-secret"}, "a secret of the workspace and no key: set TRANSACTIONLINK_KEY"),
            ({"KEY": "k", "SECRET": "s", "SECRET_FILE": "f"}, "SECRET and TRANSACTIONLINK_SECRET_FILE are both set"),
        ],
    )
    def test_what_is_missing_is_named(
        self, environment: pytest.MonkeyPatch, variables: dict[str, str], says: str
    ) -> None:
        """One sentence names the variable."""
        given(environment, {"SERVICE": "transactionlink-legacy", **variables})
        refused = call("poll", "e1")
        assert (refused.exit_code, says in refused.stderr) == (USAGE, True)

    def test_personal_data_do_not_belong_in_arguments(self, environment: pytest.MonkeyPatch, remote: Remote) -> None:
        """Options of the legacy service come from a file; an inline object is refused, and not repeated."""
        given(environment, LEGACY)
        refused = call("run", "kyc-approve", "--options", PERSON)
        assert (refused.exit_code, "do not belong in arguments" in refused.stderr) == (USAGE, True)
        assert remote.starts() == []

    def test_deadline_says_that_it_goes_on(self, environment: pytest.MonkeyPatch) -> None:
        """There is no cancel."""
        given(environment, LEGACY)
        late = call("run", "kyc-slow", "--wait", "--timeout", "0.3s")
        assert late.exit_code == code_of_error(WaitTimeout)
        assert "this service cannot cancel it" in late.stderr


class TestB3os:
    def test_run_with_a_key(self, environment: pytest.MonkeyPatch, remote: Remote, tmp_path: Path) -> None:
        """The token is the key; options from the argument or from a file; poll and result by the id."""
        given(environment, {**B3OS, "ORGANIZATION_ID": "org_sandbox"})
        execution = answer("run", "kyc-approve", "--options", ORIGIN, "--wait")
        assert (execution["service"], execution["status"]) == ("b3os", "SUCCEEDED")
        assert answer("result", execution["id"])["decision"] == "approve"
        (tmp_path / "options.json").write_text(ORIGIN)
        (tmp_path / "key").write_text("b3sk_sandbox\n")
        environment.delenv("TRANSACTIONLINK_TOKEN")
        again = call(
            "run", "kyc-approve", "--options", str(tmp_path / "options.json"), "--token-file", str(tmp_path / "key")
        )
        assert again.exit_code == SUCCESS
        assert {start["details"]["sourceSystem"] for start in remote.starts()} == {"shell"}

    def test_organization_is_sent(self, environment: pytest.MonkeyPatch, remote: Remote) -> None:
        """Another organization than the key's is refused."""
        given(environment, {**B3OS, "ORGANIZATION_ID": "org_other"})
        assert call("run", "kyc-approve", "--options", ORIGIN).exit_code != SUCCESS
        assert remote.starts() == []

    def test_options_are_required(self, environment: pytest.MonkeyPatch, remote: Remote) -> None:
        """Without them nothing is sent."""
        given(environment, B3OS)
        refused = call("run", "kyc-approve")
        assert refused.exit_code == code_of_error(InvalidRequest)
        assert "b3os needs --options with source_system and source_entity_type" in refused.stderr
        assert remote.starts() == []

    def test_without_a_key_one_command_does_it_all(self, environment: pytest.MonkeyPatch, remote: Remote) -> None:
        """A public workflow is started and followed by `tl run --wait`, and by nothing else."""
        given(environment, KEYLESS)
        execution = answer("run", "kyc-approve", "--options", ORIGIN, "--wait")
        assert execution["status"] == "SUCCEEDED"
        assert call("run", "kyc-approve", "--options", ORIGIN).exit_code == USAGE
        for command in ("poll", "wait", "result", "cancel"):
            refused = call(command, execution["id"])
            assert (refused.exit_code, "set TRANSACTIONLINK_TOKEN" in refused.stderr) == (USAGE, True)
            assert "only `tl run --wait` works" in refused.stderr
        (start,) = remote.starts()
        assert start["details"]["public"]


@pytest.mark.parametrize("options", [PERSON, ORIGIN])
def test_current_service_takes_no_options(environment: pytest.MonkeyPatch, remote: Remote, options: str) -> None:
    """Options that nobody would heed are refused before anything is sent."""
    given(environment, {"TOKEN": "tot_sandbox"})
    refused = call("run", "kyc-approve", "--options", "-", stdin=options)
    assert refused.exit_code == code_of_error(InvalidRequest)
    assert "transactionlink takes no --options" in refused.stderr
    assert remote.starts() == []


def test_standard_input_is_read_once(environment: pytest.MonkeyPatch) -> None:
    """Parameters and options cannot both come from it."""
    given(environment, LEGACY)
    refused = call("run", "kyc-approve", "--options", "-", "--parameters", "-", stdin="{}")
    assert (refused.exit_code, "cannot both" in refused.stderr) == (USAGE, True)


class TestDoctor:
    @pytest.mark.parametrize(
        ("variables", "token", "credential"),
        [
            (LEGACY, "key and secret of a workspace from the environment", "takes the workspace's credential"),
            (B3OS, "a key of B3OS from the environment", "takes the key, which may read (scope read)"),
            (KEYLESS, "no key of B3OS", "answers without a key"),
        ],
    )
    def test_all_is_well(
        self,
        environment: pytest.MonkeyPatch,
        remote: Remote,
        variables: dict[str, str],
        token: str,
        credential: str,
    ) -> None:
        """Each service's credential is named and tried, and nothing is started."""
        given(environment, variables)
        found = answer("doctor")
        details = {check["name"]: check["detail"] for check in found["checks"]}
        assert found["ok"]
        assert f"service {variables['SERVICE']}" in details["settings"]
        assert token in details["token"]
        assert credential in details["credential"]
        assert remote.starts() == []

    @pytest.mark.parametrize("variables", [{**LEGACY, "SECRET": "wrong"}, {**B3OS, "TOKEN": "b3sk_wrong"}])
    def test_refused_credential(self, environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
        """It is the last check that fails."""
        given(environment, variables)
        found = answer("doctor")
        assert found["exit_code"] == code_of_error(AuthenticationError)
        assert [check["name"] for check in found["checks"] if check["status"] == "fail"] == ["credential"]
