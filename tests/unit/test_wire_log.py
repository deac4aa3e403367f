"""httpcore's own log says how far our exchanges have come, and never what came back."""

from __future__ import annotations

import logging

import pytest

from tl_orchestration.wire_log import contents_unlogged

LINES = (
    "receive_response_headers.complete return_value=(b'HTTP/1.1', 200, b'OK', [(b'set-cookie', b'planted')])",
    "receive_response_headers.failed exception=RemoteProtocolError('planted')",
    "receive_response_body.failed exception=RemoteProtocolError('planted')",
    "connect_tcp.started host='127.0.0.1' port=443",
)


@pytest.mark.parametrize("name", ["connection", "http11", "proxy"])
def test_what_came_from_outside_is_left_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The step stays; what follows it stays only where it is our own."""
    with caplog.at_level(logging.DEBUG, f"httpcore.{name}"), contents_unlogged():
        for line in LINES:
            logging.getLogger(f"httpcore.{name}").debug(line)
    steps = ["receive_response_headers.complete", "receive_response_headers.failed", "receive_response_body.failed"]
    assert caplog.messages == [*steps, LINES[3]]


def test_exchanges_of_others_are_logged_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A process that uses httpx for something else keeps its log."""
    with caplog.at_level(logging.DEBUG, "httpcore.http11"):
        with contents_unlogged():
            pass
        logging.getLogger("httpcore.http11").debug(LINES[0])
    assert caplog.messages == [LINES[0]]
