"""A key of B3OS goes on every request, and nothing does where there is none."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tl_orchestration.credentials import B3osKey, B3osPublic, Credentials
from tl_orchestration.errors import InvalidSettings

URL = "https://api.b3os.org"


class TestB3osKey:
    def sent(self, credential: Credentials) -> dict[str, str]:
        """The headers that the credential adds."""
        flow = credential.auth().sync_auth_flow(httpx.Request("GET", URL))
        headers = next(flow).headers
        return {name: headers[name] for name in ("authorization", "x-org-id") if name in headers}

    @pytest.mark.parametrize("given", ["b3sk_1", " b3sk_1\n", "Bearer b3sk_1", "bearer b3sk_1"])
    def test_goes_as_bearer(self, given: str) -> None:
        """Exactly once."""
        assert self.sent(B3osKey(given)) == {"authorization": "Bearer b3sk_1"}

    def test_organization_is_sent_if_given(self) -> None:
        """X-Org-ID is optional (contract C28)."""
        assert self.sent(B3osKey("b3sk_1", "org_9")) == {"authorization": "Bearer b3sk_1", "x-org-id": "org_9"}

    @pytest.mark.parametrize("organization", ["", "org 1", "org\r\nX: y", 7])
    def test_unusable_organization_is_refused(self, organization: Any) -> None:
        """It goes into a header."""
        with pytest.raises(InvalidSettings, match="organization_id"):
            B3osKey("b3sk_1", organization)

    @pytest.mark.parametrize(
        ("key", "says"), [("", "empty"), ("tot_abc", "organization token"), ("a b", "white space")]
    )
    def test_unusable_key_is_refused(self, key: str, says: str) -> None:
        """Also one of the other vendor's API."""
        with pytest.raises(InvalidSettings, match=says):
            B3osKey(key)

    def test_nothing_is_sent_without_a_key(self) -> None:
        """A public workflow needs none."""
        assert self.sent(B3osPublic()) == {}


class TestRenewal:
    def begin(self, credential: B3osKey) -> tuple[Generator[httpx.Request, httpx.Response, None], httpx.Request]:
        """A flow, and the request that it sends first."""
        flow = credential.auth().sync_auth_flow(httpx.Request("POST", URL))
        return flow, next(flow)

    @pytest.mark.parametrize("status", [401, 403])
    def test_refused_key_is_read_again(self, status: int) -> None:
        """A key from a callable that has changed is used at once, with the organization beside it."""
        keys = iter(["b3sk_old", "b3sk_new"])
        flow, request = self.begin(B3osKey(lambda: next(keys), "org_9"))
        assert request.headers["Authorization"] == "Bearer b3sk_old"
        again = flow.send(httpx.Response(status))
        assert (again.headers["Authorization"], again.headers["X-Org-ID"]) == ("Bearer b3sk_new", "org_9")

    def test_key_of_another_service_is_not_taken_over(self, caplog: pytest.LogCaptureFixture) -> None:
        """A source that comes to give an organization token changes nothing."""
        keys = iter(["b3sk_old", "tot_new"])
        flow, _ = self.begin(B3osKey(lambda: next(keys)))
        with pytest.raises(StopIteration):
            flow.send(httpx.Response(401))
        assert "could not be read again (InvalidSettings)" in caplog.text
        assert "tot_" not in caplog.text

    def test_key_file_is_read_again(self, tmp_path: Path) -> None:
        """A file takes effect when it is replaced."""
        file = tmp_path / "key"
        file.write_text("b3sk_old\n")
        flow, request = self.begin(B3osKey.from_file(file))
        file.write_text("b3sk_new\n")
        assert request.headers["Authorization"] == "Bearer b3sk_old"
        assert flow.send(httpx.Response(401)).headers["Authorization"] == "Bearer b3sk_new"
