"""What a verified body is about: read tolerantly, and never more than an id and a word."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webhooks import ID
from tl_orchestration import answers
from tl_orchestration.webhooks import announcement as module
from tl_orchestration.webhooks.announcement import announcement


def about(document: Any, service: str = "transactionlink") -> tuple[str, str]:
    """Id and kind of a body."""
    told = announcement(json.dumps(document).encode(), service)
    return told.execution_id, told.kind


@pytest.mark.parametrize("name", ["workflowId", "workflowExecutionId", "executionId", "id"])
@pytest.mark.parametrize("nesting", [None, "data", "payload", "execution"])
def test_every_known_place(name: str, nesting: str | None) -> None:
    """The id is found under each name that it may have, at the top or nested."""
    document = {name: ID, "type": "WORKFLOW_COMPLETED"}
    assert about(document if nesting is None else {nesting: document}) == (ID, "WORKFLOW_COMPLETED")


def test_event_id_is_not_the_execution() -> None:
    """Where a telling name is there, an `id` is the event's; inside a nested object it is the execution's."""
    assert about({"id": "evt_1", "workflowId": ID})[0] == ID
    assert about({"id": "evt_1", "data": {"id": ID}})[0] == ID


def test_b3os_definition_is_not_the_execution() -> None:
    """B3OS calls the definition workflowId."""
    document = {"eventType": "run.completed", "workflowId": "wf_1", "runId": "run_1", "executionId": "exec_1"}
    assert about(document, "b3os") == ("exec_1", "run.completed")
    assert about({"workflowId": "wf_1", "runId": "run_1"}, "b3os") == ("run_1", "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"workflowId": NaN}',
        b'{"workflowId": "a", "workflowId": "b"}',
        b'{"workflowId": 7}',
        b'{"workflowId": "../x"}',
        b'{"workflowId": "a\\u0000"}',
        b'{"workflowId": "' + b"a" * 129 + b'"}',
        b"[" * 100_000,
        '{"workflowId": "x"}'.encode("utf-16"),
    ],
)
def test_unreadable_is_kept_aside(body: bytes) -> None:
    """What cannot be read in one way names no execution, and still has its digest."""
    told = announcement(body, "transactionlink")
    assert told.execution_id == ""
    assert len(told.digest) == 64


@given(st.binary(max_size=200))
def test_never_fails(body: bytes) -> None:
    """No body makes it fail."""
    announcement(body, "transactionlink")


def test_ids_are_those_of_the_client() -> None:
    """An id that the client could not poll is not kept either: both know the same form."""
    assert module._ID == answers.SAFE_ID
