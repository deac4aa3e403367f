"""
The sandbox's own account of what reached it, and its levers, through its ``/_sandbox`` endpoints.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

import httpx

TOKEN = "tot_sandbox"
NOBODY = "00000000-0000-4000-8000-000000000000"


class Remote:
    """
    The remote service as its operator sees it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/_sandbox", trust_env=False, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def reset(self) -> None:
        """
        Forget everything.
        """
        self._http.post("/reset").raise_for_status()

    def starts(self) -> list[dict[str, Any]]:
        """
        Every start that was carried out.
        """
        return self._list("/starts")

    def cases(self) -> list[dict[str, Any]]:
        """
        Every legacy case that was made.
        """
        return self._list("/cases")

    def parameter_sets(self) -> list[dict[str, Any]]:
        """
        Every legacy parameters set that was made.
        """
        return self._list("/parameters")

    def vary(self, **readings: Any) -> None:
        """
        Read what is undocumented in another way.
        """
        self._http.patch("/variants", json=readings).raise_for_status()

    def get(self, path: str) -> httpx.Response:
        """
        A bare request to the service itself, without a credential.
        """
        return self._http.get(f"{self.url}{path}")

    def rotate_webhook_key(self, *, withdraw: bool = False) -> str:
        """
        Sign webhooks with a new key. Returns its name.
        """
        answer = self._http.post("/webhooks/rotate", json={"withdraw": withdraw}).raise_for_status()
        return str(answer.json()["kid"])

    def deliver_to(self, *targets: dict[str, Any]) -> None:
        """
        Deliver webhooks to these targets.
        """
        self._http.put("/webhooks", json=targets).raise_for_status()

    def deliveries(self) -> list[dict[str, Any]]:
        """
        Every attempt to deliver a webhook.
        """
        return self._list("/webhooks/deliveries")

    def replay(self) -> int:
        """
        Deliver again whatever was delivered. Returns how many.
        """
        return int(self._http.post("/webhooks/replay", json={}).raise_for_status().json()["replayed"])

    def cancels(self) -> list[dict[str, Any]]:
        """
        Every cancel of an execution that exists.
        """
        return self._list("/cancels")

    def count(self, template: str) -> int:
        """
        How many requests came, such as ``POST /workflows`` or ``GET /workflows/{id}``.
        """
        counts = self._http.get("/requests").raise_for_status().json()
        return int(counts.get(template, 0))

    def wait_for(self, template: str, count: int) -> None:
        """
        Return when so many requests have come.
        """
        ends = time.monotonic() + 60
        while self.count(template) < count:
            assert time.monotonic() < ends, f"{count} times {template} never came"
            time.sleep(0.01)

    def order(self, on: str, kind: str, **fields: Any) -> None:
        """
        Order a fault.
        """
        self._http.post("/faults", json={"on": on, "kind": kind, **fields}).raise_for_status()

    def forget_faults(self) -> None:
        """
        Take back what was ordered and has not struck.
        """
        self._http.delete("/faults").raise_for_status()

    def define(self, name: str, **fields: Any) -> None:
        """
        Change a definition for later starts, or make a new one.
        """
        self._http.put(f"/definitions/{name}", json={"like": name, **fields}).raise_for_status()

    def force(self, execution_id: str, **fields: Any) -> None:
        """
        Set status or result of an execution.
        """
        self._http.post(f"/executions/{execution_id}", json=fields).raise_for_status()

    def advance(self, seconds: float) -> None:
        """
        Move the sandbox's clock.
        """
        self._http.post("/advance", json={"seconds": seconds}).raise_for_status()

    def _list(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.get(path).raise_for_status().json()
        return found
