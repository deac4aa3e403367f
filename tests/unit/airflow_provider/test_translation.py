"""
What the adapter translates: connections, events, errors, rendered values.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import Connection
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider import connection_form
from airflow_provider.events import Ending, WaitEvent
from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry, after_waiting, reported
from airflow_provider.hooks import TransactionlinkHook, client_arguments
from airflow_provider.redaction import Withheld
from airflow_provider.versions import AirflowException, AirflowFailException
from airflow_provider.waiting import check_event
from tl_orchestration import Client, errors
from tl_orchestration.errors import InvalidAnswer, InvalidSettings, TransactionlinkError
from tl_orchestration.status import Status


def connection(**fields: Any) -> Connection:
    chosen: dict[str, Any] = {
        "conn_id": "kyc",
        "conn_type": "transactionlink",
        "host": "https://api.transactionlink.io",
        "password": "tot_planted-secret",
        **fields,
    }
    if isinstance(chosen.get("extra"), dict):
        chosen["extra"] = json.dumps(chosen["extra"])
    return Connection(**chosen)


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("https://api.transactionlink.io", None, "https://api.transactionlink.io"),
        ("api.transactionlink.io", None, "https://api.transactionlink.io"),
        ("api.transactionlink.io", 8443, "https://api.transactionlink.io:8443"),
        ("http://127.0.0.1", 8321, "http://127.0.0.1:8321"),
        ("http://127.0.0.1:8321", None, "http://127.0.0.1:8321"),
        ("http://127.0.0.1:8321", 9000, "http://127.0.0.1:8321"),
        (None, None, "https://api.transactionlink.io"),
    ],
)
def test_host_of_a_connection_becomes_the_base_url(host: str | None, port: int | None, expected: str) -> None:
    """A host with or without scheme and port, from a form or a URI, is one base URL; none is the vendor's."""
    with Client(**client_arguments(connection(host=host, port=port))) as client:
        assert client.base_url == expected


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"conn_type": "http"}, "is of type 'http'"),
        ({"password": None}, "has no token"),
        ({"password": "two words"}, "white space"),
        ({"extra": "{not json"}, "is not a JSON object"),
        ({"extra": "[]"}, "is not a JSON object"),
        ({"extra": {"request_timeout": "soon"}}, "wrong type"),
        ({"extra": {"max_connections": 0}}, "max_connections must be greater than zero"),
        ({"extra": {"status_map": {"ON_HOLD": "LATER"}}}, "status_map must map"),
        ({"extra": {"ca_bundle": "/no/such/file.pem"}}, "/no/such/file.pem"),
        ({"extra": {"service": "teleport"}}, "There is no service 'teleport'"),
        ({"host": "https://example.org"}, "not on the allow-list"),
        ({"host": "http://api.transactionlink.io"}, "must be called by https"),
        ({"host": "https://user:planted-secret@api.transactionlink.io"}, "must not carry a user name"),
    ],
)
def test_unusable_connection_is_said_in_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    """A connection that cannot be used is refused before anything is sent, without its secret."""
    with pytest.raises(InvalidSettings) as caught:
        Client(**client_arguments(connection(**fields)))
    assert sentence in str(caught.value)
    assert "planted-secret" not in str(caught.value)


def test_extra_fields_reach_the_settings_and_the_task_adds_to_the_status_map() -> None:
    """Every setting of the form has a place, whether a number came as text or not; the task's words win."""
    extra = {
        "workspace_id": "w",
        "request_timeout": "12.5",
        "max_connections": "3",
        "proxy": "http://proxy.internal:3128",
        "status_map": '{"ON_HOLD": "WAITING", "HALTED": "FAILED"}',
    }

    settings = client_arguments(connection(extra=extra), {"HALTED": "cancelled"})["settings"]

    assert (settings.workspace_id, settings.request_timeout, settings.max_connections) == ("w", 12.5, 3)
    assert settings.proxy == "http://proxy.internal:3128"
    assert settings.status_map == {"ON_HOLD": Status.WAITING, "HALTED": Status.CANCELLED}
    assert "proxy.internal" not in repr(settings)


