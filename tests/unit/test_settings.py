"""Where requests may go, and how: checked before anything is sent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from tests.planted import PROXY_PASSWORD, found_in
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.settings import (
    ALLOWED_HOSTS_VARIABLE,
    Settings,
    base_url,
    environment_proxy,
    is_loopback,
    tls_context,
)
from tl_orchestration.status import Status


@pytest.fixture(autouse=True)
def _no_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOWED_HOSTS_VARIABLE, raising=False)


class TestBaseUrl:
    @pytest.mark.parametrize(
        ("value", "allowed", "expected"),
        [
            ("https://api.transactionlink.io", None, "https://api.transactionlink.io"),
            (" https://API.Transactionlink.IO/ \n", None, "https://api.transactionlink.io"),
            ("https://api.transactionlink.io/v1//", None, "https://api.transactionlink.io/v1"),
            ("https://api.transactionlink.io:8443", None, "https://api.transactionlink.io:8443"),
            ("https://api.b3os.org", None, "https://api.b3os.org"),
            ("http://127.0.0.1:8321", None, "http://127.0.0.1:8321"),
            ("http://127.8.9.10", None, "http://127.8.9.10"),
            ("http://localhost:8321/", None, "http://localhost:8321"),
            ("http://[::1]:8321", None, "http://[::1]:8321"),
            ("https://[::1]", None, "https://[::1]"),
            ("https://kyc.example", ["kyc.example"], "https://kyc.example"),
            ("https://kyc.example", ["https://KYC.example/"], "https://kyc.example"),
            ("http://sandbox:8321", ["http://sandbox"], "http://sandbox:8321"),
            ("https://sandbox:8321", ["http://sandbox"], "https://sandbox:8321"),
            ("http://localhost", ["localhost"], "http://localhost"),
            ("http://[::1]", ["::1"], "http://[::1]"),
        ],
    )
    def test_url_that_may_be_called(self, value: str, allowed: list[str] | None, expected: str) -> None:
        """https to a host on the allow-list, or http where it is loopback or named so, in one spelling."""
        assert expected == base_url(value, allowed)

    @pytest.mark.parametrize(
        ("value", "allowed", "says"),
        [
            ("", None, "must look like"),
            ("api.transactionlink.io", None, "must look like"),
            ("ftp://api.transactionlink.io", None, "must look like"),
            ("file:///etc/passwd", None, "must look like"),
            ("https://", None, "must look like"),
            ("https://api.transactionlink.io:99999", None, "not a URL"),
            ("https://api.transactionlink.io:x", None, "not a URL"),
            ("https://[::1", None, "not a URL"),
            ("http://api.transactionlink.io", None, "must be called by https"),
            ("http://kyc.example", ["kyc.example"], "must be called by https"),
            ("https://evil.example", None, "not on the allow-list"),
            ("https://api.transactionlink.io.evil.example", None, "not on the allow-list"),
            ("https://evil.example/api.transactionlink.io", None, "not on the allow-list"),
            ("https://api.transactionlink.io.", None, "not on the allow-list"),
            ("https://169.254.169.254", None, "not on the allow-list"),
            ("http://0.0.0.0:8321", None, "not on the allow-list"),
            ("http://2130706433", None, "not on the allow-list"),
            ("http://127.1", None, "not on the allow-list"),
            ("http://localhost.evil.example", None, "not on the allow-list"),
            ("https://api.transactionlink.io", ["kyc.example"], "not on the allow-list"),
            ("http://127.0.0.1", ["kyc.example"], "not on the allow-list"),
            ("http://127.0.0.1", ["http://sandbox"], "not on the allow-list"),
            ("http://127.0.0.1", ["api.transactionlink.io", "api.b3os.org"], "not on the allow-list"),
            ("https://api.sandbox.transactionlink.io", None, "decommissioned"),
            ("https://api.sandbox.transactionlink.io", ["api.sandbox.transactionlink.io"], "decommissioned"),
            ("https://api.transactionlink.io?x=1", None, "query or a fragment"),
            ("https://api.transactionlink.io#x", None, "query or a fragment"),
            ("https://user:pass@api.transactionlink.io", None, "user name or password"),
            ("https://user@api.transactionlink.io", None, "user name or password"),
            ("https://@api.transactionlink.io", None, "user name or password"),
            ("https://api.transactionlink.io@evil.example", None, "user name or password"),
            ("https://evil.example\\@api.transactionlink.io", None, "user name or password"),
        ],
    )
    def test_url_that_may_not(self, value: str, allowed: list[str] | None, says: str) -> None:
        """Anything else is refused, and the sentence says why."""
        with pytest.raises(InvalidSettings, match=says):
            base_url(value, allowed)

    def test_user_info_is_never_quoted(self) -> None:
        """A password that somebody wrote into a URL is in no message, however broken the URL is."""
        for rest in ("@api.transactionlink.io", "@evil.example", "@api.transactionlink.io:x", "@[::1", "@"):
            with pytest.raises(InvalidSettings) as caught:
                base_url(f"https://user:{PROXY_PASSWORD}{rest}")
            assert found_in(str(caught.value)) == []
            assert caught.value.__cause__ is None

    def test_environment_names_the_hosts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment's list replaces the defaults, and an argument replaces the environment."""
        monkeypatch.setenv(ALLOWED_HOSTS_VARIABLE, " kyc.example , http://sandbox,, ")
        assert base_url("https://kyc.example") == "https://kyc.example"
        assert base_url("http://sandbox:1") == "http://sandbox:1"
        for refused in ("https://api.transactionlink.io", "http://localhost"):
            with pytest.raises(InvalidSettings, match="allow-list"):
                base_url(refused)
        assert base_url("https://other.example", ["other.example"]) == "https://other.example"
        with pytest.raises(InvalidSettings, match="allow-list"):
            base_url("https://kyc.example", ["other.example"])

    @pytest.mark.parametrize("value", ["", " , "])
    def test_empty_environment_means_the_defaults(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """A variable that is set to nothing is as good as none."""
        monkeypatch.setenv(ALLOWED_HOSTS_VARIABLE, value)
        assert base_url("http://localhost") == "http://localhost"

    def test_port_zero_does_not_become_another(self) -> None:
        """A port that was written is kept, whatever it is."""
        assert base_url("http://127.0.0.1:0") == "http://127.0.0.1:0"


class TestLoopback:
    @pytest.mark.parametrize(
        ("host", "loopback"),
        [
            ("localhost", True),
            ("127.0.0.1", True),
            ("127.255.0.3", True),
            ("::1", True),
            ("0.0.0.0", False),
            ("::", False),
            ("10.0.0.1", False),
            ("localhost.localdomain", False),
            ("", False),
        ],
    )
    def test_is_this_machine_by_name_or_address(self, host: str, *, loopback: bool) -> None:
        """Only localhost and loopback addresses are; nothing is looked up."""
        assert loopback is is_loopback(host)


class TestProxy:
    @pytest.mark.parametrize(
        ("variables", "url", "expected"),
        [
            ({}, "https://api.transactionlink.io", None),
            ({"HTTPS_PROXY": "http://p:1"}, "https://api.transactionlink.io", "http://p:1"),
            ({"https_proxy": "http://p:1"}, "https://api.transactionlink.io", "http://p:1"),
            ({"ALL_PROXY": "http://p:1"}, "https://api.transactionlink.io", "http://p:1"),
            ({"HTTP_PROXY": "http://p:1"}, "https://api.transactionlink.io", None),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "transactionlink.io"}, "https://api.transactionlink.io", None),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://api.transactionlink.io", None),
            ({"HTTP_PROXY": "http://p:1"}, "http://localhost:1", None),
            ({"HTTPS_PROXY": "http://p:1"}, "https://[::1]:1", None),
        ],
    )
    def test_environment_names_it(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, expected: str | None
    ) -> None:
        """The usual variables name a proxy; loopback never has one."""
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert expected == environment_proxy(url)


