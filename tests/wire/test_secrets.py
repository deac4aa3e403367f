"""
Secrets and personal data are planted everywhere, everything is logged, everything goes wrong: nothing is found again.
"""

from __future__ import annotations

import copy
import io
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.builders import run_request, travelled
from tests.planted import EVERYTHING, PARAMETERS, PROXY_PASSWORD, TOKEN, found_in
from tests.remote import NOBODY, Remote
from tests.wire.conftest import OpenDoor
from tests.wire.doors import QUICK, Door, stored
from tests.wire.fault_server import FaultServer, closed_port, http, then
from tl_orchestration import Execution, RunRequest, Settings
from tl_orchestration.errors import (
    LinkLost,
    LinkNotDelivered,
    NoAnswer,
    StartOutcomeUnknown,
    TransactionlinkError,
    WaitTimeout,
)
from tl_orchestration.ledger import MemoryLedger
from tl_orchestration.sandbox import SandboxServer, SandboxSettings

#: Loggers of the server side of these tests, which know the secrets by right.
SERVER_SIDE = ("uvicorn", "tl_orchestration.sandbox")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Remote]:
    """
    A sandbox that accepts the planted token only.
    """
    settings = SandboxSettings(tokens=[{"value": TOKEN}])
    with SandboxServer(settings) as server, Remote(server.url) as remote:
        yield remote


@pytest.fixture(autouse=True)
def _fresh(guarded: Remote) -> None:
    guarded.reset()


class Everything(logging.Handler):
    """
    Keeps what every logger says, at every level, as a log file would have it and as its raw arguments.
    """

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.text = io.StringIO()
        self.loggers: set[str] = set()
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(SERVER_SIDE):
            self.loggers.add(record.name.partition(".")[0])
            self.text.write(f"{self.format(record)} {record.args!r}\n")


