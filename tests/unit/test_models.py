"""What is to be run is checked before anything is sent, and never shown."""

from __future__ import annotations

import copy
import json
import math
import pickle
import uuid
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import EXECUTION_ID, NOW, execution, handle, run_request, travelled
from tests.planted import PARAMETERS, found_in
from tl_orchestration.errors import InvalidRequest, InvalidSettings
from tl_orchestration.models import LONGEST_EXPIRY, SHORTEST_EXPIRY, Handle, RunRequest
from tl_orchestration.secret import Secret
from tl_orchestration.status import Status

SECRET = "Zephyrinchen"
MOMENT = datetime.fromtimestamp(NOW, UTC)


class Unprintable:
    """A value that nobody may show."""

    def __repr__(self) -> str:
        return SECRET


def nested(depth: int) -> dict[str, Any]:
    """An object in an object in an object."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


class TestValidation:
    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"workflow_definition_id": ""}, "workflow_definition_id"),
            ({"workflow_definition_id": SECRET + "/x"}, "workflow_definition_id"),
            ({"workflow_definition_id": None}, "workflow_definition_id .* not nothing"),
            ({"workflow_definition_id": 7}, "workflow_definition_id .* not an int"),
            ({"parameters": None}, "parameters must be a JSON object .* not nothing"),
            ({"parameters": [SECRET]}, "parameters must be a JSON object .* not a list"),
            ({"parameters": SECRET}, "parameters must be a JSON object .* not a str"),
            ({"parameters": {"a": {"b": [1, {SECRET}]}}}, r"parameters\.a\.b\[1\] is a set"),
            ({"parameters": {"a": SECRET.encode()}}, r"parameters\.a is a bytes"),
            ({"parameters": {"a": Unprintable()}}, r"parameters\.a is an? Unprintable"),
            ({"parameters": {"a": MOMENT}}, r"parameters\.a is a datetime"),
            ({"parameters": {"a": Secret(SECRET)}}, r"parameters\.a is a Secret"),
            ({"parameters": {"a": math.nan}}, r"parameters\.a is not a finite number"),
            ({"parameters": {"a": [math.inf]}}, r"parameters\.a\[0\] is not a finite number"),
            ({"parameters": {"a": -math.inf}}, r"parameters\.a is not a finite number"),
            ({"parameters": {7: SECRET}}, "parameters has a key that is an int"),
            ({"parameters": {"a": {None: SECRET}}}, r"parameters\.a has a key that is nothing"),
            ({"parameters": {"a": SECRET + "\ud800"}}, r"parameters\.a is text with half of a surrogate pair"),
            ({"parameters": {"\udfff": 1}}, "parameters has a key that is text with half of a surrogate pair"),
            ({"parameters": nested(65)}, "nested too deeply"),
            ({"parameters": nested(5000)}, "nested too deeply"),
            ({"parameters": {"a": 10**5000}}, "cannot be written as JSON"),
            ({"parameters": {"a": MappingProxyType({"b": SECRET})}}, "cannot be written as JSON"),
            ({"expires_at": "0001-01-01T00:00:00+14:00"}, "expires_at must lie between"),
            ({"locale": ""}, "locale must be a language tag"),
            ({"locale": None}, "locale must be a language tag"),
            ({"locale": SECRET}, "locale must be a language tag"),
            ({"locale": "en\n"}, "locale must be a language tag"),
            ({"record_id": SECRET}, "record_id must be a UUID"),
            ({"record_id": 7}, "record_id must be a UUID"),
            ({"expires_at": SECRET}, "expires_at is not an ISO 8601 time"),
            ({"expires_at": 1790000000}, "expires_at must be a datetime, not an int"),
            ({"expires_at": "2026-09-21T15:00:00"}, "expires_at has no time zone"),
            ({"expires_at": datetime(2026, 9, 21)}, "expires_at has no time zone"),  # noqa: DTZ001 -- what is refused
            ({"expires_in": SECRET}, "expires_in must be a timedelta or seconds, not a str"),
            ({"expires_in": True}, "expires_in must be a timedelta or seconds, not a bool"),
            ({"expires_in": 60}, "expires_in must be between 30 minutes and 30 days"),
            ({"expires_in": -1}, "expires_in must be between 30 minutes and 30 days"),
            ({"expires_in": timedelta(days=30, seconds=1)}, "expires_in must be between 30 minutes and 30 days"),
            ({"expires_in": math.nan}, "expires_in is not a usable number"),
            ({"expires_in": math.inf}, "expires_in is not a usable number"),
            ({"expires_in": 1e300}, "expires_in is not a usable number"),
            ({"expires_in": 3600, "expires_at": MOMENT}, "Give expires_at or expires_in, not both"),
        ],
    )
    def test_what_is_wrong_is_named_and_never_quoted(self, fields: dict[str, Any], says: str) -> None:
        """A wrong field is InvalidRequest; the message has its name and type, never its value."""
        with pytest.raises(InvalidRequest, match=says) as caught:
            run_request(**fields)
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"workflow_definition_id": " kyc-approve\n"}, {"workflow_definition_id": "kyc-approve"}),
            ({"locale": "pt-BR"}, {"locale": "pt-BR"}),
            ({"locale": "zh_Hant_TW"}, {"locale": "zh_Hant_TW"}),
            ({"record_id": EXECUTION_ID.upper()}, {"record_id": EXECUTION_ID}),
            ({"record_id": uuid.UUID(EXECUTION_ID)}, {"record_id": EXECUTION_ID}),
            ({"expires_in": 1800}, {"expires_in": timedelta(minutes=30)}),
            ({"expires_in": timedelta(days=30)}, {"expires_in": timedelta(days=30)}),
            ({"expires_at": "2026-09-21T17:00:00+02:00"}, {"expires_at": datetime(2026, 9, 21, 15, tzinfo=UTC)}),
            ({"parameters": nested(64)}, {"parameters": nested(64)}),
            ({"parameters": {"a": (1, None, True, "𝒵")}}, {"parameters": {"a": [1, None, True, "𝒵"]}}),
            ({"parameters": MappingProxyType({"a": 1})}, {"parameters": {"a": 1}}),
        ],
    )
    def test_what_is_right_is_normalised(self, fields: dict[str, Any], expected: dict[str, Any]) -> None:
        """Right values are taken, in one form."""
        request = run_request(**fields)
        assert expected == {name: getattr(request, name) for name in expected}

    def test_defaults(self) -> None:
        """A definition is enough."""
        request = RunRequest("kyc-approve")
        assert (
            request.parameters,
            request.locale,
            request.expires_at,
            request.expires_in,
            request.record_id,
        ) == ({}, "en", None, None, None)


class TestParameters:
    def test_are_copied_deeply(self) -> None:
        """What the caller does to his objects later does not reach the request."""
        mine: dict[str, Any] = {"person": {"names": ["Ada"]}}
        request = run_request(parameters=mine)
        mine["person"]["names"].append("Grace")
        mine["more"] = 1
        assert request.parameters == {"person": {"names": ["Ada"]}}

    def test_are_not_in_the_repr(self) -> None:
        """repr and str say how many parameters there are, and not one of them."""
        request = run_request(parameters=PARAMETERS)
        assert "<3 keys>" in repr(request)
        assert found_in(f"{request} {request!r} {[request]}") == []
        assert "firstName" not in repr(request)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        )
    )
    def test_every_accepted_value_can_be_sent(self, value: object) -> None:
        """What the check lets through is JSON and UTF-8, and is sent as it was given."""
        try:
            request = run_request(parameters={"value": value})
        except InvalidRequest:
            return
        sent = json.dumps(dict(request.parameters), ensure_ascii=False, allow_nan=False).encode("utf-8")
        assert {"value": value} == json.loads(sent)


class TestExpiry:
    @given(timeout=st.floats(allow_nan=False), expires_in=st.none() | st.timedeltas(SHORTEST_EXPIRY, LONGEST_EXPIRY))
    def test_is_always_what_the_service_accepts(self, timeout: float, expires_in: timedelta | None) -> None:
        """Law: for any timeout the expiry lies between 30 minutes and 30 days from the start."""
        expiry = run_request(expires_in=expires_in).expiry(NOW, timeout)
        assert SHORTEST_EXPIRY <= expiry - MOMENT <= LONGEST_EXPIRY
        assert UTC is expiry.tzinfo

    @pytest.mark.parametrize(
        ("fields", "timeout", "seconds"),
        [
            ({}, 60, 1805),
            ({}, 7200, 7200),
            ({}, 90 * 86400, 30 * 86400 - 5),
            ({"expires_in": 3600}, 60, 3600),
            ({"expires_in": 1800}, 7200, 1805),
            ({"expires_at": MOMENT + timedelta(hours=2)}, 60, 7200),
        ],
    )
    def test_follows_the_request_then_the_timeout(self, fields: dict[str, Any], timeout: float, seconds: float) -> None:
        """The request's own expiry wins; without one it is the timeout, clamped with a margin for clocks."""
        assert MOMENT + timedelta(seconds=seconds) == run_request(**fields).expiry(NOW, timeout)

    @pytest.mark.parametrize("seconds", [-1, 0, 1799, 1804, 30 * 86400 - 4, 30 * 86400 + 1])
    def test_moment_out_of_bounds_is_refused(self, seconds: float) -> None:
        """A moment that the service would refuse is refused before anything is sent."""
        request = run_request(expires_at=MOMENT + timedelta(seconds=seconds))
        with pytest.raises(InvalidRequest, match="between 30 minutes and 30 days from now"):
            request.expiry(NOW, 3600)

    def test_zone_does_not_matter(self) -> None:
        """The same instant in two zones is the same expiry."""
        there = (MOMENT + timedelta(hours=1)).astimezone(timezone(timedelta(hours=-7)))
        assert run_request(expires_at=MOMENT + timedelta(hours=1)) == run_request(expires_at=there)


