"""
Results that go to a storage instead of XCom, and come back.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields
from airflow.sdk.io import store
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # has no types
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]  # has no types

from airflow_provider import results
from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry
from airflow_provider.results import load_result, written
from airflow_provider.sensors import TransactionlinkWorkflowSensor
from airflow_provider.versions import AirflowSkipException
from tests.unit.airflow_provider.services import CONN_ID, LEGACY_OPTIONS, client_of, connect
from tests.unit.airflow_provider.test_steps import context, ended, refused, render, step
from tl_orchestration import RunRequest
from tl_orchestration.errors import InvalidRequest, InvalidSettings, NotFound, ResultNotReady
from tl_orchestration.result_uri import ResultUri

if TYPE_CHECKING:
    from tests.remote import Remote

DOCUMENT = {"decision": "approve", "lastName": "Łukasz", "scores": [1, 2.5, None]}


class DropBox(LocalFileSystem):  # type: ignore[misc]  # as above
    """A storage that has a rename and is not this machine's disk, as far as we can see."""

    protocol = "sftp"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    remote.define("kyc-approve", duration=0.2, result=DOCUMENT)
    connect(monkeypatch, remote.url, "transactionlink")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryFileSystem:
    """An object store of this process, registered as a provider's would be."""
    files = MemoryFileSystem(skip_instance_cache=True)
    monkeypatch.setattr(files, "store", {})
    monkeypatch.setitem(store._STORE_CACHE, "memory", store.ObjectStore("memory", None, files))
    return files


class TestWritten:
    def test_file_is_named_by_the_execution_and_described(self, tmp_path: Path) -> None:
        """UTF-8 JSON, whose hash and size are those of the bytes on the disk; nothing else is left in the folder."""
        said = written(ResultUri.parse(f"file://{tmp_path}/in/2026/"), "e1", DOCUMENT)
        file = tmp_path / "in/2026/e1.json"
        content = file.read_bytes()
        assert said == {
            "result_uri": f"file://{file}",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        }
        assert json.loads(content) == DOCUMENT
        assert "Łukasz".encode() in content
        assert [found.name for found in file.parent.iterdir()] == ["e1.json"]

    def test_second_writing_is_the_same(self, tmp_path: Path) -> None:
        """A retry, to which the service may tell the members in another order, changes nothing."""
        uri = ResultUri.parse(f"file://{tmp_path}/one.json")
        first = written(uri, "e1", DOCUMENT)
        assert written(uri, "e1", dict(reversed(DOCUMENT.items()))) == first
        assert [found.name for found in tmp_path.iterdir()] == ["one.json"]

    def test_half_a_surrogate_pair_is_written_as_an_escape(self, tmp_path: Path) -> None:
        """JSON can hold what UTF-8 cannot."""
        written(ResultUri.parse(f"file://{tmp_path}"), "e1", {"name": "\ud83d"})
        assert (tmp_path / "e1.json").read_bytes() == b'{"name": "\\ud83d"}'

    @pytest.mark.parametrize("scheme", ["file", "sftp"])
    def test_interrupted_writing_leaves_what_was_there(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str
    ) -> None:
        """A disk that fills up before the rename: the former file stays whole, and no part of the new one is left."""
        monkeypatch.setitem(
            store._STORE_CACHE, "sftp", store.ObjectStore("sftp", None, DropBox(skip_instance_cache=True))
        )
        uri = ResultUri.parse(f"{scheme}://{'' if scheme == 'file' else 'host'}{tmp_path}/one.json")
        written(uri, "e1", DOCUMENT)

        def full(*_: object) -> None:
            raise OSError("PLANTED")

        monkeypatch.setattr(Path, "replace", full)
        monkeypatch.setattr(DropBox, "mv", full)
        with pytest.raises(TransactionlinkRetry, match=r"could not be written to .* \(OSError\)") as caught:
            written(uri, "e2", {"decision": "reject"})
        assert "PLANTED" not in str(caught.value)
        assert [found.name for found in tmp_path.iterdir()] == ["one.json"]
        assert json.loads((tmp_path / "one.json").read_text()) == DOCUMENT

    def test_object_store_gets_one_put(self, monkeypatch: pytest.MonkeyPatch, memory: MemoryFileSystem) -> None:
        """An object appears whole; nothing is moved, which there would be a copy."""
        monkeypatch.setattr(memory, "mv", None)
        said = written(ResultUri.parse("memory://bucket/kyc/"), "e1", DOCUMENT)
        assert list(memory.store) == ["/bucket/kyc/e1.json"]
        assert loaded({"execution_id": "e1", **said}) == DOCUMENT

    def test_storage_without_its_provider_is_said(self) -> None:
        """Which storage it is, and that its package is missing."""
        with pytest.raises(InvalidSettings, match=r"s3://bucket by connection 'aws' cannot be used in this worker"):
            results.storage(ResultUri.parse("s3://aws@bucket/kyc/"))


