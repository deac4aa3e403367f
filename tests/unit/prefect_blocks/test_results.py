"""
Results in a storage: where they may go, that they are whole, and what is read again.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from prefect_blocks import aload_result, load_result
from prefect_blocks.results import storage, written
from tests.unit.prefect_blocks.test_blocks import credentials, workflow
from tl_orchestration import Execution, Handle, Status
from tl_orchestration.errors import InvalidRequest, InvalidSettings, NotFound, StorageFailed
from tl_orchestration.result_uri import ResultUri

DOCUMENT = {"decision": "approve", "lastName": "Łukasz", "scores": [1, 2.5, None]}
ENDED = Execution(id="e1", status=Status.SUCCEEDED, raw_status="COMPLETED", handle=Handle(execution_id="e1"))


def test_outcome_says_where_the_result_is(tmp_path: Path) -> None:
    """The file is named by the execution; the outcome has where it is and what it is recognised by, and no value."""
    block = workflow(result=f"file://{tmp_path}/kyc/")

    outcome = block.outcome(ENDED, DOCUMENT)

    assert block.needs_result()
    assert set(outcome) == {"execution_id", "status", "fields", "result_uri", "sha256", "size"}
    assert json.loads((tmp_path / "kyc/e1.json").read_text()) == load_result(outcome) == DOCUMENT
    assert [file.name for file in (tmp_path / "kyc").iterdir()] == ["e1.json"]


def test_object_store_gets_the_result() -> None:
    """Storages are reached by fsspec."""
    said = written(ResultUri.parse("memory://bucket/kyc/"), "e1", DOCUMENT)
    assert load_result({"execution_id": "e1", **said}) == DOCUMENT


@pytest.mark.parametrize(
    ("allowed", "result", "said"),
    [
        ({"forbid_full_result": True}, "full", "forbid"),
        ({"result_uri_prefixes": ["s3://b/"]}, "file:///kyc/", "only below s3://b/"),
        ({"result_uri_prefixes": ["file:///kyc"]}, "file:///kyc2/", "only below"),
        ({}, "s3://key:PLANTED@bucket/", "password"),
        ({}, "s3://conn@bucket/", "no connection"),
        ({}, "everything", "storage"),
    ],
)
def test_credentials_say_where_results_may_go(allowed: dict[str, Any], result: str, said: str) -> None:
    """What they forbid, and what cannot be read, is refused when the block is made."""
    with pytest.raises(InvalidRequest, match=said) as caught:
        workflow(credentials=credentials(**allowed), result=result)
    assert "PLANTED" not in str(caught.value)


def test_object_in_a_field_counts_as_a_full_result() -> None:
    """Where full results are forbidden, fields hold single values."""
    block = workflow(credentials=credentials(forbid_full_result=True), result_fields={"all": "@"})
    with pytest.raises(InvalidRequest, match="all"):
        block.outcome(ENDED, DOCUMENT)


@pytest.mark.parametrize("expression", ["to_string(@)", "join(',', values(@))", "(to_string) ( @ )"])
def test_whole_result_does_not_leave_as_a_text(expression: str) -> None:
    """Credentials that forbid full results refuse to make one text of them, when the block is made."""
    with pytest.raises(InvalidRequest, match="forbids full results"):
        workflow(credentials=credentials(forbid_full_result=True), result_fields={"all": expression})
    changed = workflow(credentials=credentials(forbid_full_result=True))
    changed.result_fields = {"all": expression}
    with pytest.raises(InvalidRequest, match="forbids full results"):
        changed.outcome(ENDED, DOCUMENT)


@pytest.mark.parametrize(
    "url", ["kyc.example/{execution_id}", "https://kyc.example/", "https://u:p@kyc.example/{execution_id}"]
)
def test_link_is_an_address_with_the_id(url: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidSettings, match="execution_url"):
        credentials(execution_url=url)


def test_prefixes_that_cannot_be_read_are_refused() -> None:
    """Else they would allow everything or nothing."""
    with pytest.raises(InvalidSettings, match="result_uri_prefixes"):
        credentials(result_uri_prefixes=["kyc"])


def test_file_that_is_gone_or_another_is_not_read(tmp_path: Path) -> None:
    """Size and digest tell; a storage that fails quotes nothing."""
    reference = {"execution_id": "e1", **written(ResultUri.parse(f"file://{tmp_path}/"), "e1", DOCUMENT)}
    (tmp_path / "e1.json").write_text('{"decision": "reject"}')
    with pytest.raises(InvalidRequest, match="SHA-256"):
        load_result(reference)
    (tmp_path / "e1.json").unlink()
    with pytest.raises(NotFound, match="no longer"):
        load_result(reference)
    with pytest.raises(StorageFailed):
        written(ResultUri.parse("file:///proc/nowhere/"), "e1", DOCUMENT)


def test_file_outside_the_prefixes_is_not_read(tmp_path: Path) -> None:
    """A reference may have come from anywhere: the credentials say from where a result may come, too."""
    bound = credentials(result_uri_prefixes=[f"file://{tmp_path}/kyc/"])

    def stored(folder: str) -> dict[str, Any]:
        return {"execution_id": "e1", **written(ResultUri.parse(f"file://{tmp_path}/{folder}/"), "e1", DOCUMENT)}

    outside = stored("other")
    with pytest.raises(InvalidRequest, match="and the result_uri of this reference is not"):
        load_result(outside, bound)
    with pytest.raises(InvalidRequest, match="and the result_uri of this reference is not"):
        asyncio.run(aload_result(outside, bound))
    assert load_result(stored("kyc"), bound) == DOCUMENT


def test_storage_outside_the_prefixes_is_not_reached() -> None:
    """It is not even looked for: what is missing here, s3's package, is not said."""
    reference = {"execution_id": "e1", "result_uri": "s3://other/e1.json", "sha256": "ab", "size": 1}
    with pytest.raises(InvalidRequest, match="allows results only below s3://kyc/"):
        load_result(reference, credentials(result_uri_prefixes=["s3://kyc/"]))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({}, "execution_id"),
        ({"execution_id": "e1"}, "credentials"),
        ({"execution_id": "e1", "result_uri": "file:///kyc/e1.json"}, "lacks sha256 or size"),
        ({"execution_id": "e1", "result_uri": "s3://k:PLANTED@b/e1.json"}, "password"),
    ],
)
def test_reference_that_cannot_be_used(reference: dict[str, Any], said: str) -> None:
    """It is said why, and nothing of a credential."""
    with pytest.raises(InvalidRequest, match=said) as caught:
        load_result(reference)
    assert "PLANTED" not in str(caught.value)


def test_storage_without_its_package_is_said() -> None:
    """Which storage, and that its package is missing."""
    with pytest.raises(InvalidSettings, match=r"s3://bucket cannot be used in this process"):
        storage(ResultUri.parse("s3://bucket/kyc/"))
