"""
Faults of B3OS, on order.
"""

import uuid

import httpx
import pytest

from tests.wire.sandbox.b3os.user import B3os, assert_refused, data
from tests.wire.sandbox.users import NOBODY


class TestFaults:
    def test_too_many_requests(self, b3os: B3os) -> None:
        """429 with Retry-After on order, in B3OS's form, before anything is committed."""
        fault = {"on": "start", "kind": "status", "status": 429, "headers": {"Retry-After": "7"}, "times": 2}
        b3os.control.order(fault)
        for answer in (b3os.post_public_start(), b3os.post_start()):
            assert_refused(answer, 429)
            assert answer.headers["retry-after"] == "7"
        assert b3os.starts == []
        assert data(b3os.post_start())

    @pytest.mark.parametrize(
        ("step", "call"),
        [
            ("start", "post_run"),
            ("status", "get"),
            ("status", "get_publicly"),
            ("status", "get_run"),
            ("status", "get_run_publicly"),
            ("cancel", "cancel"),
            ("retry", "retry"),
            ("resume", "resume"),
        ],
    )
    def test_every_step(self, b3os: B3os, step: str, call: str) -> None:
        """Each step is struck for its service and workflow only."""
        started = b3os.start("kyc-review")
        argument = {"post_run": "kyc-review", "get": started, "get_publicly": started}
        b3os.control.order(
            {"on": step, "kind": "status", "status": 418, "service": "transactionlink"},
            {"on": step, "kind": "status", "status": 503, "definition": "kyc-slow"},
            {"on": step, "kind": "status", "status": 502, "definition": "kyc-review", "service": "b3os"},
        )
        method = getattr(b3os, call)
        assert_refused(method(argument.get(call, started["execution"]["runId"])), 502)
        assert [fault.status for fault in b3os.server.store.faults.pending] == [418, 503]

    def test_of_what_is_not_there(self, b3os: B3os) -> None:
        """Also a request for nothing is struck, where the fault names no workflow."""
        b3os.control.order(*({"on": on, "kind": "status", "status": 502} for on in ("status", "cancel")))
        assert_refused(b3os.get({"execution": {"id": NOBODY}}), 502)
        assert_refused(b3os.cancel("run_none"), 502)

    def test_lost_cancel(self, b3os: B3os) -> None:
        """A lost cancel has cancelled."""
        run_id = data(b3os.post_run("kyc-slow"))["runId"]
        b3os.control.order({"on": "cancel", "kind": "lose", "service": "b3os"})
        with pytest.raises(httpx.RemoteProtocolError):
            b3os.cancel(run_id)
        assert data(b3os.get_run(run_id))["status"] == "cancelled"

    def test_requests_are_counted(self, b3os: B3os) -> None:
        """Requests are counted by method and path template."""
        started = b3os.start()
        b3os.get(started)
        b3os.get_run(f"run_{uuid.uuid4().hex}")
        assert b3os.control.control("GET", "/requests").json() == {
            "POST /v1/executions": 1,
            "GET /v1/executions/{id}": 1,
            "GET /v1/runs/{id}": 1,
        }
