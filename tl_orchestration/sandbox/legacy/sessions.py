"""What `POST /auth/authorize` has handed out."""

import base64
import json
from typing import Any

import attrs

from tl_orchestration.sandbox.credentials import Key
from tl_orchestration.sandbox.ids import Streams

REFRESH_LIFETIME = 90 * 24 * 3600
"""Seconds that a refresh token lasts."""


@attrs.frozen(kw_only=True)
class Session:
    """One authorization; times are epoch seconds."""

    key: Key
    access_token: str = attrs.field(repr=False)
    access_until: float
    refresh_token: str = attrs.field(repr=False)
    refresh_until: float


class Sessions:
    """
    Every authorization of one sandbox.

    Args:
        ids: makes the tokens.
        workspace_id: told in their claims.
    """

    def __init__(self, ids: Streams, workspace_id: str) -> None:
        self._ids = ids
        self._workspace_id = workspace_id
        self._by_access: dict[str, Session] = {}
        self._by_refresh: dict[str, Session] = {}

    def open(self, key: Key, now: float, lifetime: float) -> Session:
        """Authorize a key for so many seconds."""
        session = Session(
            key=key,
            access_token=self._jwt("none", now, lifetime),
            access_until=now + lifetime,
            refresh_token=self._jwt("HS512", now, REFRESH_LIFETIME),
            refresh_until=now + REFRESH_LIFETIME,
        )
        self._by_access[session.access_token] = session
        self._by_refresh[session.refresh_token] = session
        return session

    def key_of_access(self, token: str, now: float) -> Key | None:
        """Whose access token this is; `None` where it is nobody's or has expired."""
        session = self._by_access.get(token)
        return session.key if session is not None and now < session.access_until else None

    def key_of_refresh(self, token: str, now: float) -> Key | None:
        """Whose refresh token this is; `None` where it is nobody's or has expired."""
        session = self._by_refresh.get(token)
        return session.key if session is not None and now < session.refresh_until else None

    def _jwt(self, algorithm: str, now: float, lifetime: float) -> str:
        """A text with the shape of a JWT; its signature is only there to tell it from others."""
        header = _segment({"alg": algorithm, "typ": "JWT"})
        times = {"iat": int(now), "exp": int(now + lifetime)}
        claims = _segment({"workspaceId": self._workspace_id, **times, "custom:teamId": "sandbox"})
        return f"{header}.{claims}.{self._ids.hex('sessions', 48)}"


def _segment(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