def loaded(reference: Any) -> dict[str, Any]:
    return load_result(reference, transactionlink_conn_id=CONN_ID)


class TestStep:
    @pytest.mark.parametrize("deferrable", [False, True])
    def test_result_is_in_the_storage_only(self, remote: Remote, tmp_path: Path, *, deferrable: bool) -> None:
        """XCom has where it is, and not what it says; load_result has it back."""
        arguments: dict[str, Any] = {"result": f"file://{tmp_path}/", "result_fields": {"decision": "decision"}}
        returned = ended(context(), **arguments) if deferrable else step(**arguments).execute(context())
        (start,) = remote.starts()
        assert set(returned) == {"execution_id", "status", "fields", "result_uri", "sha256", "size"}
        assert returned["result_uri"] == f"file://{tmp_path}/{start['execution_id']}.json"
        assert "Łukasz" not in str(returned)
        remote.reset()
        assert loaded(json.loads(json.dumps(returned)))["lastName"] == "Łukasz"

    @pytest.mark.parametrize(
        ("rule", "raised"), [("fail_when", TransactionlinkFailure), ("skip_when", AirflowSkipException)]
    )
    def test_verdicts_come_before_the_storage(self, tmp_path: Path, rule: str, raised: type[Exception]) -> None:
        """What fails or skips the task is not written."""
        with pytest.raises(raised):
            step(result=f"file://{tmp_path}/", **{rule: "decision == 'approve'"}).execute(context())
        assert list(tmp_path.iterdir()) == []

    def test_storage_that_is_away_is_tried_again_with_the_same_execution(self, remote: Remote, tmp_path: Path) -> None:
        """The retry writes what the first try could not, and starts nothing."""
        given, folder = context(), tmp_path / "kyc"
        folder.write_text("in the way")
        with pytest.raises(TransactionlinkRetry, match="has ended, but its result could not be written"):
            step(result=f"file://{folder}/").execute(given)
        folder.unlink()
        returned = step(result=f"file://{folder}/").execute(given)
        assert [start["execution_id"] for start in remote.starts()] == [returned["execution_id"]]
        assert loaded(returned)["decision"] == "approve"

    def test_uri_is_a_template_that_is_shown(self, tmp_path: Path) -> None:
        """The rendered field is the folder of that day."""
        task = step(result=f"file://{tmp_path}/{{{{ ds }}}}/")
        render(task, ds="2026-11-20")
        assert _serialize_rendered_fields(task)["result"] == f"file://{tmp_path}/2026-11-20/"
        assert task.execute(context())["result_uri"].startswith(f"file://{tmp_path}/2026-11-20/")

    @pytest.mark.parametrize(
        "uri", ["s3://AKIA:PLANTED@bucket/", "abfs://kyc/?sig=PLANTED", "s3://k/{{ empty }}/PLANTED/"]
    )
    def test_refused_uri_is_in_no_field_no_log_and_no_message(
        self, remote: Remote, caplog: pytest.LogCaptureFixture, uri: str
    ) -> None:
        """What may be a credential is withheld from Airflow, and refused before anything is sent."""
        caplog.set_level(logging.DEBUG)
        task = step(result=uri)
        render(task, empty="")
        assert _serialize_rendered_fields(task)["result"] == "***"
        with pytest.raises(TransactionlinkFailure, match="The storage URI has") as caught:
            task.execute(context())
        assert "PLANTED" not in f"{caught.value}{caplog.text}"
        assert remote.starts() == []

    @pytest.mark.parametrize("result", ["everything", "", None, 7, "bucket/kyc"])
    def test_what_is_neither_mode_nor_uri_is_refused_unsent(self, remote: Remote, result: Any) -> None:
        """The modes are named."""
        assert "'reference', 'full', 'none' or the URI" in str(refused(context(), result=result))
        assert remote.starts() == []

    def test_missing_provider_is_found_before_the_start(self, remote: Remote) -> None:
        """Not once the execution has ended."""
        assert isinstance(refused(context(), result="s3://bucket/kyc/"), InvalidSettings)
        assert remote.starts() == []


