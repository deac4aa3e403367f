"""A batch may be killed at any commit point: nothing is lost, nothing is started twice, every unknown is told."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from attrs import frozen

from tests.faults.batch.mortal import Nursery, Order, nursery
from tests.postgres import Postgres
from tests.remote import Remote

SOAK = bool(os.environ.get("SOAK"))
#: When every intent counts as a start of unknown fate, seconds.
LATE = 1000.0
ROWS = 3
#: What every run passes, whatever is in its way.
CERTAIN = {
    "before COMMIT of INSERT tl_batch_rows, INSERT tl_batch_slices, UPDATE tl_batch_campaigns",
    "before COMMIT of DELETE tl_batch_slices, UPDATE tl_batch_campaigns, UPDATE tl_batch_rows",
    "before COMMIT of INSERT tl_ledger_entries, INSERT tl_ledger_trail",
    "after COMMIT of INSERT tl_batch_parts",
    "after the file part",
    "after COMMIT of UPDATE tl_batch_parts, UPDATE tl_batch_rows",
    "after COMMIT of UPDATE tl_batch_slices",
    "after the file manifest.json",
}


#: Runs at once: most of each is waiting.
AT_ONCE = 6


@pytest.fixture(scope="module")
def nurseries() -> Iterator[SimpleQueue[Nursery]]:
    """Processes that make runs; who wants one takes it, and puts it back."""
    free: SimpleQueue[Nursery] = SimpleQueue()
    with ExitStack() as stack:
        for _ in range(AT_ONCE):
            free.put(stack.enter_context(nursery()))
        yield free


@frozen
class Scene:
    """
    One service, one store; a campaign for each run that is killed.
    """

    nurseries: SimpleQueue[Nursery]
    remote: Remote
    store: str
    folder: Path

    def run(self, campaign: str, **how: Any) -> dict[str, Any] | None:
        if not how.get("later"):
            self.remote.define(campaign, like="kyc-approve", duration=0.2)
        order = Order(
            store=self.store,
            service=self.remote.url,
            folder=str(self.folder),
            campaign=campaign,
            definition=campaign,
            **how,
        )
        runs = self.nurseries.get()
        try:
            return runs.run(order)
        finally:
            self.nurseries.put(runs)

    def check(self, campaign: str, summary: dict[str, Any]) -> int:
        """
        Service, store and output agree. Returns the rows of unknown fate.
        """
        counts = summary["counts"]
        starts = [one for one in self.remote.starts() if one["definition"] == campaign]
        often = Counter(one["parameters"]["firstName"] for one in starts)
        assert max(often.values(), default=1) == 1
        assert sum(counts.values()) == ROWS
        assert set(counts) <= {"SUCCEEDED", "UNKNOWN"}
        folder = self.folder / "out" / campaign
        manifest = json.loads((folder / "manifest.json").read_text())
        parts = [part["name"] for part in manifest["parts"]]
        assert sorted(file.name for file in folder.glob("part-*")) == sorted(parts)
        lines = [json.loads(line) for part in parts for line in (folder / part).read_text().splitlines()]
        assert len({line["key"] for line in lines}) == len(lines) == counts["SUCCEEDED"]
        by_name = {one["parameters"]["firstName"]: one["execution_id"] for one in starts}
        names = {one["id"]: one["first"] for one in customers()}
        assert all(by_name[names[line["key"]]] == line["execution_id"] for line in lines)
        assert counts["SUCCEEDED"] <= len(starts) <= ROWS
        return int(counts.get("UNKNOWN", 0))


def customers() -> list[dict[str, str]]:
    """The rows of each campaign."""
    return [{"id": f"c{number}", "first": f"Ada {number}"} for number in range(ROWS)]


@pytest.fixture(params=["sqlite", "postgresql"])
def scene(request: pytest.FixtureRequest, nurseries: SimpleQueue[Nursery], remote: Remote, tmp_path: Path) -> Scene:
    """A scene with either kind of store."""
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in customers()))
    if request.param == "sqlite":
        return Scene(nurseries, remote, f"sqlite:///{tmp_path}/ledger.db", tmp_path)
    postgres: Postgres = request.getfixturevalue("postgres")
    return Scene(nurseries, remote, postgres.ready_database(), tmp_path)


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("in_turns", [False, True], ids=["following", "in turns"])
def test_a_kill_at_every_commit_point(scene: Scene, in_turns: bool) -> None:
    """Whoever goes on ends the campaign; at most the row whose start was under way is of unknown fate, and told."""
    whole = scene.run("whole", in_turns=in_turns)
    assert whole is not None
    assert scene.check("whole", whole) == 0
    points = whole["points"]
    assert set(points) >= CERTAIN
    chosen = [(name, 1) for name in sorted(points)]
    if SOAK:
        chosen += [(name, number) for name, count in sorted(points.items()) for number in range(2, count + 1)]

    def killed(number: int) -> str | None:
        """The point that killed the run; None: it did not come to that."""
        name, occurrence = chosen[number]
        campaign = f"killed-{number}"
        died = scene.run(campaign, dies_at=(name, occurrence), in_turns=in_turns) is None
        survivor = scene.run(campaign, later=LATE)
        assert survivor is not None
        unknown = scene.check(campaign, survivor)
        # Heartbeats and claims are written while a row is being started.
        assert unknown <= ("tl_batch_campaigns" not in name), f"killed at {name}, number {occurrence}"
        return name if died else None

    with ThreadPoolExecutor(AT_ONCE) as threads:
        assert set(threads.map(killed, range(len(chosen)))) >= CERTAIN
