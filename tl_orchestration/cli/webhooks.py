"""
``tl webhooks``: take webhooks, and look after what was kept of them. No command here takes or uses an API token.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from tl_orchestration.cli import missing_extra, stores
from tl_orchestration.cli.arguments import Command
from tl_orchestration.cli.durations import duration
from tl_orchestration.cli.interrupts import Interrupts
from tl_orchestration.cli.outcomes import INTERRUPTED, SUCCESS, UNEXPECTED
from tl_orchestration.cli.output import answer_json, answer_lines, tell
from tl_orchestration.cli.settings import verbose_option
from tl_orchestration.errors import InvalidSettings, WebhookRefused, WebhookUndecided
from tl_orchestration.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tl_orchestration.webhooks.handed_over import Handed
    from tl_orchestration.webhooks.inbox import Inbox
    from tl_orchestration.webhooks.public_key import KeyServer
    from tl_orchestration.webhooks.signatures import Verifier

_SECRET = "TRANSACTIONLINK_WEBHOOKS_B3OS_SECRET"  # noqa: S105 -- the variable's name
_HEADER = "TRANSACTIONLINK_WEBHOOKS_B3OS_HEADER"
_KEYS = "TRANSACTIONLINK_WEBHOOKS_KEYS"
_UNENCODED = "TRANSACTIONLINK_WEBHOOKS_UNENCODED"
#: Entry points: a callable of an inbox and an event that ends it. The core knows no orchestrator.
_FORWARDERS = "tl_orchestration.forwarders"

_keys_option = click.option(
    "--keys",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help=f"Take the keys in its files <kid>.pem and no others; nothing is fetched then.  [env: {_KEYS}]",
)
_base_url_option = click.option(
    "--base-url", metavar="URL", help="Where keys are fetched.  [env: TRANSACTIONLINK_BASE_URL; default: the vendor]"
)
_unencoded_option = click.option(
    "--unencoded",
    is_flag=True,
    envvar=_UNENCODED,
    help=f'Also take signatures over the body as it is, marked by "b64": false (RFC 7797).  [env: {_UNENCODED}]',
)


@click.group()
def webhooks() -> None:
    """
    Take webhooks into the inbox, beside a SQL ledger.

    Transactionlink's are verified with its public keys. B3OS's are taken as well where
    TRANSACTIONLINK_WEBHOOKS_B3OS_SECRET has the signing secret, or TRANSACTIONLINK_WEBHOOKS_B3OS_SECRET_FILE names a
    file that has one on each line.
    """


@webhooks.command(cls=Command)
@click.option("--port", type=click.IntRange(0, 65535), default=8322, show_default=True, help="0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--root-path", default="", metavar="PATH", help="Path below which a proxy publishes it, taken away by it or not."
)
@stores.url_option
@_keys_option
@_base_url_option
@_unencoded_option
@verbose_option
def serve(
    port: int,
    host: str,
    root_path: str,
    url: str | None,
    keys: Path | None,
    base_url: str | None,
    unencoded: bool,
) -> int:
    """
    Take webhooks over HTTP until Ctrl-C. TLS is the business of the proxy before it.

    The right to insert into the table tl_inbox is enough. Any number of these may share a PostgreSQL database.
    """
    if (code := _missing()) is not None:
        return code
    from tl_orchestration.webhooks.receiver import Receiver
    from tl_orchestration.webhooks.server import listening, server

    inbox, verifiers = _inbox(url), _verifiers(keys, base_url, unencoded=unencoded)
    try:
        listener = listening(host, port)
    except OSError as error:
        raise click.UsageError(f"Nothing can listen on {host}, port {port} ({error.strerror}).") from None
    logging.getLogger("tl_orchestration").setLevel(logging.INFO)
    address = f"[{host}]" if ":" in host else host
    paths = ", ".join(f"/webhooks/{verifier.service}" for verifier in verifiers)
    tell(f"Taking webhooks on http://{address}:{listener.getsockname()[1]} ({paths}) into {inbox.database.address}")
    receiver = Receiver(inbox, verifiers)
    try:
        server(receiver.app, root_path=root_path).run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # the server has shut down in good order before it hands the signal on
    finally:
        receiver.close()
        inbox.close()
    return SUCCESS


@webhooks.command(cls=Command)
@click.argument("deliveries", type=click.File("rb"), metavar="FILE")
@click.option("--service", type=click.Choice(["transactionlink", "b3os"]), default="transactionlink", show_default=True)
@click.option("--body", type=click.File("rb"), metavar="FILE", help="The untouched body; FILE then has its headers.")
@stores.url_option
@_keys_option
@_base_url_option
@_unencoded_option
@stores.json_option
@verbose_option
def ingest(
    deliveries: IO[bytes],
    service: str,
    body: IO[bytes] | None,
    url: str | None,
    keys: Path | None,
    base_url: str | None,
    unencoded: bool,
    as_json: bool,
) -> int:
    """
    Verify deliveries that a gateway or a queue has kept whole, and take them into the inbox.

    FILE has one JSON object on each line, with "headers" (an object, or a list of pairs) and "body_base64" (the
    untouched bytes); `-` for standard input. Or, with --body, it has the headers of one delivery as they arrived, one
    on each line.

    What is not taken is told at once. Ctrl-C or a termination signal ends the reading, and the counts are printed.
    """
    if (code := _missing()) is not None:
        return code
    from tl_orchestration.webhooks.handed_over import Ingest, from_lines, from_parts

    inbox, verifiers = _inbox(url), {one.service: one for one in _verifiers(keys, base_url, unencoded=unencoded)}
    if service not in verifiers:
        raise InvalidSettings(f"There is no signing secret of B3OS: set {_SECRET} or {_SECRET}_FILE.")
    found = from_lines(deliveries) if body is None else from_parts(deliveries.read(), body.read())
    try:
        with _UntilSignal() as until_signal:
            done = Ingest(inbox, verifiers[service], _tell_not_taken).take(until_signal.items(found))
    finally:
        inbox.close()
    if as_json:
        answer_json({"taken": done.taken, "refused": done.refused, "undecided": done.undecided})
    else:
        counts = {"taken": done.taken, "refused": len(done.refused), "undecided": len(done.undecided)}
        answer_lines([(name, str(count)) for name, count in counts.items()])
    if until_signal.happened:
        return INTERRUPTED
    return UNEXPECTED if done.refused or done.undecided else SUCCESS


@webhooks.command(cls=Command)
@click.option("--prefect", is_flag=True, required=True, help="To the Prefect server of PREFECT_API_URL or the profile.")
@stores.url_option
@verbose_option
def forward(prefect: bool, url: str | None) -> int:
    """
    Tell an orchestrator what has arrived, until Ctrl-C, so that what waits there without a process is woken.

    Reading the inbox is enough. Any number of these may run; where the last one ended is kept with the orchestrator.
    """
    if (code := _missing()) is not None:
        return code
    found = list(entry_points(group=_FORWARDERS, name="prefect")) if importlib.util.find_spec("prefect") else []
    if not found:
        return missing_extra("prefect")
    inbox, stop = _inbox(url), threading.Event()
    logging.getLogger("tl_orchestration").setLevel(logging.INFO)
    tell(f"Forwarding from {inbox.database.address} to Prefect")
    try:
        # Not in the handler itself: it may have come while this thread holds the event's lock.
        with Interrupts(then=lambda: threading.Thread(target=stop.set).start()):
            found[0].load()(inbox, stop)
    finally:
        inbox.close()
    return SUCCESS


@webhooks.command(cls=Command)
@click.argument("kid")
@click.option(
    "--into",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write it to <kid>.pem there, for --keys.",
)
@_base_url_option
@stores.json_option
@verbose_option
def key(kid: str, into: Path | None, base_url: str | None, as_json: bool) -> int:
    """
    Fetch one public key, and print it with its fingerprint: to compare it with what the vendor tells, and to pin it.
    """
    if (code := _missing()) is not None:
        return code
    from tl_orchestration.webhooks.keys import FetchedKeys
    from tl_orchestration.webhooks.public_key import fingerprint, pem

    source = FetchedKeys(_key_server(base_url).fetch)
    try:
        found = source.lookup(kid).result()
    except WebhookRefused as refused:
        raise click.UsageError(str(refused)) from None
    finally:
        source.close()
    if into is not None:
        (into / f"{kid}.pem").write_text(pem(found), encoding="ascii")
    if as_json:
        answer_json({"kid": kid, "sha256": fingerprint(found), "pem": pem(found)})
    else:
        answer_lines([("kid", kid), ("sha256", fingerprint(found))])
        click.echo(pem(found), nl=False)
    return SUCCESS


@webhooks.command("list", cls=Command)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@stores.url_option
@stores.json_option
@verbose_option
def list_(limit: int, url: str | None, as_json: bool) -> int:
    """
    What has arrived, the newest first. One without an execution is kept aside: it was genuine, and not understood.
    """
    if (code := _missing()) is not None:
        return code
    hints = _inbox(url).latest(limit)
    if as_json:
        answer_json(
            {
                "hints": [
                    {
                        "number": hint.number,
                        "service": hint.service,
                        "execution_id": hint.execution_id or None,
                        "kind": hint.kind or None,
                        "received_at": _time(hint.received_at),
                    }
                    for hint in hints
                ]
            }
        )
    for hint in () if as_json else hints:
        click.echo(f"{_time(hint.received_at)}  {hint.service}  {hint.execution_id or '-'}  {hint.kind or '-'}")
    return SUCCESS


@webhooks.command(cls=Command)
@click.option("--older-than", type=duration, default="7d", show_default=True, help="How long rows are kept.")
@click.option("--most", type=click.IntRange(0), default=1_000_000, show_default=True, help="How many at most.")
@stores.url_option
@stores.json_option
@verbose_option
def purge(older_than: float, most: int, url: str | None, as_json: bool) -> int:
    """
    Forget what is old. Waiting processes do so by themselves, if they have the right to delete.
    """
    if (code := _missing()) is not None:
        return code
    purged = _inbox(url).purge(older_than=older_than, most=most)
    if as_json:
        answer_json({"purged": purged})
    else:
        tell(f"{purged} rows were forgotten.")
    return SUCCESS


class _Ended(BaseException):
    """
    A signal came while an input was being read.
    """


class _UntilSignal(Interrupts):
    """
    Ends an input at Ctrl-C or a termination signal, with what was read before; a second signal ends the program.
    """

    def __init__(self) -> None:
        super().__init__(then=self._end)
        self._reading = False

    def items(self, items: Iterator[Handed]) -> Iterator[Handed]:
        try:
            while True:
                self._reading = True
                item = None if self.happened else next(items, None)
                self._reading = False
                if item is None:
                    return
                yield item
        except _Ended:
            return

    def _end(self) -> None:
        if self._reading:
            self._reading = False
            raise _Ended


def _tell_not_taken(number: int, reason: WebhookRefused) -> None:
    if isinstance(reason, WebhookUndecided):
        tell(f"Delivery {number} could not be verified now: {reason} Hand it over again.")
    else:
        tell(f"Delivery {number} was refused: {reason}")


def _missing() -> int | None:
    needed = ("cryptography", "sqlalchemy", "starlette", "uvicorn")
    return None if all(map(importlib.util.find_spec, needed)) else missing_extra("webhooks")


def _inbox(url: str | None) -> Inbox:
    from tl_orchestration.webhooks.inbox import Inbox

    return Inbox(stores.database(url, may_be_missing=True))


def _key_server(base_url: str | None) -> KeyServer:
    from tl_orchestration.settings import VENDOR_URL, Settings
    from tl_orchestration.webhooks.public_key import KeyServer

    settings = Settings(
        proxy=_variable("TRANSACTIONLINK_PROXY"),
        ca_bundle=_variable("TRANSACTIONLINK_CA_BUNDLE"),
        client_cert=_variable("TRANSACTIONLINK_CLIENT_CERT"),
    )
    return KeyServer(base_url or _variable("TRANSACTIONLINK_BASE_URL") or VENDOR_URL, settings)


def _verifiers(folder: Path | None, base_url: str | None, *, unencoded: bool) -> list[Verifier]:
    from tl_orchestration.webhooks.verifying import verifiers

    return verifiers(
        pinned=folder or _variable(_KEYS),
        key_server=lambda: _key_server(base_url),
        unencoded=unencoded,
        b3os_secrets=_secrets(),
        b3os_header=_variable(_HEADER),
    )


def _secrets() -> list[Secret]:
    given, file = _variable(_SECRET), _variable(f"{_SECRET}_FILE")
    if given is not None and file is not None:
        raise InvalidSettings(f"{_SECRET} and {_SECRET}_FILE are both set, and it is not clear which one is meant.")
    if file is not None:
        try:
            lines = Path(file).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise InvalidSettings(f"{_SECRET}_FILE cannot be read ({type(error).__name__}).") from None
        found = [Secret(line.strip()) for line in lines if line.strip()]
        if not found:
            raise InvalidSettings(f"{_SECRET}_FILE names a file without a secret.")
        return found
    return [] if given is None else [Secret(given)]


def _variable(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _time(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds")