def test_form_is_the_same_in_both_places() -> None:
    """What Airflow 3.1 asks the hook is what later versions read from the provider info."""
    from airflow_provider.provider_info import get_provider_info

    (declared,) = get_provider_info()["connection-types"]

    assert declared["hook-class-name"] == f"{TransactionlinkHook.__module__}.{TransactionlinkHook.__qualname__}"
    assert declared["connection-type"] == TransactionlinkHook.conn_type
    behaviour = TransactionlinkHook.get_ui_field_behaviour()
    assert declared["ui-field-behaviour"] == {
        "hidden-fields": behaviour["hidden_fields"],
        "relabeling": behaviour["relabeling"],
        "placeholders": behaviour["placeholders"],
    }
    assert declared["conn-fields"] is connection_form.FIELDS
    assert all({"label", "description", "schema"} <= set(form_field) for form_field in connection_form.FIELDS.values())


def test_provider_info_fits_airflows_schema() -> None:
    """Airflow refuses a provider whose info does not fit its schema."""
    from pathlib import Path

    import airflow
    from jsonschema import validate  # type: ignore[import-untyped]  # Airflow brings it, without types

    from airflow_provider.provider_info import get_provider_info

    (airflow_file,) = (Path(path) for path in airflow.__path__ if (Path(path) / "provider_info.schema.json").exists())
    schema = json.loads((airflow_file / "provider_info.schema.json").read_text())

    validate(get_provider_info(), schema)


@given(
    st.builds(
        WaitEvent,
        ending=st.sampled_from(Ending),
        execution_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}", fullmatch=True),
        raw_status=st.none() | st.text(max_size=10),
        error=st.none() | st.just("NoAnswer"),
        status_code=st.none() | st.integers(400, 599),
        deadline=st.none() | st.floats(0, 4e9),
        expires_at=st.none() | st.floats(0, 4e9),
        service=st.sampled_from(["transactionlink", "transactionlink-legacy", "b3os"]),
        api_version=st.none() | st.integers(1, 2),
    )
)
def test_event_survives_the_way_through_the_database(event: WaitEvent) -> None:
    """An event that went through JSON is the event that was sent."""
    assert WaitEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_event_of_the_first_release_still_resumes() -> None:
    """An event without service and version, from before they were told, is one of the current service."""
    event = WaitEvent.from_dict({"format": 1, "ending": "ended", "execution_id": "e"})
    assert (event.service, event.api_version) == ("transactionlink", None)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        {},
        "ended",
        [],
        {"format": 2, "ending": "ended", "execution_id": "e"},
        {"format": 1, "ending": "success", "execution_id": "e"},
        {"format": 1, "ending": "ended"},
        {"format": 1, "ending": "ended", "execution_id": "../e"},
        {"format": 1, "ending": "ended", "execution_id": 7},
        {"format": 1, "ending": "failed", "execution_id": "e", "error": 7},
        {"format": 1, "ending": "deadline", "execution_id": "e", "deadline": "soon"},
        {"format": 1, "ending": "deadline", "execution_id": "e", "deadline": float("nan")},
        {"format": 1, "ending": "deadline", "execution_id": "e", "deadline": 10**400},
        {"format": 1, "ending": "failed", "execution_id": "e", "status_code": True},
        {"format": True, "ending": "ended", "execution_id": "e"},
        {"format": 1, "ending": "ended", "execution_id": "e", "service": 7},
        {"format": 1, "ending": "ended", "execution_id": "e", "api_version": "1"},
        {"status": "success", "execution_id": "e"},
    ],
)
def test_event_that_is_not_understood_is_refused(payload: Any) -> None:
    """An event of another format, kind or shape is an error, never a success."""
    with pytest.raises(InvalidAnswer, match="does not understand"):
        WaitEvent.from_dict(payload)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "TransactionlinkError"])
