"""
The forms in which B3OS wraps its answers.
"""

import pytest

from tests.wire.sandbox.b3os.user import B3os, assert_refused


class TestEnvelope:
    def test_code_of_success(self, b3os: B3os) -> None:
        """The code of a success may be 0."""
        b3os.vary(success_code=0)
        assert b3os.post_start().json()["code"] == 0

    def test_older_envelope(self, b3os: B3os) -> None:
        """A success may be {success, data}."""
        b3os.vary(envelope="success-data")
        body = b3os.post_run(runId="run_a").json()
        assert body == {"success": True, "data": {"runId": "run_a"}}

    @pytest.mark.parametrize("reading", ["success-error", "text", "html"])
    def test_errors(self, b3os: B3os, reading: str) -> None:
        """An error may be {success, error}, plain text or a page, also from a fault and where no route is."""
        b3os.vary(error_envelope=reading)
        b3os.post_run(runId="run_a")
        b3os.control.order({"on": "start", "kind": "status", "status": 402})
        paid, twice = b3os.post_start(), b3os.post_run(runId="run_a")
        nowhere = b3os.http.get("/v1/<nothing>")
        assert [answer.status_code for answer in (paid, twice, nowhere)] == [402, 400, 404]
        if reading == "success-error":
            assert paid.json() == {"success": False, "error": {"message": "Payment Required", "code": 402}}
            assert twice.json()["error"]["code"] == 400079
            assert nowhere.json()["error"]["code"] == 404
        else:
            kind = {"text": "text/plain", "html": "text/html"}[reading]
            for answer in (paid, twice, nowhere):
                assert answer.headers["content-type"].startswith(kind)
            assert "Payment Required" in paid.text
            assert reading == "text" or "<nothing>" not in nowhere.text

    def test_unknown_place(self, b3os: B3os) -> None:
        """A path or method that is not there is refused in B3OS's form."""
        assert_refused(b3os.http.get("/v1/nothing"), 404)
        assert_refused(b3os.http.delete("/v1/executions"), 405)
