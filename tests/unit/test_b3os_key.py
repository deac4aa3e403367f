"""A key of B3OS goes on every request, and nothing does where there is none."""

from __future__ import annotations

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
