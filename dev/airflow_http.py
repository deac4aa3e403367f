"""
Calls of Airflow's REST API.
"""

from __future__ import annotations

from typing import Any

from dev.http_service import HttpService, ServiceError


class AirflowHttp(HttpService):
    """
    Access to one Airflow. Logs in by itself; the simple auth manager gives a token to everybody.

    Args:
        base_url: Of the api-server, without a path.
    """

    def request(self, method: str, path: str, root: str = "/api/v2", **arguments: Any) -> Any:
        """
        One call of the public interface, or of what the pages use (``root="/ui"``).

        Returns:
            The decoded answer.
        """
        answer = self._send(method, f"{root}/{path}", arguments)
        if answer.status_code == 401:
            login = self._send("GET", "/auth/token", {})
            if login.is_error:  # while Airflow is starting: no status, so that whoever waits goes on
                raise ServiceError(f"GET /auth/token: {login.status_code} {login.text[:2000]}")
            self._http.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
            answer = self._send(method, f"{root}/{path}", arguments)
        return self._decoded(answer)