class TestSettings:
    @pytest.mark.parametrize("name", ["request_timeout", "connect_timeout", "max_connections", "max_answer_bytes"])
    @pytest.mark.parametrize("value", [0, -1, math.nan])
    def test_limits_are_above_zero(self, name: str, value: float) -> None:
        """A limit of nothing is refused by name."""
        with pytest.raises(InvalidSettings, match=name):
            Settings(**{name: cast("Any", value)})

    def test_proxy_is_not_shown(self) -> None:
        """A proxy's URL may carry a password, so repr says only that there is one."""
        settings = Settings(proxy=f"http://user:{PROXY_PASSWORD}@proxy:3128")
        assert found_in(f"{settings} {settings!r}") == []
        assert "proxy='***'" in repr(settings)
        assert "proxy=None" in repr(Settings())

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (None, {}),
            ({"MANUAL": Status.WAITING}, {"MANUAL": Status.WAITING}),
            ({"MANUAL": "waiting", "OK": "SUCCEEDED"}, {"MANUAL": Status.WAITING, "OK": Status.SUCCEEDED}),
        ],
    )
    def test_status_map_is_read(self, given: Any, expected: dict[str, Status]) -> None:
        """Literals are taught with our own words, in any letter case."""
        assert expected == Settings(status_map=given).status_map

    @pytest.mark.parametrize("given", [{"MANUAL": "DONE"}, {"MANUAL": None}, ["MANUAL"], 7])
    def test_wrong_status_map_is_refused(self, given: Any) -> None:
        """A map to a word that we do not have is refused, and the words are listed."""
        with pytest.raises(InvalidSettings, match="PENDING, RUNNING"):
            Settings(status_map=given)


