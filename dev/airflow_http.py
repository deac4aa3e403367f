"""
Calls of Airflow's REST API, and waiting for what they bring about.
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


class AirflowError(RuntimeError):
    """
    Airflow did not do what was asked.

    Args:
        status: HTTP status of the answer, if there was one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AirflowTimeoutError(AirflowError, TimeoutError):
    """
    Something awaited did not come about in time.
    """


class AirflowHttp:
    """
    Access to one Airflow. Logs in by itself; the simple auth manager gives a token to everybody.

    Args:
        base_url: Of the api-server, without a path.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._http = httpx.Client(base_url=base_url, timeout=20, trust_env=False)

    def close(self) -> None:
        """
        Close the connections.
        """
        self._http.close()

    def request(self, method: str, path: str, root: str = "/api/v2", **arguments: Any) -> Any:
        """
        One call of the public interface, or of what the pages use (``root="/ui"``).

        Returns:
            The decoded answer.
        """
        try:
            answer = self._http.request(method, f"{root}/{path}", **arguments)
            if answer.status_code == 401:
                token = self._http.get("/auth/token").raise_for_status().json()["access_token"]
                self._http.headers["Authorization"] = f"Bearer {token}"
                answer = self._http.request(method, f"{root}/{path}", **arguments)
        except (httpx.HTTPError, RuntimeError) as error:  # httpx says RuntimeError if the client was closed
            raise AirflowError(f"{method} {path}: {error!r}") from error
        if answer.is_error:
            raise AirflowError(f"{method} {path}: {answer.status_code} {answer.text[:2000]}", answer.status_code)
        return answer.json() if answer.content else None

    def wait_for(self, look: Callable[[], T | None], what: str, timeout: float, explain: Callable[[], str] = str) -> T:
        """
        Look until there is something to see. An api-server that does not answer, or cannot, is no reason to give up.

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
                raise AirflowTimeoutError("\n".join(filter(None, [said, more, self.complaints()])))
            time.sleep(POLL)

    def check(self) -> None:
        """
        Raise if waiting has become pointless.
        """

    def complaints(self) -> str:
        """
        What Airflow has to say about itself.
        """
        return ""

    @staticmethod
    def _look(look: Callable[[], T | None]) -> tuple[T | None, str]:
        try:
            return look(), ""
        except AirflowTimeoutError:
            raise
        except AirflowError as error:
            if error.status is not None and error.status < 500:
                raise
            return None, str(error)
