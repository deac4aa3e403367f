"""
Airflow's task state as a person reaches it: over Airflow's public REST API (3.3 and later), for reading and verdicts.

The API overwrites without comparing, so what keeps a verdict apart from a try is the state of the task: a verdict is
written only while the task has ended, and task and entry are looked at again afterwards.
"""

from __future__ import annotations

import shlex
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import httpx
from attrs import frozen

from tl_orchestration.answers import json_object
from tl_orchestration.credentials import Confined, header_value
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidSettings,
    LedgerError,
    NoAnswer,
    PermissionDenied,
)
from tl_orchestration.exchange import Request, Response
from tl_orchestration.ledger.airflow_step import AirflowStep
from tl_orchestration.ledger.entry import Entry, Event, fold
from tl_orchestration.secret import Secret
from tl_orchestration.settings import Settings, base_url
from tl_orchestration.transport import SyncWire

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEME = "airflow+"
#: States that a task leaves only when somebody clears it (Airflow's ``TerminalTIState``).
ENDED = frozenset({"failed", "removed", "skipped", "success", "upstream_failed"})


def airflow_address(url: str) -> str:
    """
    Airflow's own address in a ledger's URL, ``airflow+https://host[:port]/prefix``.

    https only, except for loopback. The allow-list of the service's hosts does not apply.

    Raises:
        InvalidSettings: It may not be called.
    """
    address = url.strip().removeprefix(SCHEME)
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise InvalidSettings("The ledger's URL must look like airflow+https://airflow.example.com.")
    return base_url(address, allowed=[host])


class AirflowToken(Confined):
    """
    A token of Airflow's REST API, sent as ``Bearer``; None: nothing is sent, and Airflow says whether it wants one.

    Raises:
        InvalidSettings: It is empty or has characters that no header can carry.
    """

    def __init__(self, token: str | None) -> None:
        self._header = None if token is None else Secret(header_value(token))

    @property
    def is_there(self) -> bool:
        return self._header is not None

    def auth(self) -> httpx.Auth:
        return httpx.Auth() if self._header is None else _Bearer(self._header)

    def fingerprint_secret(self) -> NoReturn:
        raise NotImplementedError("no start is made with a token of Airflow's")


class _Bearer(httpx.Auth):
    def __init__(self, header: Secret) -> None:
        self._header = header

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]  # never sent to
        request.headers["Authorization"] = self._header.reveal()
        yield request


@frozen
class _Task:
    """
    What of a task instance shows that no other try has begun: its state, and the id that each try has of its own.
    """

    state: str | None
    id: str


class AirflowRestLedger:
    """
    Reads entries of Airflow's task state, and appends verdicts to them.

    Args:
        address: Airflow's; see :func:`airflow_address`.
        settings: Time-outs, proxy, certificates.
    """

    #: An intent may be that of a process that was taken for dead.
    fenced = False

    def __init__(self, address: str, token: AirflowToken, settings: Settings) -> None:
        self._address = address
        self._token = token
        self._wire = SyncWire(address, token, settings)

    def close(self) -> None:
        self._wire.close()

    def read(self, key: str) -> Entry | None:
        """
        The entry as last written, or None.

        Raises:
            LedgerError: There is no such task, or Airflow cannot be reached.
            AuthenticationError, PermissionDenied: Airflow refuses the token.
            InvalidRequest: The key is none of Airflow's.
        """
        step = AirflowStep.of(key)
        found = self._get(step.state_path(key))
        if found is None:
            self._task(step, key)  # a mistyped key is told from a task that has started nothing
            return None
        document = found.get("value")
        if not isinstance(document, dict):
            raise LedgerError("Airflow's task state holds something else than an entry of this ledger.")
        return Entry.from_dict(document)

    def append(self, key: str, event: Event) -> Entry:
        """
        Fold one more event into the entry, while the task has ended.

        Raises:
            LedgerError: The task may act just now, or has begun to meanwhile; the event cannot follow what the entry
                holds; Airflow cannot be reached.
            AuthenticationError, PermissionDenied: Airflow refuses the token.
            InvalidRequest: The key is none of Airflow's.
        """
        step = AirflowStep.of(key)
        before = self._task(step, key)
        if before.state not in ENDED:
            raise LedgerError(
                f"The task of {key} is {before.state or 'about to be scheduled'}, so a try may be at it. Nothing was"
                " recorded. Say it once the task has ended."
            )
        entry = fold(self.read(key), event)
        try:
            self._send("PATCH", step.state_path(key), {"value": entry.to_dict()})
            written, after = self.read(key), self._task(step, key)
        except LedgerError as error:
            raise LedgerError(
                f"{error.message} Whether the verdict was recorded, `tl ledger show {shlex.quote(key)}` tells."
            ) from None
        if written != entry or after != before:
            raise LedgerError(
                f"{key} has changed while this was recorded (the task is {after.state}): a try may have begun, and have"
                f" acted before. Once the task has ended, look again: `tl ledger show {shlex.quote(key)}`."
            )
        return entry

    def _task(self, step: AirflowStep, key: str) -> _Task:
        found = self._get(step.path)
        if found is None:
            raise LedgerError(
                f"Airflow at {self._address} has no task {key}. Is it the right one, 3.3 or later, with its prefix?"
            )
        state = found.get("state")
        return _Task(None if state is None else str(state), str(found.get("id")))

    def _get(self, path: str) -> dict[str, Any] | None:
        return self._send("GET", path)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """
        What was answered: None for what does not exist, and for a write an empty dict.
        """
        request = Request("check", method, path, json=body, accept="application/json", repeatable=body is None)
        try:
            response = self._wire.send(request)
            self._refuse(response)
            if response.status == HTTPStatus.NOT_FOUND:
                return None
            return json_object(response, request) if body is None else {}
        except NoAnswer as error:
            raise LedgerError(f"Airflow's task state cannot be reached. {error.message}") from None
        except InvalidAnswer as error:
            raise LedgerError(f"At {self._address} something else than Airflow answers. {error.message}") from None

    def _refuse(self, response: Response) -> None:
        """
        Raises:
            LedgerError, AuthenticationError, PermissionDenied: Anything but an answer, or that there is nothing.
        """
        status = response.status
        if response.is_success or status == HTTPStatus.NOT_FOUND:
            return
        who = f"Airflow at {self._address}"
        if status == HTTPStatus.UNAUTHORIZED:
            said = "does not accept the token" if self._token.is_there else "wants a token"
            raise AuthenticationError(
                f"{who} {said} (401). Set AIRFLOW_API_TOKEN, or AIRFLOW_API_TOKEN_FILE; Airflow's auth managers give a"
                f" token for user name and password to POST {self._address}/auth/token.",
                status_code=status,
            )
        if status == HTTPStatus.FORBIDDEN:
            raise PermissionDenied(
                f"{who} does not let this token do that (403). It needs to read the DAG's task instances, and for a"
                " verdict to edit them.",
                status_code=status,
            )
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            raise LedgerError(f"{who} answers with a redirect, which is not followed: give the URL that it leads to.")
        raise LedgerError(f"{who} {'refuses' if status < HTTPStatus.INTERNAL_SERVER_ERROR else 'fails'} ({status}).")


__all__ = ["ENDED", "SCHEME", "AirflowRestLedger", "AirflowToken", "airflow_address"]
