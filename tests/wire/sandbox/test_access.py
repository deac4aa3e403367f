"""
Who may do what, and what is not there.
"""

import pytest

from tests.wire.sandbox.users import NOBODY, Sandbox, assert_refused, running
from tl_orchestration.sandbox import SandboxServer
from tl_orchestration.sandbox.settings import SANDBOX_JWT


class TestAuthorization:
    @pytest.mark.parametrize("header", ["tot_sandbox", f"Bearer {SANDBOX_JWT}"])
    def test_accepted_forms(self, server: SandboxServer, header: str) -> None:
        """An organization token is sent raw, a JWT as Bearer."""
        sandbox = Sandbox(server, header)
        with sandbox.http:
            assert sandbox.post_start().status_code == 200

    @pytest.mark.parametrize(
        "header",
        [None, "", "Bearer tot_sandbox", SANDBOX_JWT, "tot_other", "Bearer other", "Basic dG90X3NhbmRib3g="],
    )
    def test_anything_else_is_unauthorized(self, server: SandboxServer, header: str | None) -> None:
        """A missing, unknown or wrongly presented credential is 401 on every endpoint, before all checks."""
        sandbox = Sandbox(server, header)
        with sandbox.http:
            nobody = {"id": NOBODY}
            answers = [sandbox.http.post("/workflows", content=b"{"), sandbox.get(nobody)]
            answers += [sandbox.result(nobody), sandbox.cancel(nobody)]
        for answer in answers:
            assert_refused(answer, 401)

    def test_permission_to_run(self, sandbox: Sandbox) -> None:
        """Without can_run a start is 403, and reading and cancelling still work."""
        execution = sandbox.start()
        sandbox.http.headers["authorization"] = "tot_sandbox_no_run"
        assert_refused(sandbox.post_start(), 403)
        assert sandbox.get(execution).status_code == 200
        assert sandbox.cancel(execution).status_code == 200
        assert len(sandbox.server.store.starts) == 1

    def test_permission_to_view(self, sandbox: Sandbox) -> None:
        """Without can_view_workspace only a start works; cancelling needs it too."""
        sandbox.http.headers["authorization"] = "tot_sandbox_no_view"
        execution = sandbox.start()
        for answer in (sandbox.get(execution), sandbox.result(execution), sandbox.cancel(execution)):
            assert_refused(answer, 403)
        assert sandbox.server.store.cancels == []

    def test_tokens_are_a_setting(self) -> None:
        """Given tokens replace the default ones."""
        with running("tot_mine", tokens=[{"value": "tot_mine", "can_view": False}]) as sandbox:
            assert_refused(sandbox.get(sandbox.start()), 403)
            sandbox.http.headers["authorization"] = "tot_sandbox"
            assert_refused(sandbox.post_start(), 401)


class TestUnknownPlaces:
    def test_unknown_execution(self, sandbox: Sandbox) -> None:
        """Status, result and cancel of an unknown execution are 404."""
        for nobody in ({"id": NOBODY}, {"id": "not-a-uuid"}):
            for answer in (sandbox.get(nobody), sandbox.result(nobody), sandbox.cancel(nobody)):
                assert_refused(answer, 404)
        assert sandbox.server.store.cancels == []

    def test_unknown_path(self, sandbox: Sandbox) -> None:
        """A path that the service does not have is 404 in its error form, and is counted; no redirects."""
        assert_refused(sandbox.http.get("/nothing"), 404)
        assert_refused(sandbox.http.post("/workflows/"), 404)
        assert sandbox.server.store.requests == {"GET *": 1, "POST *": 1}

    def test_wrong_method(self, sandbox: Sandbox) -> None:
        """A wrong method is 405 in the service's error form."""
        answer = sandbox.http.get("/workflows")
        assert_refused(answer, 405)
        assert "POST" in answer.headers["allow"]
