"""
No secret, personal data or hosted link is left anywhere in Prefect.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.e2e.canary import CANARIES, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dev.prefect_rig import PrefectRig
    from tests.e2e.prefect.conftest import Block
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def everything(rig: PrefectRig) -> Iterator[tuple[str, str]]:
    """Each row of each table of the server, and each file below its home that is no database."""
    with sqlite3.connect(f"file:{rig.database}?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in database.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 -- a name that the database gave
                yield f"table {table}", " ".join(map(str, row))
    for file in rig.home.rglob("*"):
        if file.is_file() and not file.name.startswith("prefect.db"):
            with contextlib.suppress(FileNotFoundError):  # Prefect replaces files meanwhile
                yield f"file {file.relative_to(rig.home)}", file.read_text(errors="replace")


def test_nothing_is_left_in_prefect(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """After a stored result and a check on a hosted page: no table, log, event, artifact, label or file has any."""
    ends, waits = (
        block("canary"),
        block("canary-review", like="kyc-review", duration=0, wait_mode="auto", suspend_after=0),
    )
    stored = rig.run_here("persisted", {"block": ends})
    asks = rig.run_here("in-body", {"block": waits})
    assert rig.wait_for_end(stored) == "Completed", rig.describe(stored)
    rig.wait_for_state(asks, {"Suspended"})
    rig.cancel(asks)
    shown = [
        json.dumps([rig.labels(run), rig.inputs(run), rig.artifacts(run), rig.logs(run)]) for run in (stored, asks)
    ]
    assert all(oracle.started(name)[0] in text for name, text in zip((ends, waits), shown, strict=True))

    forbidden = [*CANARIES, TOKEN, "/hosted/"]
    found = [(where, word) for where, text in everything(rig) for word in forbidden if word in text]

    assert found == []
