"""Whatever the public documentation leaves open, a client of each service gets through every reading of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping

import pytest

from tests.remote import TOKEN, Remote
from tests.wire.doors import QUICK, QUICK_RETRY
from tl_orchestration import (
    B3osKey,
    B3osOptions,
    Client,
    Execution,
    LegacyOptions,
    OrganizationToken,
    RunRequest,
    Status,
    WorkspaceKey,
)
from tl_orchestration.credentials import Credentials
from tl_orchestration.errors import NoResult, NotSupported, ResultNotReady
from tl_orchestration.ledger import MemoryLedger, State
from tl_orchestration.ledger.namespace import namespace_of
from tl_orchestration.options import Options
from tl_orchestration.sandbox.variants import TABLE, Value

#: Each reading that is not the first of its variant, and one of those: the sandbox begins with all of them.
READINGS = [(TABLE[0].name, TABLE[0].allowed[0])] + [
    (variant.name, reading) for variant in TABLE for reading in variant.allowed[1:]
]
#: Readings that a caller has to know of, and what he then says.
TOLD: Mapping[tuple[str, Value, str], Credentials] = {
    ("organization_token_form", "bearer", "transactionlink"): OrganizationToken(TOKEN, bearer=True),
    ("organization_header", "required", "b3os"): B3osKey("b3sk_sandbox", "org_sandbox"),
}
SERVICES: Mapping[str, tuple[Credentials, Options | None]] = {
    "transactionlink": (OrganizationToken(TOKEN), None),
    "transactionlink-legacy": (WorkspaceKey("sandbox-key", "sandbox-secret"), LegacyOptions(first_name="Ada")),
    "b3os": (B3osKey("b3sk_sandbox"), B3osOptions(source_system="crm", source_entity_type="customer")),
}


class Steps:
    """
    The verbs that a step calls, at one service.
    """

    def __init__(self, client: Client, options: Options | None, *, cancels: bool) -> None:
        self._client = client
        self._options = options
        self._cancels = cancels

    def start(self, name: str) -> Execution:
        return self._client.run(RunRequest(name, {"a": 1}, options=self._options), key=name)

    def succeeds(self) -> None:
        """An execution that ends well has a result, and its cancel comes too late."""
        ended = self._client.wait(self.start("kyc-approve"), patience=QUICK)
        assert ended.status is Status.SUCCEEDED
        assert "approve" in json.dumps(self._client.result(ended))
        if self._cancels:
            assert self._client.cancel(ended).status is Status.SUCCEEDED

    def fails(self) -> None:
        """One that fails has none, or an empty one."""
        ended = self._client.wait(self.start("kyc-fail"), patience=QUICK)
        assert ended.status is Status.FAILED
        with contextlib.suppress(NoResult):
            assert "decision" not in json.dumps(self._client.result(ended))

    def goes_on(self) -> None:
        """One that runs has no result yet, is found again, and ends by a cancel where there is one."""
        started = self.start("kyc-slow")
        assert not self._client.poll(started).is_terminal
        with pytest.raises(ResultNotReady):
            self._client.result(started)
        assert self.start("kyc-slow").id == started.id
        if self._cancels:
            assert self._client.cancel(started).status is Status.CANCELLED
        else:
            with pytest.raises(NotSupported):
                self._client.cancel(started)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("name", "reading"), READINGS)
def test_every_reading(remote: Remote, name: str, reading: Value, service: str) -> None:
    """Start, poll, wait, result and cancel mean the same under each reading, and each start happens once."""
    for definition in ("kyc-approve", "kyc-fail"):
        remote.define(definition, duration=0)
    remote.vary(**{name: reading})
    credentials, options = SERVICES[service]
    credentials = TOLD.get((name, reading, service), credentials)
    ledger, cancels = (
        MemoryLedger().for_namespace(namespace_of(service, remote.url, None)),
        service != "transactionlink-legacy",
    )
    with Client(credentials, remote.url, service=service, ledger=ledger, retry=QUICK_RETRY) as client:
        steps = Steps(client, options, cancels=cancels)
        steps.succeeds()
        steps.fails()
        steps.goes_on()
    entry = ledger.read("kyc-slow")
    assert entry is not None
    assert entry.state is (State.SETTLED if cancels else State.STARTED)
    assert sorted(start["definition"] for start in remote.starts()) == ["kyc-approve", "kyc-fail", "kyc-slow"]
