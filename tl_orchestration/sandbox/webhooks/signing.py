"""The keys that webhooks are signed with, and the signatures as the services form them."""

import base64
import hashlib
import hmac
import json
import threading
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tl_orchestration.sandbox.ids import Streams

_BITS = 2048
_EXPONENT = 65537


class Keyring:
    """
    Every key that was used to sign, by its `kid`; the newest signs. The first is made when it is needed.

    Args:
        ids: names the keys.
    """

    def __init__(self, ids: Streams) -> None:
        self._ids = ids
        self._lock = threading.Lock()
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self._withdrawn: set[str] = set()
        self._stranger: rsa.RSAPrivateKey | None = None

    @property
    def published(self) -> list[str]:
        """The names of the keys that are told to whoever asks, oldest first."""
        with self._lock:
            return [kid for kid in self._keys if kid not in self._withdrawn]

    def public(self, kid: str, *, pem: bool) -> str | None:
        """A public key as PEM, or the bare base64 of its DER form; `None` where it is not published."""
        with self._lock:
            key = None if kid in self._withdrawn else self._keys.get(kid)
        if key is None:
            return None
        encoding = serialization.Encoding.PEM if pem else serialization.Encoding.DER
        data = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        return data.decode() if pem else base64.b64encode(data).decode()

    def rotate(self, *, withdraw: bool) -> str:
        """Sign by a new key from now on, and publish the former ones no more where `withdraw`. Returns its name."""
        made = _new_key()
        with self._lock:
            if withdraw:
                self._withdrawn.update(self._keys)
            kid = self._ids.uuid("webhook keys")
            self._keys[kid] = made
            return kid

    def sign(self, body: bytes) -> str:
        """The value of `JWS-SIGNATURE` for a body."""
        kid, key = self._newest()
        return _jws(kid, key, body)

    def sign_by_stranger(self, body: bytes) -> str:
        """The same, in the name of the newest key, but by another one."""
        kid, _ = self._newest()
        if self._stranger is None:
            self._stranger = _new_key()
        return _jws(kid, self._stranger, body)

    def _newest(self) -> tuple[str, rsa.RSAPrivateKey]:
        if not self._keys:
            made = _new_key()
            with self._lock:
                if not self._keys:
                    self._keys[self._ids.uuid("webhook keys")] = made
        with self._lock:
            return next(reversed(self._keys.items()))


def b3os_signature(secret: str, body: bytes) -> str:
    """The value of `x-b3os-signature` for a body."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(_EXPONENT, _BITS)


def _jws(kid: str, key: rsa.RSAPrivateKey, body: bytes) -> str:
    header = _encoded(_json({"alg": "RS256", "kid": kid, "typ": "JWT"}))
    signature = key.sign(f"{header}.{_encoded(body)}".encode(), padding.PKCS1v15(), SHA256())
    return f"{header}..{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
