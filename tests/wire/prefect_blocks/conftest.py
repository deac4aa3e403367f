"""
One Prefect server for the session, and blocks saved in it that reach the sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.testing.utilities import prefect_test_harness
from pydantic import SecretStr

from prefect_blocks import TransactionlinkCredentials, TransactionlinkWorkflow
from prefect_blocks.versions import load_block
from tests.remote import TOKEN, Remote

HERE = Path(__file__).parent

MakeWorkflow = Callable[..., TransactionlinkWorkflow]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Prefect leaves connections to its server to the garbage collector when an event loop ends.
    """
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session", autouse=True)
def _prefect() -> Iterator[None]:
    """
    A server of the tests' own, with a database of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        for service in ("SCHEDULER", "LATE_RUNS", "FOREMAN", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS"):
            patch.setenv(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")  # nothing here has a deployment
        patch.setenv("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL", "0.1")
        with prefect_test_harness(server_startup_timeout=120):
            yield


def credentials_for(remote: Remote, token: str = TOKEN, **fields: Any) -> TransactionlinkCredentials:
    """
    Credentials of the sandbox, not saved.
    """
    return TransactionlinkCredentials(**{"token": SecretStr(token), "base_url": remote.url, **fields})


@pytest.fixture(scope="session")
def sandbox(_prefect: None, _operator: Remote) -> TransactionlinkCredentials:
    """
    Credentials of the sandbox, saved as ``sandbox``.
    """
    credentials_for(_operator).save("sandbox", overwrite=True)
    return load_block(TransactionlinkCredentials, "sandbox")


@pytest.fixture(scope="session")
def _saved(sandbox: TransactionlinkCredentials) -> Callable[[dict[str, Any]], None]:
    """
    Saves a workflow block as ``kyc``. The document of a block is made once: Prefect takes a second for it.
    """
    documents: dict[str, dict[str, Any]] = {}

    def save(fields: dict[str, Any]) -> None:
        known = repr(sorted(fields.items()))
        with get_client(sync_client=True) as client:
            if known not in documents:
                TransactionlinkWorkflow(credentials=sandbox, **fields).save("kyc", overwrite=True)
                documents[known] = client.read_block_document_by_name("kyc", "transactionlink-workflow").data
                return
            there = client.read_block_document_by_name("kyc", "transactionlink-workflow")
            client.update_block_document(
                there.id, BlockDocumentUpdate(data=documents[known], merge_existing_data=False)
            )

    return save


@pytest.fixture
def workflow(remote: Remote, _saved: Callable[[dict[str, Any]], None]) -> MakeWorkflow:
    """
    Makes workflow blocks for the sandbox, saved as ``kyc`` with credentials that are saved as ``sandbox``.
    """

    def make(definition: str = "kyc-approve", **fields: Any) -> TransactionlinkWorkflow:
        remote.define(definition, **({} if definition == "kyc-slow" else {"duration": 0.05}))
        _saved({"workflow_definition_id": definition, "poll_interval": 0.05, **fields})
        return load_block(TransactionlinkWorkflow, "kyc")

    return make