def test_every_error_becomes_a_retry_or_an_end(name: str) -> None:
    """An error that a retry cannot mend ends the task; the others are retried. The sentence stays the message."""
    kind: type[TransactionlinkError] = getattr(errors, name)

    with pytest.raises(AirflowException) as caught, reported():
        raise kind("What happened, to which execution, what to do.")

    assert isinstance(caught.value, AirflowFailException) is not kind.retryable
    assert isinstance(caught.value, TransactionlinkRetry) is kind.retryable
    assert str(caught.value).startswith("What happened, to which execution, what to do.")
    assert ("clear the task" in str(caught.value)) is (name == "StartOutcomeUnknown")
    assert caught.value.__cause__ is None


def test_ending_without_success_is_retried_only_where_that_is_asked_for() -> None:
    """retry_failed turns a failed execution into something that the next try may do again."""
    with pytest.raises(TransactionlinkFailure), reported():
        raise errors.ExecutionFailed("ended")
    with pytest.raises(TransactionlinkRetry), reported(retry_endings=True):
        raise errors.ExecutionFailed("ended")


def test_refused_credential_ends_a_start_and_not_an_execution() -> None:
    """A 401 before anything was started ends the task; one about an execution that runs is a reason to come back."""
    with pytest.raises(TransactionlinkFailure), reported():
        raise errors.AuthenticationError("refused")
    with pytest.raises(TransactionlinkRetry, match="execution e-1"), reported():
        raise errors.AuthenticationError("refused").about("e-1")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("PermissionDenied", TransactionlinkFailure),
        ("NotFound", TransactionlinkFailure),
        ("AuthenticationError", TransactionlinkRetry),
        ("InvalidSettings", TransactionlinkRetry),
        ("ServerError", TransactionlinkRetry),
        ("OSError", TransactionlinkRetry),
        (None, TransactionlinkRetry),
    ],
)
def test_what_the_triggerer_gave_up_with(error: str | None, kind: type[Exception]) -> None:
    """What was waited for goes on: a credential or a connection may be mended by the next try."""
    assert after_waiting(error) is kind


@pytest.mark.parametrize("error", ["AuthenticationError", "InvalidSettings"])
def test_wrong_credential_starts_no_second_execution(error: str) -> None:
    """A step that is kept nowhere would start anew while the first execution goes on."""
    said = WaitEvent(ending=Ending.FAILED, execution_id="e-1", error=error)
    with pytest.raises(TransactionlinkFailure, match="starts another one"):
        check_event(said, recorded=False)
    with pytest.raises(TransactionlinkRetry, match="goes on waiting for it"):
        check_event(said)


@given(st.dictionaries(st.text(), st.text(min_size=1)) | st.text() | st.lists(st.text()))
def test_withheld_value_shows_keys_only(value: Any) -> None:
    """What Airflow can store of a withheld value has its keys, and no value."""
    hidden = Withheld(value)

    shown = {json.dumps(hidden.serialize()), repr(hidden), str(hidden), f"{hidden}"}

    expected = dict.fromkeys(value, "***") if isinstance(value, dict) else "***"
    assert hidden.serialize() == expected
    assert hidden.reveal() == value
    assert all(text in {json.dumps(expected), f"Withheld({expected!r})"} for text in shown)


@pytest.mark.parametrize(
    ("index", "mapped", "key"), [(-1, False, "d/r/t"), (None, False, "d/r/t"), (0, True, "d/r/t[0]")]
)
def test_first_element_of_a_mapped_task_is_one(index: int | None, mapped: bool, key: str) -> None:
    """Index 0 is an element like any other; -1 and none are a task that is not mapped."""
    from types import SimpleNamespace

    from airflow_provider import identity

    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=index, max_tries=2)

    assert identity.is_mapped(ti) is mapped
    assert identity.step_key(ti) == key
    assert identity.generation(ti) == "2"