class TestHandle:
    @pytest.mark.parametrize(
        "one",
        [
            Handle(execution_id="e-1"),
            handle(key="dag/run/task", deadline=NOW + 0.125, expires_at=NOW, service="b3os"),
        ],
    )
    def test_survives_json(self, one: Handle) -> None:
        """A handle comes back from JSON as it went."""
        assert one == Handle.from_dict(json.loads(json.dumps(one.to_dict())))

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 2},
            {"format": None},
            {"format": "1"},
            {"format": True},
            {"execution_id": None},
            {"execution_id": "../x"},
            {"execution_id": 7},
            {"service": None},
            {"key": 7},
            {"deadline": "soon"},
            {"deadline": True},
            {"deadline": math.nan},
            {"deadline": math.inf},
            {"deadline": 10**400},
            {"deadline": 1e300},
            {"deadline": -1.0},
            {"expires_at": []},
            {"owned": "false"},
            {"owned": None},
            {"owned": 1},
            {"polled": 1},
        ],
    )
    def test_unknown_or_broken_document_is_refused(self, change: dict[str, Any]) -> None:
        """A document that is not exactly a handle fails closed: no deadline is lost, no ownership invented."""
        with pytest.raises(InvalidRequest, match="A handle has"):
            Handle.from_dict(handle().to_dict() | change)

    @pytest.mark.parametrize("document", [None, [], "handle", 7, {}])
    def test_what_is_no_document_is_refused(self, document: object) -> None:
        """Only a document is read."""
        with pytest.raises(InvalidRequest, match="A handle has format"):
            Handle.from_dict(document)

    @pytest.mark.parametrize("later", [{}, {"api_version": 2}, {"polled": True}])
    def test_first_format_still_loads(self, later: dict[str, object]) -> None:
        """A document as the first version wrote it, to the letter, and with what has come since."""
        document = {
            "format": 1,
            "execution_id": "e-1",
            "service": "transactionlink-legacy",
            "key": "k",
            "deadline": 3.5,
            "expires_at": None,
            "owned": True,
            **later,
        }
        assert Handle.from_dict(json.loads(json.dumps(document))).to_dict() == document

    def test_ownership_must_be_said(self) -> None:
        """A handle that does not say whose the execution is, is nobody's."""
        assert not Handle.from_dict({"format": 1, "execution_id": "e-1"}).owned


