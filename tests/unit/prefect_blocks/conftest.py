"""
Blocks that are never saved need no Prefect server.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.events import worker
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.unit.prefect_blocks.prefect_server import PrefectServer


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    Whatever would need a server finds none.
    """
    monkeypatch.delenv("TRANSACTIONLINK_ALLOWED_HOSTS", raising=False)
    with disable_run_logger():
        yield


@pytest.fixture
def prefect_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectServer]:
    """
    A server that knows the flow runs which the test tells it, and takes no events.
    """
    for kind in ("running", "ephemeral"):
        monkeypatch.setattr(worker, f"should_emit_events_to_{kind}_server", lambda: False)
    with PrefectServer() as server, temporary_settings({PREFECT_API_URL: server.url}):
        yield server