class TestTls:
    def test_context_is_built_once(self) -> None:
        """Contexts are shared: the same files give the same context."""
        assert tls_context(None, None) is tls_context(None, None)

    def test_replaced_files_are_read_again(self, tmp_path: Path) -> None:
        """A rotated certificate has the path of the former one; files that stay are read once."""
        authorities = trustme.CA(), trustme.CA()
        ca, client = tmp_path / "ca.pem", tmp_path / "client.pem"
        seen = []
        for authority in authorities:
            fresh = tmp_path / "fresh.pem"
            authority.cert_pem.write_to_path(fresh)
            fresh.replace(ca)
            for _ in range(2):
                authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(fresh)
                fresh.replace(client)
                seen.append(tls_context(str(ca), str(client)))
                assert tls_context(str(ca), str(client)) is seen[-1]
        assert len({id(context) for context in seen}) == 4
        assert all(context.get_ca_certs() for context in seen)

    @pytest.mark.parametrize("content", [None, "no certificate"])
    def test_file_that_is_no_certificate_is_refused(self, tmp_path: Path, content: str | None) -> None:
        """A CA bundle or client certificate that cannot be loaded is refused, with its path."""
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_text(content)
        with pytest.raises(InvalidSettings, match=r"ca\.pem cannot be loaded"):
            tls_context(str(file), None)
        with pytest.raises(InvalidSettings, match=r"ca\.pem cannot be loaded"):
            tls_context(None, str(file))

    def test_verification_is_on(self, tmp_path: Path) -> None:
        """Whatever the files, certificates and host names are checked, and old TLS is refused."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
        for context in (tls_context(None, None), tls_context(str(tmp_path / "ca.pem"), str(tmp_path / "client.pem"))):
            assert context.check_hostname
            assert context.verify_mode.name == "CERT_REQUIRED"
            assert context.minimum_version.name in {"TLSv1_2", "TLSv1_3"}
