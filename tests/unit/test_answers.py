"""Answers are read strictly, and refusals are told without personal data."""

from __future__ import annotations

import json
import pickle
from typing import Any, ClassVar

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.builders import JSON_TYPE, NOW, refusal_document, response
from tests.planted import PARAMETERS, PERSONAL, TOKEN, found_in
from tl_orchestration.answers import json_object, refusal, safe_id, scrubbed
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    TransactionlinkError,
)
from tl_orchestration.exchange import Request, Response

POLL = Request("poll", "GET", "/workflows/e-1")


def start(parameters: object = None, **body: Any) -> Request:
    """A start with these parameters."""
    return Request("run", "POST", "/workflows", json={"parameters": parameters, **body}, repeatable=False)


def refused(answer: Response, request: Request = POLL) -> TransactionlinkError:
    """The error for an answer."""
    return refusal(answer, request, subject="execution e-1", permission="the permission can_view", now=NOW)


def text_of_service(error: TransactionlinkError) -> str:
    """What the message repeats of the service's own text."""
    return str(error).partition(" The service says: ")[2].partition(" (error fingerprint")[0]


class TestJson:
    @pytest.mark.parametrize(
        "content_type",
        ["application/json", "application/json;charset=UTF-8", "Application/JSON ; x=y", "application/problem+json"],
    )
    def test_object_is_returned(self, content_type: str) -> None:
        """A JSON object is read from any JSON content type, with umlauts and nested values."""
        answer = response(body='{"a": {"b": [1, 2.5, null, true, "ü"]}}'.encode(), content_type=content_type)
        assert json_object(answer, POLL) == {"a": {"b": [1, 2.5, None, True, "ü"]}}

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"", "not JSON"),
            (b"{broken", "not JSON"),
            (b"<html>secret</html>", "not JSON"),
            (b'{"a": NaN}', "NaN and Infinity are not JSON"),
            (b'{"a": Infinity}', "NaN and Infinity are not JSON"),
            (b'{"a": [-Infinity]}', "NaN and Infinity are not JSON"),
            (b'{"a": 1e999}', "a number out of range"),
            (b'{"a": -1e999}', "a number out of range"),
            (b'{"id": "x", "id": "y"}', "duplicate keys"),
            (b'{"a": {"id": "x", "id": "x"}}', "duplicate keys"),
            ('{"a": 1}'.encode("utf-16"), "not JSON"),
            ('{"a": 1}'.encode("utf-16-le"), "not JSON"),
            ('{"a": 1}'.encode("utf-32"), "not JSON"),
            ('{"a": "ü"}'.encode("latin-1"), "not JSON"),
            (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
            (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
            (b'{"a": ' + b"9" * 5_000 + b"}", "not JSON"),
            (b"[]", "not an object"),
            (b'"secret"', "not an object"),
            (b"null", "not an object"),
            (b"17", "not an object"),
            (b'{"a": 1} {"b": 2}', "not JSON"),
        ],
    )
    def test_anything_else_is_refused_without_quoting(self, body: bytes, says: str) -> None:
        """What is not one strict JSON object in UTF-8 is InvalidAnswer, and the message quotes nothing of it."""
        with pytest.raises(InvalidAnswer, match=says) as caught:
            json_object(response(body=body), POLL)
        assert "secret" not in str(caught.value)
        assert caught.value.status_code == 200

    @pytest.mark.parametrize("content_type", ["", "text/html", "text/plain;charset=UTF-8", "application/jsonx", "json"])
    def test_wrong_content_type_is_refused(self, content_type: str) -> None:
        """A JSON body under another content type is not believed."""
        with pytest.raises(InvalidAnswer, match="content type"):
            json_object(response(body=b"{}", content_type=content_type), POLL)

    def test_missing_content_type_is_refused(self) -> None:
        """An answer without a content type is not believed."""
        with pytest.raises(InvalidAnswer, match="content type missing"):
            json_object(Response(200, {}, b"{}"), POLL)

    def test_absurd_content_type_is_cut(self) -> None:
        """A content type cannot blow the message up, nor break its line."""
        with pytest.raises(InvalidAnswer) as caught:
            json_object(response(body=b"{}", content_type="a\r\n" * 10_000), POLL)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)

    @given(st.binary())
    def test_no_body_breaks_the_reader(self, body: bytes) -> None:
        """Whatever the bytes, the reader returns a dict or raises InvalidAnswer."""
        try:
            assert isinstance(json_object(response(body=body), POLL), dict)
        except InvalidAnswer as error:
            refusal_text = str(error)
        else:
            refusal_text = ""
        assert "\n" not in refusal_text


