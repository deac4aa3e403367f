"""
What may name a step in a ledger.
"""

from __future__ import annotations

from tl_orchestration.errors import InvalidRequest

#: Longest key, bytes of UTF-8. PostgreSQL's index takes no more, namespace included.
LONGEST_KEY = 2000


def checked_key(value: object) -> str:
    """
    The key, if every ledger can keep it.

    Raises:
        InvalidRequest: It is not text, blank, not printable or too long. The message does not quote it.
    """
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value.encode()) > LONGEST_KEY:
        raise InvalidRequest(f"A ledger key is printable text of 1 to {LONGEST_KEY} bytes, and not only white space.")
    return value


__all__ = ["LONGEST_KEY", "checked_key"]
