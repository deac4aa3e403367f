"""The token goes on the request and nowhere else, and a rotated one takes effect."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests.planted import TOKEN, found_in
from tl_orchestration.credentials import Credentials, OrganizationToken, header_value
from tl_orchestration.errors import InvalidSettings

AuthFlow = Generator[httpx.Request, httpx.Response, None]


def begin(token: OrganizationToken) -> tuple[AuthFlow, httpx.Request]:
    """An authentication flow, and the request that it sends first."""
    flow = token.auth().auth_flow(httpx.Request("POST", "https://api.transactionlink.io/workflows"))
    return flow, next(flow)


def answered(flow: AuthFlow, status: int) -> str | None:
    """The header of the request that follows an answer; None if none does."""
    try:
        return flow.send(httpx.Response(status)).headers["Authorization"]
    except StopIteration:
        return None


class Source:
    """A token that changes; an error in the list is raised."""

    def __init__(self, *tokens: str | Exception) -> None:
        self._tokens = list(tokens)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        token = self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]
        if isinstance(token, Exception):
            raise token
        return token


class TestHeader:
    @pytest.mark.parametrize(
        ("token", "header"),
        [
            ("tot_abc", "tot_abc"),
            ("  tot_abc\n", "tot_abc"),
            ("Bearer tot_abc", "tot_abc"),
            ("bearer   tot_abc", "tot_abc"),
            ("eyJhbGciOiJub25lIn0.e30.sig", "Bearer eyJhbGciOiJub25lIn0.e30.sig"),
            ("Bearer eyJx", "Bearer eyJx"),
            ("BEARER eyJx", "Bearer eyJx"),
            ("TOT_abc", "Bearer TOT_abc"),
        ],
    )
    def test_form_follows_the_prefix(self, token: str, header: str) -> None:
        """Organization tokens go raw, everything else as Bearer exactly once (contract C4)."""
        assert header == header_value(token)

    @pytest.mark.parametrize("token", ["tot_abc", "Bearer tot_abc", "eyJx"])
    def test_form_can_be_bearer_for_all(self, token: str, tmp_path: Path) -> None:
        """On the caller's word every token goes as Bearer, and is the same token for the ledger."""
        (tmp_path / "token").write_text(token)
        plain, bearer = OrganizationToken(token), OrganizationToken.from_file(tmp_path / "token", bearer=True)
        assert bearer.header() == f"Bearer {token.removeprefix('Bearer ')}"
        assert bearer.fingerprint_secret() == plain.fingerprint_secret()

    @pytest.mark.parametrize("token", ["", "  ", "\n", "Bearer", "Bearer ", "bearer\n"])
    def test_empty_token_is_refused(self, token: str) -> None:
        """Nothing is no token, with or without the scheme before it."""
        with pytest.raises(InvalidSettings, match="token is empty"):
            OrganizationToken(token)

    @pytest.mark.parametrize("token", ["tot_a b", "tot_a\r\nX: y", "tot_é", "tot_\x00", "tot_a\tb", "Bearer a b"])
    def test_token_that_no_header_can_carry_is_refused_unquoted(self, token: str) -> None:
        """A token with white space, controls or letters beyond ASCII is refused, and not quoted."""
        with pytest.raises(InvalidSettings, match="characters that a header cannot carry") as caught:
            OrganizationToken(token)
        assert token not in str(caught.value)


class TestRenewal:
    @pytest.mark.parametrize("status", [401, 403])
    def test_refused_token_is_read_again_and_the_request_repeated_once(self, status: int) -> None:
        """After 401 or 403 a changed token is used at once, and a second refusal stands."""
        source = Source("tot_old", "tot_new", "tot_newer")
        flow, request = begin(OrganizationToken(source))
        assert request.headers["Authorization"] == "tot_old"
        assert answered(flow, status) == "tot_new"
        assert answered(flow, status) is None
        assert source.calls == 2

    @pytest.mark.parametrize("status", [200, 204, 400, 404, 429, 500, 503])
    def test_other_answers_renew_nothing(self, status: int) -> None:
        """Only a refused credential is read again."""
        source = Source("tot_old", "tot_new")
        flow, _ = begin(OrganizationToken(source))
        assert answered(flow, status) is None
        assert source.calls == 1

    def test_unchanged_token_is_not_sent_twice(self) -> None:
        """A refusal of a token that has not changed stands."""
        flow, _ = begin(OrganizationToken(Source("tot_old", "tot_old ")))
        assert answered(flow, 401) is None

    def test_fixed_token_is_not_renewed(self) -> None:
        """A token given as text cannot change."""
        flow, _ = begin(OrganizationToken("tot_old"))
        assert answered(flow, 401) is None

    def test_request_that_was_under_way_during_a_renewal_is_repeated_too(self) -> None:
        """Of two requests refused with the old token both go again, though only one sees the token change."""
        token = OrganizationToken(Source("tot_old", "tot_new"))
        (one, _), (two, _) = begin(token), begin(token)
        assert answered(one, 401) == "tot_new"
        assert answered(two, 401) == "tot_new"

    @pytest.mark.parametrize("failure", [OSError("gone"), InvalidSettings("gone"), KeyError("gone"), ""])
    def test_source_that_fails_for_a_moment_changes_nothing(
        self, failure: Exception | str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A source that cannot be read when a token is refused leaves the refusal as the outcome, and says so."""
        flow, _ = begin(OrganizationToken(Source("tot_old", failure, "tot_new")))
        with caplog.at_level(logging.WARNING):
            assert answered(flow, 401) is None
        assert "could not be read again" in caplog.text
        assert "tot_" not in caplog.text

    def test_token_file_is_read_again(self, tmp_path: Path) -> None:
        """A token file takes effect when it is replaced."""
        file = tmp_path / "token"
        file.write_text("tot_old\n")
        flow, request = begin(OrganizationToken.from_file(file))
        file.write_text("tot_new\n")
        assert (request.headers["Authorization"], answered(flow, 401)) == ("tot_old", "tot_new")

    @pytest.mark.parametrize("content", [None, b"\xff\xfe", b""])
    def test_unreadable_token_file_is_refused_at_once(self, tmp_path: Path, content: bytes | None) -> None:
        """A client is not built over a token file that is missing, empty or no text."""
        file = tmp_path / "token"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InvalidSettings):
            OrganizationToken.from_file(file)


class TestSecrecy:
    def test_is_not_shown(self) -> None:
        """repr and str show no token, nor do those of the authentication flow."""
        token = OrganizationToken(TOKEN)
        assert found_in(f"{token} {token!r} {[token]} {token.auth()!r} {vars(token)} {vars(token.auth())}") == []

    @pytest.mark.parametrize("travel", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_does_not_travel(self, travel: object) -> None:
        """A credential is neither pickled nor copied."""
        assert callable(travel)
        with pytest.raises(TypeError, match="not pickled") as caught:
            travel(OrganizationToken(TOKEN))
        assert found_in(str(caught.value)) == []

    def test_key_material_follows_the_token(self) -> None:
        """The fingerprint secret is the header's bytes, so that a rotated token makes another key."""
        assert OrganizationToken("Bearer tot_abc").fingerprint_secret() == b"tot_abc"

    def test_fulfils_the_protocol(self) -> None:
        """An organization token is a credential."""
        assert isinstance(OrganizationToken("tot_abc"), Credentials)
