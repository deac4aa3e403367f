"""What only one service takes is checked before anything is sent, and never shown."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from tests.builders import OTHER_ID, handle, run_request
from tests.planted import DOCUMENT_NUMBER, FIRST_NAME, LAST_NAME, found_in
from tl_orchestration import B3osOptions, LegacyOptions
from tl_orchestration.errors import InvalidRequest
from tl_orchestration.fingerprint import fingerprint
from tl_orchestration.models import Handle, RunRequest
from tl_orchestration.options import CaseDocument, options_for

PERSON: dict[str, Any] = {
    "first_name": FIRST_NAME,
    "last_name": LAST_NAME,
    "personal_number": DOCUMENT_NUMBER,
    "phone": ("+370", DOCUMENT_NUMBER),
    "documents": [{"resource_id": DOCUMENT_NUMBER, "resource_name": LAST_NAME}],
}
B3OS = {"source_system": "s", "source_entity_type": "t"}


class TestLegacyOptions:
    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"case_id": FIRST_NAME}, "case_id must be a UUID"),
            ({"case_id": OTHER_ID, "first_name": FIRST_NAME}, "case_id, or fields to make a case from"),
            ({"case_id": OTHER_ID, "documents": [CaseDocument(resource_id="r")]}, "case_id, or fields"),
            ({"first_name": ""}, "first_name must be text that is not empty"),
            ({"first_name": "  "}, "first_name must be text that is not empty"),
            ({"last_name": [FIRST_NAME]}, "last_name must be text .* not a list"),
            ({"email": True}, "email must be text .* not a bool"),
            ({"personal_number": 1.5}, "personal_number must be text .* not a float"),
            ({"company_name": "\ud800"}, "half of a surrogate pair"),
            ({"phone": FIRST_NAME}, "phone must be a pair"),
            ({"phone": ("+370",)}, "phone must be a pair"),
            ({"phone": ("+370", None)}, "phone must be a pair"),
            ({"phone": ("+370", "")}, r"phone\[1\] must be text"),
            ({"documents": FIRST_NAME}, "documents must be a list"),
            ({"documents": {"resource_id": FIRST_NAME}}, "documents must be a list"),
            ({"documents": [FIRST_NAME]}, r"documents\[0\] must have resource_id, resource_name, resource_path"),
            ({"documents": [{}, {"resourceId": FIRST_NAME}]}, r"documents\[1\] must have"),
            ({"documents": [{"resource_id": 1.5}]}, "resource_id must be text"),
        ],
    )
    def test_wrong_field_is_named_and_not_shown(self, fields: dict[str, Any], says: str) -> None:
        """The message names the field and the kind of value."""
        with pytest.raises(InvalidRequest, match=says) as caught:
            LegacyOptions(**fields)
        assert found_in(str(caught.value)) == []

    def test_person_is_not_shown(self) -> None:
        """repr says which fields are there, and no more."""
        options = LegacyOptions(**PERSON)
        assert found_in(f"{options} {options!r} {run_request(options=options)!r} {options.documents!r}") == []

    def test_survives_a_trip(self) -> None:
        """A request may be pickled by whoever runs it elsewhere."""
        options = LegacyOptions(**PERSON)
        assert options == pickle.loads(pickle.dumps(options)) == copy.deepcopy(options)  # noqa: S301 -- our own

    def test_document_as_value_or_dict(self) -> None:
        """Both are the same."""
        assert LegacyOptions(documents=[{"resource_id": "r"}]) == LegacyOptions(
            documents=(CaseDocument(resource_id="r"),)
        )


class TestB3osOptions:
    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"source_system": None}, "source_system is required"),
            ({"source_system": ""}, "source_system must be text"),
            ({"source_entity_type": None}, "source_entity_type is required"),
            ({"source_entity_id": ""}, "source_entity_id must be text"),
            ({"external_ref": 1.5}, "external_ref must be text"),
            ({"client_safe_metadata": FIRST_NAME}, "client_safe_metadata must be a JSON object"),
            ({"client_safe_metadata": {"a": {FIRST_NAME}}}, r"client_safe_metadata\.a is a set"),
        ],
    )
    def test_wrong_field_is_named_and_not_shown(self, fields: dict[str, Any], says: str) -> None:
        """The message names the field and the kind of value."""
        with pytest.raises(InvalidRequest, match=says) as caught:
            B3osOptions(**{**B3OS, **fields})
        assert found_in(str(caught.value)) == []

    def test_metadata_is_copied_and_not_shown(self) -> None:
        """What the caller changes afterwards changes nothing here."""
        metadata = {"name": [FIRST_NAME]}
        options = B3osOptions(**B3OS, client_safe_metadata=metadata)
        metadata["name"].append("x")
        assert options.client_safe_metadata == {"name": [FIRST_NAME]}
        assert found_in(repr(options)) == []


class TestRequest:
    @pytest.mark.parametrize("options", [{}, {"case_id": OTHER_ID}, "text", 7])
    def test_options_are_one_of_two(self, options: Any) -> None:
        """A dict is not guessed at."""
        with pytest.raises(InvalidRequest, match="options must be LegacyOptions or B3osOptions"):
            run_request(options=options)

    def test_fingerprint_counts_them(self) -> None:
        """Another person, another entity: another request. No options: the digest of before."""
        requests: list[RunRequest] = [
            run_request(),
            run_request(options=LegacyOptions()),
            run_request(options=LegacyOptions(first_name="Ada")),
            run_request(options=LegacyOptions(first_name="Bob")),
            run_request(options=LegacyOptions(case_id=OTHER_ID)),
            run_request(options=B3osOptions(**B3OS)),
            run_request(options=B3osOptions(**B3OS, source_entity_id="7")),
            run_request(options=B3osOptions(**B3OS, client_safe_metadata={})),
        ]
        assert len(requests) == len({fingerprint(request, b"secret").digest for request in requests})
        assert fingerprint(requests[2], b"secret") == fingerprint(
            run_request(options=LegacyOptions(first_name="Ada")), b"secret"
        )


class TestOptionsFor:
    LEGACY, B3, CURRENT = "transactionlink-legacy", "b3os", "transactionlink"

    def test_fields_become_the_services_own_kind(self) -> None:
        """A dict from a DAG or a file, or a value that is ready."""
        assert options_for(self.LEGACY, PERSON, "options") == LegacyOptions(**PERSON)
        assert options_for(self.B3, B3OS, "options") == B3osOptions(**B3OS)
        ready = B3osOptions(**B3OS)
        assert options_for(self.B3, ready, "options") is ready

    def test_none_is_none_where_the_service_needs_none(self) -> None:
        """Neither Transactionlink API needs options."""
        assert [options_for(service, None, "options") for service in (self.CURRENT, self.LEGACY)] == [None, None]

    @pytest.mark.parametrize(
        ("service", "given", "says"),
        [
            (CURRENT, PERSON, "transactionlink takes no service_options"),
            (CURRENT, LegacyOptions(), "transactionlink takes no service_options"),
            (LEGACY, B3osOptions(**B3OS), "takes LegacyOptions as its service_options, not B3osOptions"),
            (B3, LegacyOptions(**PERSON), "takes B3osOptions as its service_options, not LegacyOptions"),
            (LEGACY, B3OS, "have no source_entity_type, source_system; known are: case_id, first_name"),
            (B3, {**B3OS, "first_name": FIRST_NAME}, "have no first_name"),
            (B3, None, "b3os needs service_options with source_system and source_entity_type"),
            (B3, {"source_system": "airflow"}, "source_entity_type is required"),
            (LEGACY, [FIRST_NAME], "must be a dict or LegacyOptions, not a list"),
            (LEGACY, {**PERSON, "email": {"address": LAST_NAME}}, "email must be text"),
        ],
    )
    def test_what_does_not_fit_is_said_without_a_value(self, service: str, given: Any, says: str) -> None:
        """The service, the argument and the field are named."""
        with pytest.raises(InvalidRequest) as caught:
            options_for(service, given, "service_options")
        assert says in str(caught.value)
        assert found_in(str(caught.value)) == []


class TestHandle:
    @pytest.mark.parametrize("version", [None, 1, 2])
    def test_api_version_travels(self, version: int | None) -> None:
        """And is absent where there is none, as in handles of before."""
        one = handle(api_version=version)
        assert one == Handle.from_dict(one.to_dict())
        assert (version is None) is ("api_version" not in one.to_dict())

    @pytest.mark.parametrize("version", ["1", True, 1.0, [1]])
    def test_wrong_version_is_refused(self, version: object) -> None:
        """A handle is not trusted."""
        with pytest.raises(InvalidRequest, match="wrong type"):
            Handle.from_dict(handle().to_dict() | {"api_version": version})
