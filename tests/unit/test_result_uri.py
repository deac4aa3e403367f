"""
Which storage URIs are taken for a result, and which of them a connection allows.
"""

from __future__ import annotations

from typing import Any

import pytest

from tl_orchestration.errors import InvalidRequest, InvalidSettings
from tl_orchestration.result_uri import ResultUri, prefixes


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("file:///var/kyc/", "file:///var/kyc/e1.json"),
        ("file:///var/kyc", "file:///var/kyc/e1.json"),
        ("file:///", "file:///e1.json"),
        ("local:///var/kyc", "file:///var/kyc/e1.json"),
        ("S3://Bucket/Kyc/", "s3://bucket/Kyc/e1.json"),
        ("s3://bucket", "s3://bucket/e1.json"),
        ("s3://aws_kyc@bucket/kyc/one.json", "s3://aws_kyc@bucket/kyc/one.json"),
        ("s3://bucket/kyc.json/", "s3://bucket/kyc.json/e1.json"),
        ("sftp://drop@host:2222/in", "sftp://drop@host:2222/in/e1.json"),
    ],
)
def test_uri_is_a_folder_unless_it_ends_in_json(text: str, file: str) -> None:
    """The file is named by the execution, or by the URI; its normal form is read back as the same."""
    uri = ResultUri.parse(text)
    assert str(uri.file_of("e1")) == file
    assert ResultUri.parse(str(uri)) == uri
    assert ResultUri.parse(file) == uri.file_of("e1")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s3://AKIA:PLANTED@bucket/kyc/", "password"),
        ("s3://AKIA:PLAN/TED@bucket/kyc/", "password"),
        ("s3://AKIA%3APLANTED@bucket/kyc/", "password"),
        ("s3://AKIA:PLANTED@aws@bucket/kyc/", "password"),
        ("s3://@bucket/", "password"),
        ("abfs://kyc/in?sig=PLANTED", "query"),
        ("s3://bucket/kyc/#PLANTED", "fragment"),
        ("s3://bucket/kyc/../PLANTED/", "'..'"),
        ("s3://bucket/./kyc/", "'.'"),
        ("s3://bucket//kyc/", "an empty part"),
        ("s3://bucket/kyc//", "an empty part"),
        ("s3://bucket/kyc/%2e%2e/PLANTED/", "encoded dot"),
        ("s3://bucket/kyc/%2E./PLANTED/", "encoded dot"),
        ("s3://bucket/kyc%2Fin/", "encoded dot, slash"),
        ("s3://bucket/%252e%252e/", "percent sign"),
        ("s3://bucket/kyc\\..\\PLANTED", "backslash"),
        ("simplecache::s3://bucket/kyc/", "chain"),
        ("zip://in.json::s3://bucket/kyc.zip", "chain"),
        ("file://kyc/", "three slashes"),
        ("file://", "three slashes"),
        ("file://conn@/var/kyc/", "three slashes"),
        ("s3:///kyc/", "no bucket"),
        ("s3://buck et/", "no bucket"),
        ("s3://bucket:PLANTED/", "no bucket"),
        (" s3://bucket/", "printable"),
        ("s3://bucket/\n", "printable"),
        ("s3:/bucket/", "'://'"),
        (None, "'://'"),
    ],
)
def test_uri_that_may_hold_a_secret_or_has_two_readings_is_refused(text: Any, why: str) -> None:
    """One sentence that says what is wrong, and quotes nothing."""
    with pytest.raises(InvalidRequest) as caught:
        ResultUri.parse(text)
    assert why in str(caught.value)
    assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "prefix", "within"),
    [
        ("s3://bucket/kyc/2026/", "s3://bucket/kyc/", True),
        ("s3://bucket/kyc", "s3://bucket/kyc/", True),
        ("S3://BUCKET/kyc/", "s3://bucket/kyc", True),
        ("s3://bucket/kyc/", "s3://bucket", True),
        ("s3://bucket/kyc-old/", "s3://bucket/kyc", False),
        ("s3://bucket/kyc.json", "s3://bucket/kyc", False),
        ("s3://bucket/KYC/", "s3://bucket/kyc/", False),
        ("s3://bucket/", "s3://bucket/kyc/", False),
        ("s3://bucket-2/kyc/", "s3://bucket/kyc/", False),
        ("gs://bucket/kyc/", "s3://bucket/kyc/", False),
        ("s3://other@bucket/kyc/", "s3://bucket/kyc/", False),
        ("s3://bucket/kyc/", "s3://aws@bucket/kyc/", False),
        ("s3://aws@bucket/kyc/", "s3://aws@bucket/kyc/", True),
        ("local:///var/kyc/", "file:///var/kyc/", True),
        ("file:///etc/", "file:///var/kyc/", False),
        ("file:///etc/", "file:///", True),
    ],
)
def test_prefix_ends_at_a_part_of_the_path(text: str, prefix: str, *, within: bool) -> None:
    """Scheme and host in whatever case; another connection is another storage, for it may lead to another host."""
    assert ResultUri.parse(text).is_within(ResultUri.parse(prefix)) is within


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("", []),
        (" , ", []),
        ([], []),
        ("[]", []),
        ("s3://a/kyc", ["s3://a/kyc/"]),
        ("s3://a/kyc/, gs://b/\n file:///c", ["s3://a/kyc/", "gs://b/", "file:///c/"]),
        ('["s3://a/kyc/", "gs://b/"]', ["s3://a/kyc/", "gs://b/"]),
        (["s3://a/my kyc/"], ["s3://a/my kyc/"]),
    ],
)
def test_prefixes_are_read_from_text_and_list(value: Any, expected: list[str]) -> None:
    """However an extra can hold them; nothing is no restriction."""
    assert [str(prefix) for prefix in prefixes(value)] == expected


@pytest.mark.parametrize(
    "value", ["bucket/kyc", "[", '["s3://a/", 7]', {"s3://a/": 1}, 7, False, [None], ["s3://k:PLANTED@a/"], [""]]
)
def test_prefixes_that_cannot_be_read_allow_nothing(value: Any) -> None:
    """A policy with a mistake is refused whole, rather than taken for none."""
    with pytest.raises(InvalidSettings) as caught:
        prefixes(value)
    assert "result_uri_prefixes" in str(caught.value)
    assert "PLANTED" not in str(caught.value)