class TestPolicy:
    def test_uri_outside_the_prefixes_is_refused_unsent(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, tmp_path: Path
    ) -> None:
        """The connection decides, whatever the DAG says; inside, the step runs."""
        connect(monkeypatch, remote.url, "transactionlink", {"result_uri_prefixes": f"s3://b/, file://{tmp_path}/kyc"})
        for outside in (f"file://{tmp_path}/", f"file://{tmp_path}/kyc-old/", f"file://{tmp_path}/kyc/../"):
            assert isinstance(refused(context(), result=outside), InvalidRequest)
        assert "allows results only below s3://b/, file://" in str(refused(context(), result=f"file://{tmp_path}/"))
        assert remote.starts() == []
        assert step(result=f"file://{tmp_path}/kyc/2026/").execute(context())["size"] > 0

    def test_full_results_are_another_matter(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, tmp_path: Path
    ) -> None:
        """Prefixes say nothing of result='full', and forbidding that says nothing of storages."""
        connect(monkeypatch, remote.url, "transactionlink", {"result_uri_prefixes": "s3://b/"})
        assert "result" in step(result="full").execute(context())
        connect(monkeypatch, remote.url, "transactionlink", {"forbid_full_result": True})
        assert "forbids result='full'" in str(refused(context(), result="full"))
        assert "result_uri" in step(result=f"file://{tmp_path}/").execute(context())

    def test_policy_that_cannot_be_read_allows_nothing(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, tmp_path: Path
    ) -> None:
        """A mistake in the connection is no licence."""
        connect(monkeypatch, remote.url, "transactionlink", {"result_uri_prefixes": "kyc"})
        assert isinstance(refused(context(), result=f"file://{tmp_path}/"), InvalidSettings)
        assert remote.starts() == []

    def test_sensor_is_bound_as_well(self, monkeypatch: pytest.MonkeyPatch, remote: Remote, tmp_path: Path) -> None:
        """A sensor asks nothing where its result may not go, and writes where it may."""
        connect(monkeypatch, remote.url, "transactionlink", {"result_uri_prefixes": f"file://{tmp_path}/kyc/"})
        execution_id = step(wait_for_completion=False).execute(context())["execution_id"]

        def sense(uri: str) -> Any:
            sensor = TransactionlinkWorkflowSensor(
                task_id="s", execution_id=execution_id, transactionlink_conn_id=CONN_ID, poke_interval=0.1, result=uri
            )
            render(sensor)
            return sensor.execute(context())

        with pytest.raises(TransactionlinkFailure, match="allows results only below"):
            sense(f"file://{tmp_path}/")
        assert remote.count("GET /workflows/{id}") == 0
        assert loaded(sense(f"file://{tmp_path}/kyc/"))["decision"] == "approve"