class TestIds:
    @pytest.mark.parametrize(
        "value", ["a", "7", "e3c23802-537d-4aa4-89f1-397c120f5565", "kyc-approve", "a.b", "a_b~c", "x" * 128]
    )
    def test_plain_ids_are_safe(self, value: str) -> None:
        """UUIDs and names may stand in a path."""
        assert value == safe_id(value)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            ".",
            "..",
            "-a",
            "_a",
            "~a",
            ".a",
            "a..b",
            "a/b",
            "a\\b",
            "a?b",
            "a#b",
            "a%2e",
            "a b",
            " a",
            "a\n",
            "a\x00",
            "é",
            "１",
            "x" * 129,
            "a:b",
            "a@b",
            "a;b",
            None,
            7,
            b"a",
            ["a"],
            {"a": 1},
            True,
        ],
    )
    def test_everything_else_is_not(self, value: object) -> None:
        """What could leave its place in a path, or is no text, is no id."""
        assert safe_id(value) is None

    @given(st.text())
    def test_safe_ids_stay_one_path_segment(self, value: str) -> None:
        """A safe id has no separator, no dot segment and nothing to escape."""
        identifier = safe_id(value)
        if identifier is not None:
            assert identifier.isascii()
            assert not set(identifier) & set("/\\?#%:@; \t\r\n")
            assert ".." not in identifier


