"""Errors are data: picklable, one line, thin, and in one tree."""

from __future__ import annotations

import builtins
import pickle
import re
from typing import Any

import pytest

import tl_orchestration.errors as errors
from tests.builders import travelled
from tl_orchestration.errors import TransactionlinkError

FIELDS: dict[str, Any] = {
    "execution_id": "e-1",
    "status_code": 418,
    "codes": ("A", "B"),
    "fingerprint": "f00d",
}
#: What a class carries besides; none of them the default.
OWN_FIELDS: dict[str, dict[str, Any]] = {
    "NoAnswer": {"sent": False, "overdue": True},
    "RateLimited": {"retry_after": 2.5},
    "ServerError": {"retry_after": 7.0},
    "RequestChanged": {"what": "what happened"},
    "StartOutcomeUnknown": {"key": "dag/run/task", "what": "what happened", "correlation_id": "tl-1"},
    "WaitTimeout": {"raw_status": "RUNNING", "result_available": True, "cancelled": True},
}
RETRYABLE = {
    "InvalidAnswer",
    "LedgerError",
    "LinkNotDelivered",
    "NoAnswer",
    "NotCancellableYet",
    "RateLimited",
    "ResultNotReady",
    "ServerError",
    "StorageFailed",
    "WaitInterrupted",
}


def subclasses(cls: type) -> set[type]:
    """All classes below one, at any depth."""
    direct: list[type] = cls.__subclasses__()
    return set(direct).union(*(subclasses(one) for one in direct))


def full(name: str) -> TransactionlinkError:
    """An error of that class with every field set."""
    error = getattr(errors, name)("It broke.", **FIELDS, **OWN_FIELDS.get(name, {}))
    assert isinstance(error, TransactionlinkError)
    return error


def drawn_tree() -> dict[str, str]:
    """Name -> parent, as the module's docstring draws it."""
    parents: list[str] = []
    tree: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ((?:│   |    |├── |└── )*)(\w+)(?: .*)?", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        del parents[depth:]
        if depth:
            tree[match[2]] = parents[-1]
        parents.append(match[2])
    return tree


def test_public_names_are_sorted_and_complete() -> None:
    """__all__ names every class of the module, in order."""
    assert sorted(errors.__all__) == errors.__all__
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)


def test_tree_is_as_drawn() -> None:
    """The tree in the docstring is the tree of the classes."""
    below = {cls for cls in subclasses(TransactionlinkError) if cls.__module__ == errors.__name__}
    actual = {cls.__name__: cls.__bases__[0].__name__ for cls in below}
    assert actual == drawn_tree()


@pytest.mark.parametrize("name", errors.__all__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_every_field(name: str, protocol: int) -> None:
    """An error crosses a process boundary with its class, its message and all of its fields."""
    error = full(name).about("e-1")
    copy = travelled(error, protocol)
    assert type(error) is type(copy)
    assert error.args == copy.args
    assert vars(error) == vars(copy)
    assert FIELDS | OWN_FIELDS.get(name, {}) == vars(copy)


@pytest.mark.parametrize("name", errors.__all__)
def test_text_is_one_line_and_repr_is_thin(name: str) -> None:
    """str is the sentence, repr the class and the sentence; fields are asked for by name."""
    error = full(name)
    assert "It broke." == str(error) == error.message
    assert f"{name}('It broke.')" == repr(error)


@pytest.mark.parametrize("name", errors.__all__)
def test_defaults_claim_nothing(name: str) -> None:
    """An error that was told nothing knows nothing, and one without an answer counts as sent."""
    error = getattr(errors, name)("It broke.")
    assert (error.execution_id, error.status_code, error.codes, error.fingerprint) == (None, None, (), None)
    assert getattr(error, "sent", True) is True
    assert not getattr(error, "cancelled", False)


@pytest.mark.parametrize("name", errors.__all__)
def test_what_may_be_retried(name: str) -> None:
    """Only what can succeed unchanged is retryable; a start of unknown fate never is."""
    assert (name in RETRYABLE) is getattr(errors, name).retryable


def test_error_names_its_execution_once() -> None:
    """about() adds the execution to field and message, and never replaces one that is known."""
    error = errors.NotFound("No such thing.").about("e-1")
    assert (error.execution_id, str(error)) == ("e-1", "No such thing. (execution e-1)")
    assert str(error.about("e-2")) == "No such thing. (execution e-1)"
    assert error.execution_id == "e-1"
    assert str(errors.NotFound("Execution e-3 is gone.").about("e-3")) == "Execution e-3 is gone."


def test_no_error_has_a_builtin_name() -> None:
    """No class shadows a builtin."""
    assert not set(errors.__all__) & set(vars(builtins))


@pytest.mark.parametrize("name", errors.__all__)
def test_every_class_says_what_it_is(name: str) -> None:
    """Every class has a docstring."""
    assert (getattr(errors, name).__doc__ or "").strip()
