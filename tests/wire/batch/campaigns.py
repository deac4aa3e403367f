"""
What the tests of batches share: a source, a store, and a batch over the sandbox.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen
from sqlalchemy import create_engine, text

from tests.remote import TOKEN, Remote
from tl_orchestration import AsyncClient, OrganizationToken, Settings
from tl_orchestration.batch import Batch, BatchSummary, Book, Columns, Limits, Policy, source
from tl_orchestration.ledger import SqlLedger

T = TypeVar("T")

COLUMNS = Columns(key="id", parameters={"firstName": "first"})


def records(count: int) -> Iterator[dict[str, Any]]:
    """
    So many customers.
    """
    for number in range(count):
        yield {"id": f"c{number:05}", "first": f"Ada {number}"}


def write(file: Path, lines: Iterable[Mapping[str, Any] | str]) -> Path:
    """
    A JSONL file of these records; text stands as it is.
    """
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def awaited(client: AsyncClient, work: Coroutine[Any, Any, T]) -> T:
    """
    What comes of it in an event loop of its own, whose connections are closed.
    """

    async def closing() -> T:
        async with client:
            return await work

    return asyncio.run(closing())


@frozen
class Scene:
    """
    One service, one store, one folder.
    """

    remote: Remote
    store: str
    folder: Path

    def book(self, file: Path, definition: str = "kyc-approve", columns: Columns = COLUMNS) -> Book:
        return Book(workflow_definition_id=definition, source=source(file), columns=columns)

    def client(self, token: str = TOKEN, **settings: Any) -> AsyncClient:
        return AsyncClient(
            OrganizationToken(token), self.remote.url, ledger=SqlLedger(self.store), settings=Settings(**settings)
        )

    def watch(self, worker: str) -> BatchSummary:
        """
        Wait in a worker's place.
        """
        client = self.client()
        return awaited(client, Batch(client, "w47", worker=worker).watch())

    def cancel(self, **how: bool) -> int:
        """
        Cancel, as somebody else.
        """
        client = self.client()
        return awaited(client, Batch(client, "w47").cancel(**how))

    def batch(
        self,
        book: Book | None,
        campaign: str = "w47",
        *,
        limits: Limits | None = None,
        policy: Policy | None = None,
        worker: str | None = None,
        token: str = TOKEN,
        **settings: Any,
    ) -> Batch:
        client = self.client(token, **settings)
        return Batch(client, campaign, book, output=self.output, limits=limits, policy=policy, worker=worker)

    def end(self, *execution_ids: str) -> None:
        """
        These end now, or all that were started.
        """
        for execution_id in execution_ids or [start["execution_id"] for start in self.remote.starts()]:
            self.remote.force(execution_id, status="COMPLETED")

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def lines(self, campaign: str = "w47") -> list[dict[str, Any]]:
        """
        What the parts hold that the manifest names.
        """
        folder = self.output / campaign
        manifest = json.loads((folder / "manifest.json").read_text())
        return [
            json.loads(line) for part in manifest["parts"] for line in (folder / part["name"]).read_text().splitlines()
        ]

    def started(self) -> Counter[str]:
        """
        How often each customer was started, by the service's own account.
        """
        return Counter(str(start["parameters"]["firstName"]) for start in self.remote.starts())


def told(scene: Scene, statement: str) -> None:
    """
    Have the store say what would take too long to come about.
    """
    engine = create_engine(scene.store)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()
