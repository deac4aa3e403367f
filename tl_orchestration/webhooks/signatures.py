"""
Whether a delivery comes from the service: the two ways in which the services sign.

The untouched bytes are verified before anything of them is parsed. Every refusal is the same error, and what the sender
is told does not depend on its reason.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Protocol

from attrs import field, frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from tl_orchestration.errors import InvalidSettings, WebhookRefused
from tl_orchestration.secret import Secret
from tl_orchestration.webhooks.envelope import LONGEST, Envelope, read_envelope
from tl_orchestration.webhooks.keys import Keys

#: The header of a Transactionlink delivery (contract A7).
JWS_HEADER = "jws-signature"
#: The header of a B3OS delivery, as in the vendor's examples (contract B5): to be checked for each deployment.
B3OS_HEADER = "x-b3os-signature"


@frozen
class Delivery:
    """
    One request as it arrived.

    Args:
        body: The untouched bytes.
        headers: Name and value of each, in the order of arrival; the same name may come twice.
    """

    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    def only(self, name: str) -> str:
        """
        The value of a header that must be there once.

        Raises:
            WebhookRefused: It is not there, there twice, or too long.
        """
        values = [value for known, value in self.headers if known.lower() == name]
        if len(values) != 1:
            raise WebhookRefused("The delivery does not have exactly one signature header.")
        if len(values[0]) > LONGEST:
            raise WebhookRefused("The signature header is too long.")
        return values[0].strip(" \t")


@frozen
class Check:
    """
    A verification under way.

    Args:
        ready: Done when :meth:`finish` can be called without waiting for the network; None: it can at once.
    """

    ready: Future[RSAPublicKey] | None
    _finish: Callable[[], None]

    def finish(self) -> None:
        """
        Raises:
            WebhookRefused: The delivery does not come from the service, as far as can be said.
        """
        self._finish()


class Verifier(Protocol):
    """
    One way in which a service signs.
    """

    @property
    def service(self) -> str:
        """
        The service whose deliveries it verifies.
        """

    def begin(self, delivery: Delivery) -> Check:
        """
        Raises:
            WebhookRefused: The delivery is refused without a look at any key.
        """


class JwsVerifier:
    """
    Transactionlink's way: a detached JWS by RS256 in ``JWS-SIGNATURE``.

    Args:
        keys: Public keys by ``kid``.
        allow_unencoded: As for :func:`~tl_orchestration.webhooks.envelope.read_envelope`.
    """

    service = "transactionlink"

    def __init__(self, keys: Keys, *, allow_unencoded: bool = False) -> None:
        self._keys = keys
        self._allow_unencoded = allow_unencoded

    def begin(self, delivery: Delivery) -> Check:
        """
        As :meth:`Verifier.begin`. The key may have to be fetched.
        """
        envelope = read_envelope(delivery.only(JWS_HEADER), allow_unencoded=self._allow_unencoded)
        key = self._keys.lookup(envelope.kid)
        return Check(key, lambda: _verify(envelope, delivery.body, key.result()))


class HmacVerifier:
    """
    B3OS's way: HMAC-SHA256 of the body in lower-case hexadecimal digits, with or without ``sha256=`` before them.

    Args:
        secrets: Signing secrets of the endpoint; more than one while they are rotated.
        header: The header's name.

    Raises:
        InvalidSettings: There is no secret, or an empty one.
    """

    service = "b3os"

    def __init__(self, secrets: Iterable[Secret], *, header: str = B3OS_HEADER) -> None:
        self._secrets = tuple(secrets)
        self._header = header.lower()
        if not self._secrets or not all(secret.reveal() for secret in self._secrets):
            raise InvalidSettings("The signing secret of the B3OS webhook is missing or empty.")

    def begin(self, delivery: Delivery) -> Check:
        """
        As :meth:`Verifier.begin`.
        """
        given = delivery.only(self._header).removeprefix("sha256=").encode("utf-8", "replace")
        return Check(None, lambda: self._compare(given, delivery.body))

    def _compare(self, given: bytes, body: bytes) -> None:
        # Every secret is tried, so that the time says nothing about which one fits.
        fits = [
            hmac.compare_digest(hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest().encode(), given)
            for secret in self._secrets
        ]
        if not any(fits):
            raise WebhookRefused("The signature does not fit the body.")


def _verify(envelope: Envelope, body: bytes, key: RSAPublicKey) -> None:
    try:
        key.verify(envelope.signature, envelope.signing_input(body), PKCS1v15(), SHA256())
    except InvalidSignature:
        raise WebhookRefused("The signature does not fit the body.") from None


__all__ = ["B3OS_HEADER", "JWS_HEADER", "Check", "Delivery", "HmacVerifier", "JwsVerifier", "Verifier"]
