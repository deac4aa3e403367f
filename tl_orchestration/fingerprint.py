"""
A keyed digest of a request: tells whether a retry asks for the same thing, and nothing else.

KYC fields can be guessed, so a bare hash would be personal data. The key is derived from the credential; after a
rotation the digest can no longer be compared, and the key's id says so.
"""

from __future__ import annotations

import hashlib
import hmac
import json

from attrs import frozen

from tl_orchestration.models import RunRequest

_PURPOSE = b"tl-orchestration request fingerprint 1"


@frozen
class Fingerprint:
    """
    Digest and the id of the key that made it; both hexadecimal.
    """

    digest: str
    key_id: str

    def differs_from(self, digest: str | None, key_id: str | None) -> bool:
        """
        Whether the other digest is of another request. False where it cannot be told: other key, or none recorded.
        """
        return key_id == self.key_id and digest is not None and not hmac.compare_digest(digest, self.digest)

    def is_of(self, digest: str | None, key_id: str | None) -> bool:
        """
        Whether the other digest is provably of the same request.
        """
        return key_id == self.key_id and digest is not None and hmac.compare_digest(digest, self.digest)


def fingerprint(request: RunRequest, secret: bytes) -> Fingerprint:
    """
    Over definition, record, parameters and options. Locale and expiry may change between tries without meaning
    another run.
    """
    key = hmac.digest(secret, _PURPOSE, "sha256")
    parts: list[object] = [request.workflow_definition_id, request.record_id, request.parameters]
    if request.options is not None:
        parts.append(request.options.identity())
    content = json.dumps(
        parts,
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return Fingerprint(
        digest=hmac.digest(key, content.encode(), "sha256").hex(),
        key_id=hashlib.sha256(b"key id" + key).hexdigest()[:16],
    )
