"""
Who proves deliveries of each service: from what a person has configured to verifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tl_orchestration.secret import Secret
from tl_orchestration.webhooks.keys import FetchedKeys, Keys, PinnedKeys
from tl_orchestration.webhooks.public_key import KeyServer
from tl_orchestration.webhooks.signatures import B3OS_HEADER, HmacVerifier, JwsVerifier, Verifier


def verifiers(
    *,
    pinned: str | Path | None,
    key_server: Callable[[], KeyServer],
    unencoded: bool,
    b3os_secrets: Sequence[Secret],
    b3os_header: str | None,
) -> list[Verifier]:
    """
    A verifier of Transactionlink's deliveries, and one of B3OS' where there is a secret.

    Args:
        pinned: Folder with the keys to take, and no others; None: they are fetched.
        key_server: Where from, asked only then.
        unencoded: Whether signatures over the body as it is are taken, too.
        b3os_secrets: Each of them proves a delivery.
        b3os_header: Where B3OS puts its proof; None: where its documents say.

    Raises:
        InvalidSettings: The folder, or the server's address, cannot be used.
    """
    keys: Keys = PinnedKeys.in_folder(pinned) if pinned else FetchedKeys(key_server().fetch)
    found: list[Verifier] = [JwsVerifier(keys, allow_unencoded=unencoded)]
    if b3os_secrets:
        found.append(HmacVerifier(b3os_secrets, header=b3os_header or B3OS_HEADER))
    return found


__all__ = ["verifiers"]