class TestRefusals:
    CLASSES: ClassVar[dict[int, type[TransactionlinkError]]] = {
        401: AuthenticationError,
        403: PermissionDenied,
        404: NotFound,
        408: ServerError,
        429: RateLimited,
    }

    @pytest.mark.parametrize("status", range(400, 600))
    def test_every_status_has_its_class(self, status: int) -> None:
        """400-599 map to one class each, by status alone and whatever the body."""
        expected = self.CLASSES.get(status, ServerError if status >= 500 else InvalidRequest)
        bodies = [response(status, refusal_document()), response(status, body=b"<html>", content_type="text/html")]
        errors = [refused(answer) for answer in bodies]
        assert [expected, expected] == [type(error) for error in errors]
        assert [status, status] == [error.status_code for error in errors]

    @pytest.mark.parametrize("status", [100, 199, 300, 301, 302, 307, 308, 399])
    def test_redirect_is_no_answer_to_act_on(self, status: int) -> None:
        """A redirect is never followed: it is an invalid answer, and so an unknown fate for a start."""
        assert InvalidAnswer is type(refused(response(status)))

    def test_message_says_what_to_do(self) -> None:
        """A refused permission is named, an unknown id too, and the fingerprint for the vendor's support."""
        denied = refused(response(403, refusal_document(fingerprint="f00d")))
        assert "lacks the permission can_view for poll of execution e-1 (403)" in str(denied)
        assert "(error fingerprint f00d)" in str(denied)
        assert denied.fingerprint == "f00d"
        assert "does not know execution e-1 (404)" in str(refused(response(404)))
        assert "does not accept the credential (401)" in str(refused(response(401)))

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        ("value", "seconds"), [(None, None), ("7", 7.0), ("Mon, 21 Sep 2026 14:13:30 GMT", 10.0), ("soon", None)]
    )
    def test_retry_after_is_kept(self, status: int, value: str | None, seconds: float | None) -> None:
        """Refusals for now carry the seconds that the service named, as a number or a date."""
        error = refused(response(status, retry_after=value))
        assert isinstance(error, RateLimited | ServerError)
        assert seconds == error.retry_after

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"errors": None, "fingerprint": None},
            {"errors": {}, "fingerprint": 7},
            {"errors": ["x", 3, None, {"code": 4, "message": []}], "fingerprint": []},
            {"errors": [{"code": "x" * 65, "message": ""}], "fingerprint": "x" * 65},
            {"errors": [{"code": "a b"}], "fingerprint": "a\nb"},
            {"errors": [{"code": ""}], "fingerprint": ""},
        ],
    )
    def test_misshapen_error_body_is_ignored(self, body: object) -> None:
        """An error body that is not as documented gives no codes, no fingerprint and no text."""
        error = refused(response(400, body))
        assert (error.codes, error.fingerprint) == ((), None)
        assert text_of_service(error) == ""

    def test_text_is_one_short_line(self) -> None:
        """The service's text is bounded, printable and on one line; at most five errors are read."""
        items = [{"code": f"C{n}", "message": f"m{n}\r\n\x1b[31m\x00 " + "ж" * 200} for n in range(9)]
        error = refused(response(400, {"fingerprint": "f", "errors": items}))
        assert error.codes == ("C0", "C1", "C2", "C3", "C4")
        assert text_of_service(error) == "m0 [31m m1 [31m m2 [31m m3 [31m m4 [31m"
        long = refused(response(400, refusal_document("word " * 1000)))
        assert len(text_of_service(long)) == 300

    def test_endless_text_is_left_out(self) -> None:
        """A message that would take minutes to be rid of thousands of values is not read; the others are."""
        items = [{"code": "C0", "message": "word " * 1_000_000}, {"code": "C1", "message": "short"}]
        error = refused(response(400, {"fingerprint": "f", "errors": items}))
        assert (text_of_service(error), error.codes) == ("short", ("C0", "C1"))

    def test_only_a_refused_request_quotes_the_service(self) -> None:
        """The service's text is repeated for 4xx refusals of the request, and for nothing else."""
        quoting = {
            status
            for status in range(400, 600)
            if "parrot" in str(refused(response(status, refusal_document("parrot"))))
        }
        assert quoting == set(range(400, 500)) - {401, 403, 404, 408, 429}