class TestLoadResult:
    def stored(self, tmp_path: Path) -> dict[str, Any]:
        return {"execution_id": "e1", **written(ResultUri.parse(f"file://{tmp_path}/"), "e1", DOCUMENT)}

    def test_reference_asks_the_service(self, remote: Remote) -> None:
        """By the execution's id and a connection; a whole result that is there is taken as it is."""
        reference = step().execute(context())
        document = load_result(reference, transactionlink_conn_id=CONN_ID)
        assert document["decision"] == "approve"
        asked = remote.count("GET /workflows/{id}/result")
        assert load_result({**reference, "result": document}, transactionlink_conn_id="nobody") == document
        assert remote.count("GET /workflows/{id}/result") == asked

    def test_legacy_result_is_that_of_its_version(self, monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
        """An execution about a case is of version 1, which an id does not say."""
        connect(monkeypatch, remote.url, "transactionlink-legacy")
        reference = step(service_options=LEGACY_OPTIONS).execute(context())
        assert "partyDetails" not in load_result(reference, transactionlink_conn_id=CONN_ID)
        assert "partyDetails" in load_result(reference, transactionlink_conn_id=CONN_ID, api_version=1)

    def test_failures_are_told_apart(self, remote: Remote) -> None:
        """Not ended yet is tried again; an execution that nobody knows is not."""
        with client_of("transactionlink", remote.url) as client:
            running = client.run(RunRequest("kyc-slow")).id
        with pytest.raises(TransactionlinkRetry) as caught:
            load_result({"execution_id": running}, transactionlink_conn_id=CONN_ID)
        assert isinstance(caught.value.error, ResultNotReady)
        with pytest.raises(TransactionlinkFailure) as final:
            load_result({"execution_id": "nobody"}, transactionlink_conn_id=CONN_ID)
        assert isinstance(final.value.error, NotFound)

    def test_file_outside_the_prefixes_is_not_read(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, tmp_path: Path
    ) -> None:
        """A reference has come through XCom: the connection says from where a result may come, too."""
        reference = self.stored(tmp_path / "other")
        connect(monkeypatch, remote.url, "transactionlink", {"result_uri_prefixes": f"file://{tmp_path}/kyc/"})
        with pytest.raises(TransactionlinkFailure, match="and the result_uri of this reference is not"):
            loaded(reference)
        inside = self.stored(tmp_path / "kyc")
        assert loaded(inside) == DOCUMENT

    def test_file_is_not_read_without_a_connection_that_allows_it(self, tmp_path: Path) -> None:
        """What a connection that is not there would allow, nobody knows."""
        with pytest.raises(TransactionlinkFailure, match="There is no connection 'nobody'"):
            load_result(self.stored(tmp_path), transactionlink_conn_id="nobody")

    @pytest.mark.parametrize("change", [b" ", b"", b'{"decision": "reject"}'])
    def test_file_that_is_another_is_refused(self, tmp_path: Path, change: bytes) -> None:
        """A longer, an empty and another file: none is taken for the result."""
        reference = self.stored(tmp_path)
        file = tmp_path / "e1.json"
        file.write_bytes(file.read_bytes() + change if change == b" " else change)
        with pytest.raises(TransactionlinkFailure, match="is not the result of execution e1 that was written there"):
            loaded(reference)

    def test_same_size_is_not_enough(self, tmp_path: Path) -> None:
        """One letter has changed."""
        reference = self.stored(tmp_path)
        file = tmp_path / "e1.json"
        file.write_bytes(file.read_bytes().replace(b"approve", b"improve"))
        with pytest.raises(TransactionlinkFailure, match="SHA-256"):
            loaded(reference)

    def test_file_that_is_gone_is_said(self, tmp_path: Path) -> None:
        """With the way to the service, which may still have it."""
        reference = self.stored(tmp_path)
        (tmp_path / "e1.json").unlink()
        with pytest.raises(TransactionlinkFailure, match="is no longer at file://"):
            loaded(reference)

    @pytest.mark.parametrize(
        ("reference", "why"),
        [
            (None, "needs the return value"),
            ("e1", "needs the return value"),
            ({}, "needs the return value"),
            ({"execution_id": "../e1"}, "needs the return value"),
            ({"execution_id": "e1", "result_uri": "file:///kyc/e1.json"}, "lacks sha256 or size"),
            ({"execution_id": "e1", "result_uri": "s3://k:PLANTED@b/e1.json"}, "password"),
            ({"execution_id": "e1", "result_uri": None}, "'://'"),
        ],
    )
    def test_what_is_no_reference_is_refused(self, reference: Any, why: str) -> None:
        """In one sentence, without a look at anything."""
        with pytest.raises(TransactionlinkFailure) as caught:
            loaded(reference)
        assert isinstance(caught.value.error, InvalidRequest)
        assert why in str(caught.value)
        assert "PLANTED" not in str(caught.value)
