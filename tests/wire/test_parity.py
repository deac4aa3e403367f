"""Client and AsyncClient are one interface."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tl_orchestration import AsyncClient, Client

#: What only one of them can have: a coroutine is stopped by cancelling its task.
SYNC_ONLY = {"stop"}
#: What only the other can have: a listener that wakes waits needs a loop that they share.
ASYNC_ONLY = {"inbox"}


def public(cls: type) -> dict[str, Any]:
    """The public methods that a class has, its own and inherited."""
    return {name: value for name, value in inspect.getmembers(cls, callable) if not name.startswith("_")}


def parameters(method: Any) -> list[tuple[str, Any, Any, Any]]:
    """Name, kind, default and annotation of each parameter that both should have."""
    return [
        (one.name, one.kind, one.default, one.annotation)
        for one in inspect.signature(method).parameters.values()
        if one.name not in SYNC_ONLY | ASYNC_ONLY
    ]


def test_same_methods() -> None:
    """Both have the same verbs."""
    assert set(public(Client)) == set(public(AsyncClient))
    assert {"run", "poll", "wait", "result", "cancel", "check", "close"} <= set(public(Client))


@pytest.mark.parametrize("name", ["__init__", *sorted(public(Client))])
def test_same_parameters(name: str) -> None:
    """A verb takes the same parameters, in the same order, with the same defaults and types, and returns the same."""
    sync, asynchronous = getattr(Client, name), getattr(AsyncClient, name)
    assert parameters(sync) == parameters(asynchronous)
    assert inspect.signature(sync).return_annotation == inspect.signature(asynchronous).return_annotation


@pytest.mark.parametrize("name", sorted(public(Client)))
def test_only_one_is_awaited(name: str) -> None:
    """The one is called, the other awaited."""
    assert not inspect.iscoroutinefunction(getattr(Client, name))
    assert inspect.iscoroutinefunction(getattr(AsyncClient, name))


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_both_are_documented(cls: type) -> None:
    """Both classes and all of their verbs say what they do."""
    assert inspect.getdoc(cls)
    assert [name for name, method in public(cls).items() if not method.__doc__] == []


def test_both_are_context_managers() -> None:
    """Both are left tidy by with."""
    assert {"__enter__", "__exit__"} <= set(dir(Client))
    assert {"__aenter__", "__aexit__"} <= set(dir(AsyncClient))
