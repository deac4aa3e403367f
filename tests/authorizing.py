"""
A service that gives tokens for key and secret, and requests that need one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import httpx

URL = "https://api.transactionlink.io"
KEY, SECRET = "key-PLANTED-1", "secret-PLANTED-2"


class Service:
    """
    Gives tokens, and answers what comes with one of them.

    Args:
        lifetime: ``expiryDuration`` of each token.
        delay: Seconds that each authorization takes, in real time.
        under_way: Authorizations that have begun.
    """

    def __init__(self, lifetime: Any = 3600, delay: float = 0.0) -> None:
        self.lifetime = lifetime
        self.delay = delay
        self.under_way = 0
        self.given = 0
        self.refused: set[str] = set()
        self.headers: list[str] = []
        self.asked: list[httpx.Request] = []
        self.answers: list[httpx.Response] = []
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/auth/authorize"):
            self.under_way += 1
            time.sleep(self.delay)
            return self._authorize(request)
        return self._answer(request)

    async def awaited(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/auth/authorize"):
            self.under_way += 1
            await asyncio.sleep(self.delay)
            return self._authorize(request)
        return self._answer(request)

    def _authorize(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.asked.append(request)
            if self.answers:
                return self.answers.pop(0)
            self.given += 1
            token = {"accessToken": f"token-{self.given}", "refreshToken": "r", "tokenType": "Bearer"}
            return httpx.Response(200, json=token | {"expiryDuration": self.lifetime})

    def _answer(self, request: httpx.Request) -> httpx.Response:
        header = request.headers["Authorization"]
        self.headers.append(header)
        return httpx.Response(401 if header in self.refused else 200, json={"from": str(request.url)})


def one(auth: httpx.Auth, service: Service, url: str = URL, extensions: dict[str, Any] | None = None) -> httpx.Response:
    """One request through an authentication flow."""
    with httpx.Client(transport=httpx.MockTransport(service), auth=auth) as client:
        return client.post(f"{url}/workflows/run", json={}, extensions={"base_url": url, **(extensions or {})})
