"""A fingerprint tells whether two requests are the same, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import EXECUTION_ID, OTHER_ID, run_request
from tests.planted import PARAMETERS, PERSONAL, found_in
from tl_orchestration.fingerprint import Fingerprint, fingerprint

SECRET = b"tot_one"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"parameters": {"b": 2, "a": {"d": [1, 2], "c": "x"}}}, True),
        ({"locale": "fr"}, True),
        ({"expires_in": timedelta(hours=3)}, True),
        ({"workflow_definition_id": "kyc-reject"}, False),
        ({"record_id": OTHER_ID}, False),
        ({"record_id": None}, False),
        ({"parameters": {}}, False),
        ({"parameters": {"a": {"c": "x", "d": [2, 1]}, "b": 2}}, False),
        ({"parameters": {"a": {"c": "x", "d": [1, 2]}, "b": "2"}}, False),
        ({"parameters": {"a": {"c": "X", "d": [1, 2]}, "b": 2}}, False),
        ({"parameters": {"a": {"c": "x", "d": [1, 2]}, "b": 2, "e": None}}, False),
    ],
)
def test_definition_record_and_parameters_count(change: dict[str, Any], *, same: bool) -> None:
    """The same request has the same digest whatever the order of keys; locale and expiry do not count."""
    original = {"record_id": EXECUTION_ID, "parameters": {"a": {"c": "x", "d": [1, 2]}, "b": 2}}
    one = fingerprint(run_request(**original), SECRET)
    other = fingerprint(run_request(**original | change), SECRET)
    assert same is (one == other)
    assert (not same) is other.differs_from(one.digest, one.key_id)


@given(
    one=st.dictionaries(texts, st.integers() | texts, max_size=3),
    two=st.dictionaries(texts, st.integers() | texts, max_size=3),
)
def test_other_parameters_are_another_digest(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Law: digests are equal exactly if the parameters are."""
    first, second = (fingerprint(run_request(parameters=parameters), SECRET) for parameters in (one, two))
    assert (one == two) is (first.digest == second.digest)


def test_rotated_key_makes_it_incomparable() -> None:
    """Another credential gives another digest and another key id, and then nothing is said to differ."""
    old, new = fingerprint(run_request(), SECRET), fingerprint(run_request(), b"tot_two")
    assert old.digest != new.digest
    assert old.key_id != new.key_id
    assert not new.differs_from(old.digest, old.key_id)
    assert not fingerprint(run_request(record_id=OTHER_ID), b"tot_two").differs_from(old.digest, old.key_id)


def test_what_was_not_recorded_does_not_differ() -> None:
    """Without a recorded digest nothing can be said to differ."""
    own = fingerprint(run_request(), SECRET)
    assert not own.differs_from(None, None)
    assert not own.differs_from(None, own.key_id)
    assert not own.differs_from("ab" * 32, None)


def test_shows_neither_key_nor_content() -> None:
    """Digest and key id are hexadecimal, of fixed length, and not a plain hash of the content or the key."""
    own = fingerprint(run_request(parameters=PARAMETERS), SECRET)
    assert (len(own.digest), len(own.key_id)) == (64, 16)
    assert set(own.digest + own.key_id) <= set("0123456789abcdef")
    assert found_in(repr(own), PERSONAL) == []
    assert Fingerprint(own.digest, own.key_id) == fingerprint(run_request(parameters=PARAMETERS), SECRET)
