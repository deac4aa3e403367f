"""
One Prefect server for the session, and blocks saved in it that reach the sandbox.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.events.worker import EventsWorker
from prefect.testing.utilities import prefect_test_harness
from pydantic import SecretStr

from prefect_blocks import TransactionlinkCredentials, TransactionlinkWorkflow, showing
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
            EventsWorker.drain_all()  # whatever a process tells goes to the server of its first event
            yield
            for thread in threading.enumerate():
                if thread.name == showing.LABELLER:
                    thread.join(10)


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
def _saved(sandbox: TransactionlinkCredentials) -> Callable[[TransactionlinkWorkflow], None]:
    """
    Saves workflow blocks as ``kyc``. Prefect takes a second to make the document of a block: it is made once.
    """
    first = TransactionlinkWorkflow(credentials=sandbox, workflow_definition_id="kyc-approve")
    document_id: Any = first.save("kyc", overwrite=True)
    with get_client(sync_client=True) as client:
        data = client.read_block_document(document_id).data

    def save(block: TransactionlinkWorkflow) -> None:
        fields = {name: getattr(block, name) for name in type(block).model_fields if name != "credentials"}
        document = BlockDocumentUpdate(data=data | fields, merge_existing_data=False)
        with get_client(sync_client=True) as client:
            client.update_block_document(document_id, document)

    return save


@pytest.fixture
def workflow(
    remote: Remote, sandbox: TransactionlinkCredentials, _saved: Callable[[TransactionlinkWorkflow], None]
) -> MakeWorkflow:
    """
    Makes workflow blocks for the sandbox, saved as ``kyc`` with credentials that are saved as ``sandbox``.
    """

    def make(definition: str = "kyc-approve", **fields: Any) -> TransactionlinkWorkflow:
        remote.define(definition, **({} if definition == "kyc-slow" else {"duration": 0.05}))
        settings: dict[str, Any] = {"poll_interval": 0.05, **fields}
        _saved(TransactionlinkWorkflow(credentials=sandbox, workflow_definition_id=definition, **settings))
        return load_block(TransactionlinkWorkflow, "kyc")

    return make
