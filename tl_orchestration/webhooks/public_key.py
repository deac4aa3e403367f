"""
Public keys as text, and from the service: ``GET /auth/webhooks/key/{kid}`` (contract A7).
"""

from __future__ import annotations

import base64
import binascii
import re
import time

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from tl_orchestration.errors import NoAnswer
from tl_orchestration.interruptible import Interrupted, InterruptibleTransport, Interruption
from tl_orchestration.settings import Settings, base_url, environment_proxy, tls_context
from tl_orchestration.wire_log import contents_unlogged

#: Longest time for fetching a key, seconds.
LONGEST_FETCH = 5.0
#: Longest answer, bytes.
LARGEST_KEY = 64 * 1024
_BITS = range(2048, 8193)
#: Answers that mean: there is no such key.
_ABSENT = frozenset({400, 404, 410})
_SPACE = re.compile(rb"\s+")


def read_key(data: bytes) -> RSAPublicKey:
    """
    An RSA public key of 2048 to 8192 bits, as PEM or as the bare base64 of its DER form.

    Raises:
        ValueError: It is nothing of this.
    """
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            key = load_pem_public_key(data)
        else:
            key = load_der_public_key(base64.b64decode(_SPACE.sub(b"", data), validate=True))
    except (ValueError, binascii.Error, TypeError):
        raise ValueError("it is not a public key") from None
    except Exception as error:  # the library has more classes for what it does not support
        raise ValueError(f"it is not a public key ({type(error).__name__})") from None
    if not isinstance(key, RSAPublicKey):
        raise ValueError("it is not an RSA key")
    if key.key_size not in _BITS:
        raise ValueError(f"its size is {key.key_size} bits, not {_BITS.start} to {_BITS.stop - 1}")
    return key


def pem(key: RSAPublicKey) -> str:
    """
    The key as PEM text.
    """
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def fingerprint(key: RSAPublicKey) -> str:
    """
    SHA-256 of its DER form, hexadecimal.
    """
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


class KeyServer:
    """
    Fetches keys from one host, without a credential, and follows no redirect.

    Args:
        url: Base URL of the service.
        settings: Proxy, certificate authorities, client certificate, allowed hosts.

    Raises:
        InvalidSettings: The URL may not be called, or a file cannot be used.
    """

    def __init__(self, url: str, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self.base_url = base_url(url, self._settings.allowed_hosts)
        self._tls = tls_context(self._settings.ca_bundle, self._settings.client_cert)
        self._proxy = self._settings.proxy or environment_proxy(self.base_url)
        self._interruption = Interruption(monotonic=time.monotonic)

    def fetch(self, kid: str) -> RSAPublicKey | None:
        """
        Ask for a key; None: the service has none of this name.

        Args:
            kid: Checked by the caller: it becomes a part of the path.

        Raises:
            NoAnswer: No answer, or none that is a key.
        """
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=0)
        request = httpx.Request(
            "GET",
            f"{self.base_url}/auth/webhooks/key/{kid}",
            params={"pem": "true"},
            headers={"Accept": "text/plain", "Accept-Encoding": "identity", "User-Agent": "tl-orchestration"},
            extensions={"timeout": {"connect": self._settings.connect_timeout}},
        )
        try:
            with (
                InterruptibleTransport(self._interruption, self._tls, limits, self._proxy) as transport,
                self._interruption.limited(LONGEST_FETCH, None),
                contents_unlogged(),
            ):
                return _read(transport.handle_request(request))
        except (Interrupted, httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise NoAnswer(f"{self.base_url} did not answer ({type(error).__name__}).", sent=True) from None
        except ValueError as error:
            raise NoAnswer(f"{self.base_url} gave an answer that cannot be used: {error}.", sent=True) from None


def _read(answer: httpx.Response) -> RSAPublicKey | None:
    try:
        if answer.status_code in _ABSENT:
            return None
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ValueError("it is compressed")
        body = b""
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) > LARGEST_KEY:
                raise ValueError("it is too large")
        return read_key(body)
    finally:
        answer.close()


__all__ = ["KeyServer", "fingerprint", "pem", "read_key"]
