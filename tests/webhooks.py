"""
Keys, signatures and deliveries for the tests of webhooks, made with a library that the product does not use.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from tl_orchestration.webhooks.signatures import Delivery

KID = "070725bf-1b2c-4d3e-8f4a-5b6c7d8e9f00"
OTHER_KID = "170725bf-1b2c-4d3e-8f4a-5b6c7d8e9f00"
ID = "5d0c2f7e-3b1a-4c9d-8e7f-112233445566"
BODY = json.dumps({"workflowId": ID, "referenceName": "kyc-approve", "type": "WORKFLOW_COMPLETED"}).encode()
HEADER = {"alg": "RS256", "kid": KID, "typ": "JWT"}

KEY = rsa.generate_private_key(65537, 2048)
STRANGER = rsa.generate_private_key(65537, 2048)


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def pem_of(key: rsa.RSAPrivateKey) -> str:
    """Its public half as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def sign_input(data: bytes, key: rsa.RSAPrivateKey = KEY, algorithm: hashes.HashAlgorithm | None = None) -> str:
    """The signature of bytes, as a segment."""
    return b64(key.sign(data, padding.PKCS1v15(), algorithm or hashes.SHA256()))


def token(
    header: dict[str, Any] | str | None = None, body: bytes = BODY, key: rsa.RSAPrivateKey = KEY, middle: str = ""
) -> str:
    """A detached JWS over the body; a header given as text is taken word for word."""
    text = header if isinstance(header, str) else json.dumps(HEADER if header is None else header)
    protected = b64(text.encode("utf-8", "surrogatepass"))
    return f"{protected}.{middle}.{sign_input(f'{protected}.{b64(body)}'.encode(), key)}"


def library_takes(value: str, body: bytes, public: str) -> bool:
    """Whether the other library takes a detached JWS over the body, by a public key in PEM."""
    protected, _, signature = value.split(".")
    try:
        found = jws.deserialize_compact(f"{protected}.{b64(body)}.{signature}", RSAKey.import_key(public), ["RS256"])
    except JoseError:
        return False
    return found.payload == body


def unencoded(header: dict[str, Any], body: bytes = BODY) -> str:
    """A detached JWS over the body as it is (RFC 7797)."""
    protected = b64(json.dumps(header).encode())
    return f"{protected}..{sign_input(protected.encode() + b'.' + body)}"


#: The header of such a one.
UNENCODED = {**HEADER, "b64": False, "crit": ["b64"]}


def by_library(body: bytes = BODY, header: dict[str, Any] | None = None) -> str:
    """The same by another library, which knows nothing of ours."""
    key = RSAKey.import_key(
        KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    )
    return str(jws.detach_content(jws.serialize_compact(header or HEADER, body, key)))


def delivery(value: str | None = None, body: bytes = BODY, **more: str) -> Delivery:
    """A delivery with this ``JWS-SIGNATURE``."""
    headers = [("Content-Type", "application/json"), *more.items()]
    return Delivery(body, tuple(headers if value is None else [*headers, ("JWS-SIGNATURE", value)]))
