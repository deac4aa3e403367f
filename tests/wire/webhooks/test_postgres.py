"""The inbox in PostgreSQL: rights, late commits, replicas."""

from __future__ import annotations

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from attrs import evolve

from tests.postgres import Postgres
from tests.webhooks import BODY, KEY, KID, pem_of, token
from tests.wire.webhooks.conftest import serving
from tl_orchestration.errors import LedgerError
from tl_orchestration.webhooks import inbox as module
from tl_orchestration.webhooks.inbox import Arrival, Inbox
from tl_orchestration.webhooks.keys import PinnedKeys

PASSWORD = "PLANTED-77ab"
PATH = "/webhooks/transactionlink"
PINNED = PinnedKeys({KID: pem_of(KEY)})


def arrival(execution_id: str, digest: str | None = None) -> Arrival:
    return Arrival("transactionlink", execution_id, "done", digest or uuid.uuid4().hex, time.time())


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The name of a new database with the newest tables."""
    return postgres.ready_database().partition("?")[0].rpartition("/")[2]


def role(postgres: Postgres, database: str, *grants: str) -> str:
    """The URL of a new role with these rights and no other."""
    name = f"role_{uuid.uuid4().hex[:12]}"
    postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    for grant in grants:
        postgres.execute(f"GRANT {grant} TO {name}", database=database)
    return postgres.url(database, user=name, password=PASSWORD)


class TestRights:
    def test_receiver_needs_insert_only(self, postgres: Postgres, database: str) -> None:
        """A role that may insert into the inbox, and nothing else at all, is enough for a receiver, health included."""
        narrow = Inbox(role(postgres, database, "INSERT ON tl_inbox"))
        with serving(narrow, PINNED) as url, httpx.Client(base_url=url, trust_env=False) as http:
            assert http.get("/healthz").status_code == 200
            for _ in range(3):
                assert http.post(PATH, content=BODY, headers={"JWS-SIGNATURE": token()}).status_code == 204
        with pytest.raises(LedgerError, match="permission denied"):
            narrow.since()
        with pytest.raises(LedgerError, match="permission denied"):
            narrow.purge()
        narrow.close()
        wide = Inbox(postgres.url(database))
        assert 1 <= len(wide.since()[0]) <= 2
        wide.close()

    def test_reader_needs_select_only(self, postgres: Postgres, database: str) -> None:
        """A role that may read the inbox and the revision is enough for a reader."""
        reader = Inbox(role(postgres, database, "SELECT ON tl_inbox, tl_schema_version"))
        reader.start()
        assert reader.since()[0] == []
        assert reader.for_ids(["e1"]) == []
        with pytest.raises(LedgerError, match="permission denied"):
            reader.put([arrival("e1")])
        reader.close()

    def test_without_rights_or_tables_it_is_unwell(self, postgres: Postgres, database: str) -> None:
        """A receiver without the right, or without tables, says so at /healthz and acknowledges nothing."""
        for url in (role(postgres, database), postgres.url(postgres.empty_database())):
            inbox = Inbox(url)
            with serving(inbox, PINNED) as address, httpx.Client(base_url=address, trust_env=False) as http:
                assert http.get("/healthz").status_code == 503
                assert http.post(PATH, content=BODY, headers={"JWS-SIGNATURE": token()}).status_code == 503
            inbox.close()


def test_late_commit_is_read(postgres: Postgres, database: str) -> None:
    """A row that is committed after rows with higher numbers were read still reaches the reader, once."""
    inbox = Inbox(postgres.url(database))
    late = inbox.database._engine.connect()
    row = "INSERT INTO tl_inbox (service, execution_id, kind, received_at, digest, minute) VALUES"
    late.exec_driver_sql(f"{row} ('transactionlink', 'late', '', extract(epoch from now()), 'late', 1)")
    inbox.put([arrival("early")])
    hints, cursor = inbox.since()
    assert [hint.execution_id for hint in hints] == ["early"]
    assert inbox.since(cursor)[0] == []
    late.commit()
    late.close()
    hints, cursor = inbox.since(cursor)
    assert [hint.execution_id for hint in hints] == ["late"]
    assert inbox.since(cursor)[0] == []
    inbox.close()


def test_write_ends_in_time(postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is held up ends without a commit, so that readers may rely on the overlap."""
    monkeypatch.setattr(module, "LONGEST_WRITE", 0.2)
    inbox = Inbox(postgres.url(database))
    one = arrival("e1")
    with psycopg.connect(postgres.url(database).replace("+psycopg", ""), autocommit=False) as other:
        other.execute("LOCK TABLE tl_inbox IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LedgerError):
            inbox.put([one])
        other.rollback()
    assert inbox.since()[0] == []
    inbox.close()


def test_many_rows_end_in_time_together(postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is held up at each of its rows ends without a commit, too."""
    url = postgres.url(database)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        waits = "BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END"
        other.execute(f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $${waits}$$")
        other.execute("CREATE TRIGGER slow BEFORE INSERT ON tl_inbox FOR EACH ROW EXECUTE FUNCTION slow()")
        inbox = Inbox(url)
        with monkeypatch.context() as patched:
            patched.setattr(module, "LONGEST_TRANSACTION", 0.3)
            with pytest.raises(LedgerError, match="too long"):
                inbox.put([arrival(f"e{number}") for number in range(5)])
        inbox.put([arrival("e6")])
        other.execute("DROP TRIGGER slow ON tl_inbox")
        other.execute("DROP FUNCTION slow")
    assert [hint.execution_id for hint in inbox.since()[0]] == ["e6"]
    inbox.close()


def test_receivers_share_a_database(postgres: Postgres, database: str) -> None:
    """Two receivers, each with the right to insert only, take the same deliveries at the same time, each kept once."""
    url = role(postgres, database, "INSERT ON tl_inbox")
    bodies = [json.dumps({"workflowId": f"e{number}"}).encode() for number in range(60)]
    narrow = [Inbox(url) for _ in range(2)]

    def send(address: str, bodies: list[bytes]) -> set[int]:
        with httpx.Client(base_url=address, trust_env=False, timeout=20) as http:
            return {
                http.post(PATH, content=body, headers={"JWS-SIGNATURE": token(body=body)}).status_code
                for body in bodies
            }

    began = time.time() // 60
    with serving(narrow[1], PINNED) as second:
        with serving(narrow[0], PINNED) as first, ThreadPoolExecutor(4) as threads:
            answers = threads.map(send, [first, second, first, second], [bodies, bodies[::-1], bodies[::-1], bodies])
            assert set().union(*answers) == {204}
        assert send(second, bodies) == {204}  # the vendor's next tries, when one of them is gone
    minutes = 1 + time.time() // 60 - began
    wide = Inbox(postgres.url(database))
    kept = [hint.execution_id for hint in wide.since()[0]]
    assert set(kept) == {f"e{number}" for number in range(60)}
    assert len(kept) <= 60 * minutes
    for inbox in (*narrow, wide):
        inbox.close()


def test_replicas(postgres: Postgres, database: str) -> None:
    """Writers that put the same rows in any order at the same time keep each once, and none of them fails."""
    inboxes = [Inbox(postgres.url(database)) for _ in range(4)]
    now = time.time() // 60 * 60 + 1
    rows = [Arrival("transactionlink", f"e{number}", "done", f"d{number}", now) for number in range(200)]
    failures: list[BaseException] = []

    def write(index: int) -> None:
        try:
            for turn in range(10):
                shifted = [evolve(row, digest=f"{turn}-{row.digest}") for row in rows]
                inboxes[index].put(shifted[:: -1 if index % 2 else 1])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    hints, cursor = inboxes[0].since()
    more, cursor = inboxes[0].since(cursor)
    assert sorted(hint.execution_id for hint in hints + more) == sorted(row.execution_id for row in rows * 10)
    assert inboxes[0].since(cursor)[0] == []
    assert inboxes[0].purge(older_than=-100.0) == 2000
    for inbox in inboxes:
        inbox.close()
