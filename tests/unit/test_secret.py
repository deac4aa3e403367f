"""A secret cannot be printed by accident."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest

from tests.builders import travelled
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.secret import Secret

VALUE = "tot_PLANTED-secret"


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        "{}".format,
        "{!r:>40}".format,
        "{:s}".format,
        "%s".__mod__,
        lambda secret: f"{secret} {secret!r} {secret!s} {secret:10}",
        lambda secret: repr([secret, {"a": secret}]),
        lambda secret: str(vars(secret)) if hasattr(secret, "__dict__") else "",
        lambda secret: logging.LogRecord("n", 10, "p", 1, "%s", (secret,), None).getMessage(),
        lambda secret: str(pickle.dumps(secret)),
    ],
)
def test_no_rendering_shows_the_value(show: object) -> None:
    """Every way of turning it into text gives the mask."""
    assert callable(show)
    assert VALUE not in str(show(Secret(VALUE)))


def test_value_is_there_for_whoever_asks() -> None:
    """reveal gives the value."""
    assert Secret(VALUE).reveal() == VALUE


def test_cannot_be_serialised_or_taken_apart() -> None:
    """JSON, iteration and list() refuse, without naming the value."""
    with pytest.raises(TypeError) as caught:
        json.dumps(Secret(VALUE))
    assert VALUE not in str(caught.value)
    with pytest.raises(TypeError, match="not a sequence"):
        list(Secret(VALUE))


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, travelled])
def test_value_does_not_travel(travel: object) -> None:
    """Pickle and copy lose the value; asking for it then says why."""
    assert callable(travel)
    lost = travel(Secret(VALUE))
    assert isinstance(lost, Secret)
    with pytest.raises(InvalidSettings, match="did not travel"):
        lost.reveal()


def test_equality_is_by_value_and_hash_tells_nothing() -> None:
    """Equal values are equal secrets; the hash is the same for all."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("b"))
