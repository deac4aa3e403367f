"""
Calls of a service with an HTTP interface, and waiting for what they bring about.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

POLL = 0.2
"""
Seconds between two looks at something that is awaited.
"""


class ServiceError(RuntimeError):
    """
    The service did not do what was asked.

    Args:
        status: HTTP status of the answer, if there was one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ServiceTimeoutError(ServiceError, TimeoutError):
    """
    Something awaited did not come about in time.
    """


class HttpService:
    """
    Access to one service.

    Args:
        base_url: What the paths of all calls follow.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._http = httpx.Client(base_url=base_url, timeout=60, trust_env=False)

    def close(self) -> None:
        """
        Close the connections.
        """
        self._http.close()

    def wait_for(self, look: Callable[[], T | None], what: str, timeout: float, explain: Callable[[], str] = str) -> T:
        """
        Look until there is something to see. A service that does not answer, or cannot, is no reason to give up.

        Args:
            what: Named in the error.
            timeout: Seconds.
            explain: What to add to the error.
        """
        deadline = time.monotonic() + timeout
        while True:
            seen, trouble = self._look(look)
            if seen is not None:
                return seen
            self.check()
            if time.monotonic() >= deadline:
                said = f"Waited {timeout:g} s in vain for {what}."
                more = trouble or explain()
                raise ServiceTimeoutError("\n".join(filter(None, [said, more, self.complaints()])))
            time.sleep(POLL)

    def check(self) -> None:
        """
        Raise if waiting has become pointless.
        """

    def complaints(self) -> str:
        """
        What the service has to say about itself.
        """
        return ""

    def _send(self, method: str, path: str, arguments: dict[str, Any]) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except (httpx.HTTPError, RuntimeError) as error:  # httpx says RuntimeError if the client was closed
            raise ServiceError(f"{method} {path}: {error!r}") from error

    @staticmethod
    def _decoded(answer: httpx.Response) -> Any:
        if answer.is_error:
            request = f"{answer.request.method} {answer.request.url.path}"
            raise ServiceError(f"{request}: {answer.status_code} {answer.text[:2000]}", answer.status_code)
        return answer.json() if answer.content else None

    @staticmethod
    def _look(look: Callable[[], T | None]) -> tuple[T | None, str]:
        try:
            return look(), ""
        except ServiceTimeoutError:
            raise
        except ServiceError as error:
            if error.status is not None and error.status < 500:
                raise
            return None, str(error)
