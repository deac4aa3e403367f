"""
A scene with each kind of store.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.remote import Remote
from tests.wire.batch.campaigns import Scene


@pytest.fixture
def scene(remote: Remote, tmp_path: Path) -> Scene:
    """
    A scene with a SQLite file.
    """
    remote.define("kyc-approve", duration=0.3)
    return Scene(remote, f"sqlite:///{tmp_path}/ledger.db", tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, scene: Scene) -> Scene:
    """
    The same with either kind of store.
    """
    if request.param == "sqlite":
        return scene
    postgres: Postgres = request.getfixturevalue("postgres")
    return Scene(scene.remote, postgres.ready_database(), scene.folder)