class TestExecution:
    def test_link_and_token_do_not_travel(self) -> None:
        """Pickling and copying lose link and token, keep the rest, and say so when the lost are asked for."""
        original = execution(link=Secret("https://x/?token=t"), token=Secret("t-123"), name="kyc-review")
        for other in (travelled(original), copy.deepcopy(original)):
            assert (original.id, original.handle, original.name) == (other.id, other.handle, other.name)
            assert other.is_interactive
            for lost in (other.link, other.token):
                assert lost is not None
                with pytest.raises(InvalidSettings, match="did not travel"):
                    lost.reveal()
        assert b"t-123" not in pickle.dumps(original)

    def test_link_and_token_are_not_shown(self) -> None:
        """repr and str show neither link nor token."""
        original = execution(link=Secret("https://x/?token=t"), token=Secret("t-123"))
        assert "t-123" not in f"{original} {original!r} {original.link} {original.token:>40}"
        assert "token=t" not in f"{original} {original!r} {original.link}"

    @pytest.mark.parametrize(
        ("fields", "interactive"),
        [({}, False), ({"link": Secret("l")}, True), ({"token": Secret("t")}, True)],
    )
    def test_interactive_means_a_page_for_a_person(self, fields: dict[str, Any], *, interactive: bool) -> None:
        """An execution is interactive if it has a link or a token, whatever its type is called."""
        assert interactive is execution(**fields).is_interactive

    @pytest.mark.parametrize("status", Status)
    def test_has_ended_as_its_status_says(self, status: Status) -> None:
        """is_terminal is the status's."""
        assert status.is_terminal is execution(status).is_terminal
