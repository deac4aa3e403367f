"""
Blocks that are never saved need no Prefect server.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.logging import disable_run_logger


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    Whatever would need a server finds none.
    """
    monkeypatch.delenv("TRANSACTIONLINK_ALLOWED_HOSTS", raising=False)
    with disable_run_logger():
        yield
