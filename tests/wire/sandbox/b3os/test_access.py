"""
Keys, organizations and client tokens of B3OS.
"""

import pytest

from tests.wire.sandbox.b3os.user import B3os, assert_refused, data
from tests.wire.sandbox.users import Sandbox
from tl_orchestration.sandbox import SandboxServer, SandboxSettings


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
