"""Equal keys at different services, hosts or workspaces are different steps."""

from __future__ import annotations

import pytest

from tests.builders import WORKSPACE_ID, event
from tl_orchestration import Client, OrganizationToken
from tl_orchestration.ledger import Entry, Event, Ledger, MemoryLedger, State
from tl_orchestration.ledger.namespace import Namespaced, bound, namespace_of
from tl_orchestration.settings import Settings

HOST = "https://api.transactionlink.io"


class Plain:
    """A store that serves one step only, as a task's own state does."""

    fenced = True

    def read(self, key: str) -> Entry | None:
        return None

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        raise NotImplementedError

    def append(self, key: str, event: Event) -> Entry:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("service", "base_url", "workspace", "expected"),
    [
        ("transactionlink", HOST, None, "transactionlink@api.transactionlink.io"),
        ("b3os", "https://api.b3os.org", None, "b3os@api.b3os.org"),
        ("transactionlink", f"{HOST}:443/proxied", None, "transactionlink@api.transactionlink.io"),
        ("transactionlink", "http://localhost:80", None, "transactionlink@localhost"),
        ("transactionlink", "http://127.0.0.1:8321", None, "transactionlink@127.0.0.1:8321"),
        ("transactionlink", "http://[::1]:8321", None, "transactionlink@::1:8321"),
        ("transactionlink", HOST, WORKSPACE_ID.upper(), f"transactionlink@api.transactionlink.io/{WORKSPACE_ID}"),
        ("transactionlink", HOST, "", "transactionlink@api.transactionlink.io"),
    ],
)
def test_namespace_is_service_host_and_workspace(
    service: str, base_url: str, workspace: str | None, expected: str
) -> None:
    """What means the same service has one namespace, and nothing else shares it."""
    assert namespace_of(service, base_url, workspace) == expected


def test_client_binds_its_ledger() -> None:
    """A client works in the namespace of its service, and other clients of the store in theirs."""
    ledger, token = MemoryLedger(), OrganizationToken("tot_x")
    here = Client(token, HOST, ledger=ledger).ledger
    again = Client(token, f"{HOST}:443", ledger=ledger).ledger
    there = Client(token, HOST, ledger=ledger, settings=Settings(workspace_id=WORKSPACE_ID)).ledger
    assert here is not None
    assert again is not None
    assert there is not None
    claimed = here.claim("k", event(State.INTENT), None)
    assert (again.read("k"), there.read("k"), ledger.read("k")) == (claimed, None, None)


def test_ledger_without_namespaces_stays_as_it_is() -> None:
    """A store that is scoped by other means, or bound already, is used as given."""
    plain: Ledger = Plain()
    memory = MemoryLedger().for_namespace("mine")
    assert not isinstance(plain, Namespaced)
    assert bound(plain, "other") is plain
    assert bound(memory, "other") is memory
    assert Client(OrganizationToken("tot_x"), HOST).ledger is None
