"""
The envelope of a detached JWS (RFC 7515, appendix F), read so strictly that there is only one way to read it.

Nothing in it is trusted: the algorithm is ours, and ``kid`` is a name to look up and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from attrs import field, frozen

from tl_orchestration.errors import WebhookRefused
from tl_orchestration.strict_json import strict_object

#: The only algorithm (contract A7).
ALGORITHM = "RS256"
#: Longest header value, characters.
LONGEST = 8 * 1024
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_KID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
#: Members by which a sender could bring its own key, or have the bytes changed before they are verified.
_FORBIDDEN = frozenset({"jku", "jwk", "x5u", "x5c", "enc", "zip"})


@frozen
class Envelope:
    """
    What the header of a delivery claims.

    Args:
        kid: Name of the key, safe to look up.
        signature: As decoded.
    """

    kid: str
    signature: bytes = field(repr=False)
    _protected: str = field(repr=False)
    _encoded: bool = field(repr=False)

    def signing_input(self, body: bytes) -> bytes:
        """
        The bytes that were signed, for the untouched body.
        """
        payload = base64.urlsafe_b64encode(body).rstrip(b"=") if self._encoded else body
        return self._protected.encode("ascii") + b"." + payload


def read_envelope(value: str, *, allow_unencoded: bool) -> Envelope:
    """
    Read the value of ``JWS-SIGNATURE``.

    Args:
        allow_unencoded: Whether the header may say ``"b64": false`` (RFC 7797), named in ``crit``.

    Raises:
        WebhookRefused: It is not a detached JWS in canonical form, or it asks for something that is not supported.
    """
    if len(value) > LONGEST:
        raise WebhookRefused("The signature header is too long.")
    segments = value.split(".")
    if len(segments) != 3 or segments[1] != "":
        raise WebhookRefused("The signature header is not a detached JWS.")
    protected, _, signature = segments
    try:
        header = strict_object(_decoded(protected))
        signed = _decoded(signature)
    except ValueError:
        raise WebhookRefused("The signature header is not a detached JWS in canonical form.") from None
    if header.get("alg") != ALGORITHM:
        raise WebhookRefused(f"The signature is not by {ALGORITHM}.")
    if not _FORBIDDEN.isdisjoint(header):
        raise WebhookRefused("The signature header brings a key or an encoding of its own.")
    kid = header.get("kid")
    if not isinstance(kid, str) or not _KID.fullmatch(kid) or set(kid) == {"."}:
        raise WebhookRefused("The signature header names no usable key.")
    return Envelope(kid, signed, protected, _is_encoded(header, allow_unencoded=allow_unencoded))


def _is_encoded(header: dict[str, Any], *, allow_unencoded: bool) -> bool:
    if "crit" not in header and "b64" not in header:
        return True
    if allow_unencoded and header.get("crit") == ["b64"] and header.get("b64") is False:
        return False
    raise WebhookRefused("The signature header asks for an extension that is not supported.")


def _decoded(segment: str) -> bytes:
    """
    Raises:
        ValueError: Not base64url, or not the one form of these bytes.
    """
    if not _BASE64URL.fullmatch(segment):
        raise ValueError("not base64url")
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode("ascii") != segment:
        raise ValueError("not canonical")
    return decoded