@contextmanager
def everything_logged() -> Iterator[Everything]:
    """
    All loggers at DEBUG, those that are made meanwhile included.
    """
    handler, root = Everything(), logging.getLogger()
    names = [name for name in logging.root.manager.loggerDict if not name.startswith(SERVER_SIDE)]
    loggers = [root, *(logging.getLogger(name) for name in (*names, "httpx", "httpcore", "tl_orchestration"))]
    before = [(logger, logger.level, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.disabled = False
    root.addHandler(handler)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        for logger, level, disabled in before:
            logger.setLevel(level)
            logger.disabled = disabled


def every_form_of(value: object) -> str:
    """
    How a value may end up in a log, a database or a screen.
    """
    forms = [
        str(value),
        repr(value),
        f"{value}",
        f"{value!r:>10}",
        str(vars(value)) if hasattr(value, "__dict__") else "",
    ]
    forms.append(pickle.dumps(value).decode("latin-1"))
    forms.append(repr(travelled(value)))
    forms.append(repr(copy.deepcopy(value)))
    if isinstance(value, BaseException):
        forms += traceback.format_exception(value)
        forms += [repr(value.args), repr(value.__cause__)]
    return "\n".join(forms)


def planted_request(name: str = "kyc-approve") -> RunRequest:
    """A request full of personal data."""
    return run_request(workflow_definition_id=name, parameters=PARAMETERS)


Scene = Callable[[Remote, OpenDoor], None]


def door(remote: Remote, open_door: OpenDoor, **options: Any) -> Door:
    """A client with the planted token and a ledger."""
    return open_door(remote.url, TOKEN, **{"ledger": MemoryLedger(), **options})


def success(remote: Remote, open_door: OpenDoor) -> None:
    remote.define("kyc-approve", duration=0.05)
    client = door(remote, open_door)
    started = client.run(planted_request(), "step")
    assert client.wait(started).is_terminal
    assert "customer" in client.result(started)
    raise_about(started)


def interactive(remote: Remote, open_door: OpenDoor) -> None:
    client = door(remote, open_door)
    started = client.run(planted_request("kyc-review"), "step")
    assert started.is_interactive
    raise_about(client.poll(started))
    raise_about(client.cancel(started))
    raise_about(started)


def deliver(execution: Execution) -> None:
    """Take link and token over, as a person does."""
    assert execution.link is not None
    assert execution.token is not None
    LINKS.extend((execution.link.reveal(), execution.token.reveal()))


def delivered(remote: Remote, open_door: OpenDoor) -> None:
    client = door(remote, open_door)
    raise_about(client.run(planted_request("kyc-review"), "step", on_link=deliver))
    assert found_in(str(stored(client, "step")), (*EVERYTHING, *LINKS)) == []


def not_delivered(remote: Remote, open_door: OpenDoor) -> None:
    def quote(execution: Execution) -> None:
        deliver(execution)
        raise RuntimeError(f"cannot mail {LINKS} to {PARAMETERS}") from ValueError(LINKS[1])

    client = door(remote, open_door)
    try:
        client.run(planted_request("kyc-review"), "step", on_link=quote)
    finally:
        assert found_in(str(stored(client, "step")), (*EVERYTHING, *LINKS)) == []


def lost_link(remote: Remote, open_door: OpenDoor) -> None:
    remote.vary(link_in_status=False)
    client = door(remote, open_door, ledger=Fenced())
    raise_about(client.run(planted_request("kyc-review"), "step"))
    client.run(planted_request("kyc-review"), "step", on_link=deliver)


class Fenced(MemoryLedger):
    """A ledger whose writers need not be waited for."""

    fenced = True


def wrong_token(remote: Remote, open_door: OpenDoor) -> None:
    open_door(remote.url, f"{TOKEN}-wrong").run(planted_request())


def echo(remote: Remote, open_door: OpenDoor) -> None:
    message = f"Value {PARAMETERS} with {TOKEN} is wrong"
    body = '{"fingerprint": "%s", "errors": [{"code": "%s", "message": "%s"}]}'
    body %= (PARAMETERS["document"]["number"], PARAMETERS["firstName"], message.replace('"', "'"))
    remote.order("start", "status", status=400, body=body, content_type="application/json")
    door(remote, open_door).run(planted_request(), "step")


def failure(remote: Remote, open_door: OpenDoor) -> None:
    remote.order("start", "status", status=500, body=f"{PARAMETERS} {TOKEN}", content_type="text/plain")
    door(remote, open_door).run(planted_request(), "step")


def page(remote: Remote, open_door: OpenDoor) -> None:
    remote.order("start", "status", status=200, body=f"<p>{PARAMETERS} {TOKEN}</p>", content_type="text/html")
    door(remote, open_door).run(planted_request(), "step")


def lost(remote: Remote, open_door: OpenDoor) -> None:
    remote.order("start", "lose")
    door(remote, open_door).run(planted_request(), "step")


def late(remote: Remote, open_door: OpenDoor) -> None:
    remote.order("start", "hold", seconds=30)
    door(remote, open_door, settings=Settings(request_timeout=1.5)).run(planted_request(), "step")


def changed(remote: Remote, open_door: OpenDoor) -> None:
    client = door(remote, open_door)
    client.run(run_request(), "step")
    client.run(planted_request(), "step")


def deadline(remote: Remote, open_door: OpenDoor) -> None:
    client = door(remote, open_door)
    client.wait(client.run(planted_request("kyc-slow"), "step"), 0.1, patience=QUICK)


def unknown_id(remote: Remote, open_door: OpenDoor) -> None:
    door(remote, open_door).result(NOBODY)


def unreachable(remote: Remote, open_door: OpenDoor) -> None:
    with closed_port() as url:
        open_door(url, TOKEN).run(planted_request())


def garbage(remote: Remote, open_door: OpenDoor) -> None:
    with FaultServer(then(http()[:30] + f"\r\n\r\n{PARAMETERS} {TOKEN}".encode(), "close")) as server:
        open_door(server.url, TOKEN).run(planted_request())


def odd_status(remote: Remote, open_door: OpenDoor) -> None:
    body = b'{"id": "e-1", "status": "%s"}' % str(PARAMETERS["firstName"]).encode()
    with FaultServer(then(http("200 OK", body[:20]), "close")) as server:
        open_door(server.url, TOKEN).run(planted_request())


def broken_chunk(remote: Remote, open_door: OpenDoor) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    with FaultServer(then(head, f'{{"link": "https://x/?token={TOKEN}"}}\r\n'.encode(), "close")) as server:
        open_door(server.url, TOKEN).run(planted_request())


def refusing_proxy(remote: Remote, open_door: OpenDoor) -> None:
    with FaultServer(then(http("407 Proxy Authentication Required", b""), "close")) as proxy:
        address = proxy.url.replace("http://", f"http://user:{PROXY_PASSWORD}@")
        settings = Settings(proxy=address, allowed_hosts=("api.transactionlink.io",))
        open_door("https://api.transactionlink.io", TOKEN, settings=settings).run(planted_request())


def headers(remote: Remote, open_door: OpenDoor) -> None:
    answer = http("302 Found", b"{}", f"Set-Cookie: session={TOKEN}", f"Location: https://x/?token={PROXY_PASSWORD}")
    with FaultServer(then(answer, "close")) as server:
        open_door(server.url, TOKEN).run(planted_request())


def broken_header(remote: Remote, open_door: OpenDoor) -> None:
    with FaultServer(then(f"HTTP/1.1 200 OK\r\n{TOKEN} no header\r\n\r\n".encode(), "close")) as server:
        open_door(server.url, TOKEN).run(planted_request())


class Shown(Exception):
    """Carries what a scene has made, so that it is looked at like an error."""


def raise_about(execution: Execution) -> None:
    """Look at an execution in every form, its link and token included."""
    secrets = [secret.reveal() for secret in (execution.link, execution.token) if secret is not None]
    shown = every_form_of(execution) + every_form_of(execution.handle)
    assert found_in(shown, (*EVERYTHING, *secrets)) == []
    LINKS.extend(secrets)


#: Link tokens that were handed out, to be looked for in the logs as well.
LINKS: list[str] = []

SCENES: dict[str, tuple[Scene, type[TransactionlinkError] | None]] = {
    "success": (success, None),
    "interactive": (interactive, None),
    "link delivered": (delivered, None),
    "link that cannot be delivered": (not_delivered, LinkNotDelivered),
    "lost link": (lost_link, LinkLost),
    "401": (wrong_token, TransactionlinkError),
    "400 that echoes": (echo, TransactionlinkError),
    "500": (failure, StartOutcomeUnknown),
    "200 and a page": (page, StartOutcomeUnknown),
    "lost answer": (lost, StartOutcomeUnknown),
    "time-out": (late, StartOutcomeUnknown),
    "changed request": (changed, TransactionlinkError),
    "deadline": (deadline, WaitTimeout),
    "unknown id": (unknown_id, TransactionlinkError),
    "unreachable": (unreachable, NoAnswer),
    "garbage": (garbage, StartOutcomeUnknown),
    "half an answer": (odd_status, StartOutcomeUnknown),
    "headers that grant access": (headers, StartOutcomeUnknown),
    "header that is none": (broken_header, StartOutcomeUnknown),
    "chunk that is none": (broken_chunk, StartOutcomeUnknown),
    "proxy that refuses": (refusing_proxy, NoAnswer),
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_planted_is_found_again(guarded: Remote, open_door: OpenDoor, name: str) -> None:
    """No token, no parameter, no link, no proxy password: not in logs, errors, tracebacks, pickles or reprs."""
    scene, kind = SCENES[name]
    LINKS.clear()
    seen = ""
    with everything_logged() as logged:
        if kind is None:
            scene(guarded, open_door)
        else:
            with pytest.raises(kind) as caught:
                scene(guarded, open_door)
            error: BaseException | None = caught.value
            while error is not None:
                seen += every_form_of(error)
                error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    text = logged.text.getvalue()
    assert "httpcore" in logged.loggers
    assert found_in(seen, (*EVERYTHING, *LINKS)) == []
    assert found_in(text, (*EVERYTHING, *LINKS)) == []


def test_search_finds_what_is_planted() -> None:
    """The search itself works: it sees values in any letter case, in arguments and in tracebacks."""
    with everything_logged() as logged:
        logging.getLogger("httpcore.connection").debug("sent %s", TOKEN.upper())
    assert found_in(logged.text.getvalue()) == [TOKEN, "7c1f0e55b2"]
    assert found_in(every_form_of(NoAnswer(f"no {TOKEN}"))) == [TOKEN, "7c1f0e55b2"]


def test_ledger_keeps_nothing_planted(guarded: Remote, open_door: OpenDoor) -> None:
    """An entry has ids, times and a keyed digest."""
    ledger = MemoryLedger()
    client = open_door(guarded.url, TOKEN, ledger=ledger)
    started = client.run(planted_request("kyc-review"), "step")
    client.cancel(started)
    entry = stored(client, "step")
    assert entry is not None
    assert started.link is not None
    assert started.token is not None
    assert found_in(str(entry.to_dict()), (*EVERYTHING, started.link.reveal(), started.token.reveal())) == []


def test_client_shows_nothing_planted(guarded: Remote, open_door: OpenDoor) -> None:
    """A client, its parts one level down included, shows neither token nor proxy password."""
    proxied = Settings(proxy=f"http://user:{PROXY_PASSWORD}@127.0.0.1:9")
    for settings in (Settings(), proxied):
        client: Any = open_door(guarded.url, TOKEN, settings=settings)
        inner = getattr(client, "_client", client)
        assert found_in(f"{inner!r} {inner} {settings!r} {inner._credentials!r} {inner._settings!r}") == []