class TestScrubbing:
    def test_no_planted_value_survives(self) -> None:
        """Personal values that the service repeats are gone: whole, in parts, in other letters, as numbers."""
        echo = " ".join(
            [json.dumps(PARAMETERS), json.dumps(PARAMETERS, ensure_ascii=False), str(PARAMETERS)]
            + [word.upper() + word.lower() for word in PERSONAL]
        )
        document = {
            "fingerprint": PERSONAL[2],
            "errors": [{"code": f"BAD_{word}", "message": f"Value {word} is bad: {echo}"} for word in PERSONAL],
        }
        error = refused(response(400, document), start(PARAMETERS))
        assert found_in(f"{error} {error!r} {vars(error)} {pickle.dumps(error)!r}") == []
        assert "bad" in str(error)

    @pytest.mark.parametrize(
        ("sent", "text"),
        [
            ("Straße", "STRASSE 5"),
            ("STRASSE", "straße 5"),
            ("a b", "a\x00b"),
            ("a b", "a\tb"),
            ("Mary Ann", "mary-ann"),
            ("ﬁnn", "FINN"),
            (1234567.0, "1234567"),
            (12.5, "12.5"),
            (-40, "-40"),
            (["x1", {"deep": ("y2",)}], "x1 y2"),
            ("a.*", "a.*"),
        ],
    )
    def test_value_is_found_in_any_form(self, sent: object, text: str) -> None:
        """Letter case, white space, ligatures and number formats do not hide a value."""
        error = refused(response(400, refusal_document(f"Bad value {text} given")), start({"p": sent}, x="y"))
        told = text_of_service(error).casefold()
        assert told.startswith("bad value") or told == "…"
        for word in (*text.casefold().split(), text.casefold()):
            assert len(word) < 2 or word not in told

    @given(
        sent=st.lists(st.text(min_size=2), min_size=1, max_size=5),
        around=st.lists(st.text(max_size=8), min_size=6, max_size=6),
        change=st.sampled_from([str, str.upper, str.lower, str.swapcase, str.title, str.casefold]),
    )
    @example(sent=["ss"], around=["", "", "", "", "", ""], change=str)
    @example(sent=["aab", "ab"], around=["a", "b", "", "", "", ""], change=str)
    def test_no_sent_value_survives(self, sent: list[str], around: list[str], change: Any) -> None:
        """Law: no value of two or more characters that was sent is in the text, in whatever letter case."""
        assume(all(len(value.strip()) >= 2 for value in sent))
        text = "".join(
            before + change(value) for before, value in zip(around, [*sent, ""] + [""] * (5 - len(sent)), strict=True)
        )
        told = scrubbed(text, sorted(sent, key=len, reverse=True)).casefold()
        assert [value for value in sent if value.casefold() in told] == []

    @given(
        sent=st.lists(st.text(min_size=2), max_size=4),
        message=st.lists(st.text(max_size=12), max_size=4),
    )
    @example(sent=["……", "…."], message=["", "", ""])
    def test_no_sent_value_survives_in_the_message(self, sent: list[str], message: list[str]) -> None:
        """The same law for the message as a whole, after everything unprintable has been taken out of it."""
        assume(all(len(value.strip()) >= 2 for value in sent))
        text = " ".join(value for pair in zip(message, sent, strict=False) for value in pair)
        told = text_of_service(refused(response(400, refusal_document(text)), start(sent))).casefold()
        assert [value for value in sent if value.casefold() in told] == []

    @pytest.mark.parametrize(
        ("code", "sent", "kept"),
        [
            ("DOCUMENT_MISSING", "en", True),
            ("GENDER_INVALID", "M", True),
            ("LOCALE_EN", "en", False),
            ("NAME_ADA_UNKNOWN", "Ada", False),
            ("NAME.ada", "Ada", False),
            ("BADXK4711", "xk4711", False),
            ("xk4711", "XK4711", False),
            ("400", 400, False),
            ("SOME_CODE", "", True),
            ("SOME_CODE", True, True),
        ],
    )
    def test_codes_and_fingerprints_do_not_repeat_values(self, code: str, sent: object, *, kept: bool) -> None:
        """A code or fingerprint in which a sent value can be recognised is dropped; a chance syllable is none."""
        error = refused(response(400, refusal_document(code=code, fingerprint=code)), start({"p": sent}))
        assert (
            ((code,), code) == (error.codes, error.fingerprint)
            if kept
            else (error.codes, error.fingerprint) == ((), None)
        )

    @pytest.mark.parametrize(
        "credential",
        [TOKEN, TOKEN.upper(), f"Bearer {TOKEN}", "bearer opaque-1", "eyJhbGciOiJub25lIn0.e30.c2ln", "b3sk_1"],
    )
    def test_credentials_are_known_by_their_looks(self, credential: str) -> None:
        """A credential that the service repeats is taken out, though the request's body never had it."""
        error = refused(response(400, refusal_document(f"Header {credential} is odd", "tot_1x", "eyJ0")))
        assert text_of_service(error) == "Header … is odd"
        assert (error.codes, error.fingerprint) == ((), None)

    def test_what_is_left_can_be_read(self) -> None:
        """Neither the locale nor a value of one letter makes holes in other words."""
        request = start({"gender": "M", "n": 5}, locale="en")
        error = refused(
            response(400, refusal_document("Gender M is taken when 5 or 50 documents are missing")), request
        )
        assert text_of_service(error) == "Gender … is taken when … or 50 documents are missing"

    def test_what_was_not_sent_stays(self) -> None:
        """Text of the service without any of our values is repeated as it is."""
        error = refused(response(400, refusal_document("Parameter firstName is required")), start({"x": "Ada"}))
        assert text_of_service(error) == "Parameter firstName is required"


def test_builders_speak_the_services_content_type() -> None:
    """The documented content type is what the tests send."""
    assert response().headers["content-type"] == JSON_TYPE
