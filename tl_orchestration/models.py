"""
The values that users handle: what to run, and what is known of an execution.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define, field, frozen

from tl_orchestration.answers import safe_id
from tl_orchestration.errors import InvalidRequest
from tl_orchestration.json_input import json_copy, kind_of
from tl_orchestration.options import B3osOptions, LegacyOptions, Options
from tl_orchestration.secret import Secret
from tl_orchestration.status import Status

#: What the service accepts as the time from start to expiry (contract A4.1), with a margin for clocks.
SHORTEST_EXPIRY = timedelta(minutes=30)
LONGEST_EXPIRY = timedelta(days=30)
_CLOCK_MARGIN = timedelta(seconds=5)
_LOCALE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8}){0,3}", re.ASCII)
HANDLE_FORMAT = 1
#: The last moment that a time can be written for, epoch seconds: the end of the year 9999.
_LAST_MOMENT = 253_402_300_799


def _definition_id(value: object) -> str:
    text = value.strip() if isinstance(value, str) else value
    identifier = safe_id(text)
    if identifier is None:
        raise InvalidRequest(
            "workflow_definition_id must be the definition's id from the dashboard: letters, digits, '-', '_', '.'"
            f" and at most 128 characters, not {kind_of(value)}."
        )
    return identifier


def _locale(value: object) -> str:
    if not isinstance(value, str) or not _LOCALE.fullmatch(value):
        raise InvalidRequest(f"locale must be a language tag such as 'en' or 'pt-BR', not {kind_of(value)}.")
    return value


def _parameters(value: object) -> dict[str, Any]:
    return json_copy(value, "parameters")


def _expires_at(value: object) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise InvalidRequest("expires_at is not an ISO 8601 time.") from None
    if not isinstance(value, datetime):
        raise InvalidRequest(f"expires_at must be a datetime, not {kind_of(value)}.")
    if value.tzinfo is None:
        raise InvalidRequest("expires_at has no time zone; give it one, for example datetime.now(UTC) + ….")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest("expires_at must lie between 30 minutes and 30 days from now.") from None


def _expires_in(value: object) -> timedelta | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = timedelta(seconds=value)
        except (OverflowError, ValueError):
            raise InvalidRequest("expires_in is not a usable number of seconds.") from None
    if not isinstance(value, timedelta):
        raise InvalidRequest(f"expires_in must be a timedelta or seconds, not {kind_of(value)}.")
    if not SHORTEST_EXPIRY <= value <= LONGEST_EXPIRY:
        raise InvalidRequest("expires_in must be between 30 minutes and 30 days.")
    return value


def _record_id(value: object) -> str | None:
    if value is None:
        return None
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise InvalidRequest("record_id must be a UUID.") from None


def _is_moment(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LAST_MOMENT


def _options(value: object) -> Options | None:
    if value is None or isinstance(value, LegacyOptions | B3osOptions):
        return value
    raise InvalidRequest(f"options must be LegacyOptions or B3osOptions, not {kind_of(value)}.")


def _type_name(value: object) -> str:
    return "None" if value is None else type(value).__name__


@frozen
class RunRequest:
    """
    One execution to run. Checked when it is built; nothing is sent before.

    Args:
        workflow_definition_id: Id of the workflow definition (contract A4.1).
        parameters: A JSON object; often personal data, so it is never shown, logged or stored.
        locale: Language of what a person sees, such as ``en``.
        expires_at: When the service ends the execution by itself: an aware datetime (or ISO 8601 text) between
            30 minutes and 30 days from the start. Not together with ``expires_in``.
        expires_in: The same as a timedelta, or seconds, from the start.
        record_id: UUID of the record that the execution is about, if there is one.
        options: What only one of the services takes: LegacyOptions or B3osOptions.

    Raises:
        InvalidRequest: Something is wrong; the message names the field, never its value.
    """

    workflow_definition_id: str = field(converter=_definition_id)
    parameters: Mapping[str, Any] = field(
        factory=dict, converter=_parameters, repr=lambda value: f"<{len(value)} keys>"
    )
    locale: str = field(default="en", converter=_locale)
    expires_at: datetime | None = field(default=None, converter=_expires_at)
    expires_in: timedelta | None = field(default=None, converter=_expires_in)
    record_id: str | None = field(default=None, converter=_record_id)
    options: Options | None = field(default=None, converter=_options, repr=_type_name)

    def __attrs_post_init__(self) -> None:
        if self.expires_at is not None and self.expires_in is not None:
            raise InvalidRequest("Give expires_at or expires_in, not both.")

    def expiry(self, now: float, timeout: float) -> datetime:
        """
        When this execution, started at ``now`` (epoch seconds), is to expire.

        Without ``expires_at`` and ``expires_in`` it is ``timeout`` seconds from now, clamped to what the service
        accepts, so that the service's own default of about an hour never ends a wait early.

        Raises:
            InvalidRequest: ``expires_at`` is not between 30 minutes and 30 days from now.
        """
        moment = datetime.fromtimestamp(now, UTC)
        if self.expires_at is not None:
            if not SHORTEST_EXPIRY + _CLOCK_MARGIN <= self.expires_at - moment <= LONGEST_EXPIRY - _CLOCK_MARGIN:
                raise InvalidRequest("expires_at must lie between 30 minutes and 30 days from now.")
            return self.expires_at
        wanted = self.expires_in or timedelta(seconds=min(max(timeout, 0.0), LONGEST_EXPIRY.total_seconds()))
        return moment + min(max(wanted, SHORTEST_EXPIRY + _CLOCK_MARGIN), LONGEST_EXPIRY - _CLOCK_MARGIN)


@frozen(kw_only=True)
class Handle:
    """
    All that another process needs to go on waiting: ids and times, no secret, no personal data.

    Args:
        execution_id: The remote id.
        service: Which API it lives in.
        key: The ledger key of the step that started it; None where nobody keeps one.
        deadline: When waiting ends, epoch seconds; None: whoever waits decides.
        expires_at: When the service ends it, epoch seconds.
        owned: Whether the holder's step started it. Only the owner cancels at a deadline.
        api_version: The version of the API that it was started with, where the service has several.
        polled: Whether the credential has been answered when it polled the execution, as far as is on record.
    """

    execution_id: str
    service: str = "transactionlink"
    key: str | None = None
    deadline: float | None = None
    expires_at: float | None = None
    owned: bool = False
    api_version: int | None = None
    polled: bool = False

    def to_dict(self) -> dict[str, Any]:
        """
        As JSON values, with the format's number.
        """
        document = {
            "format": HANDLE_FORMAT,
            "execution_id": self.execution_id,
            "service": self.service,
            "key": self.key,
            "deadline": self.deadline,
            "expires_at": self.expires_at,
            "owned": self.owned,
        }
        if self.api_version is not None:
            document["api_version"] = self.api_version
        if self.polled:
            document["polled"] = True
        return document

    @classmethod
    def from_dict(cls, document: object) -> Handle:
        """
        Read what :meth:`to_dict` wrote.

        Raises:
            InvalidRequest: The format is unknown, or the document is not a handle.
        """
        found = document.get("format") if isinstance(document, Mapping) else None
        if not isinstance(document, Mapping) or type(found) is not int or found != HANDLE_FORMAT:
            raise InvalidRequest(f"A handle has format {found!r}; this version reads format {HANDLE_FORMAT}.")
        identifier = safe_id(document.get("execution_id"))
        if identifier is None:
            raise InvalidRequest("A handle has no usable execution id.")
        service, key = document.get("service", "transactionlink"), document.get("key")
        owned = document.get("owned", False)
        times = document.get("deadline"), document.get("expires_at")
        version, polled = document.get("api_version"), document.get("polled", False)
        readable = isinstance(service, str) and isinstance(key, str | None) and isinstance(owned, bool)
        readable = readable and (version is None or type(version) is int) and isinstance(polled, bool)
        if not readable or not all(map(_is_moment, times)):
            raise InvalidRequest("A handle has a field of the wrong type.")
        return cls(
            execution_id=identifier,
            service=service,
            key=key,
            deadline=times[0],
            expires_at=times[1],
            owned=owned,
            api_version=version,
            polled=polled,
        )


@define(frozen=True, kw_only=True)
class Execution:
    """
    What one answer of the service said about an execution, and what we know of its start.

    ``link`` and ``token`` are in the start answer of an interactive execution only. They grant access to the
    applicant's page: they are :class:`~tl_orchestration.secret.Secret`, and pickling loses them.

    Args:
        id: The remote id.
        status: Where it stands.
        raw_status: The service's own literal.
        service: Which API it lives in.
        workflow_definition_id: Its definition, if the answer says so.
        name: The definition's name.
        revision: The definition's revision, opaque.
        workspace_id: The workspace.
        record_id: The record that it refers to.
        expires_at: When the service ends it.
        link: Hosted page for the applicant.
        token: The same for the vendor's widget.
        run_id: The run behind it (B3OS), once there is one.
        client_token: Lets its holder, who needs no key, see how the execution stands (B3OS). Pickling loses it.
        handle: Key, deadline and ownership, as far as known.
        reattached: Whether a start found this execution instead of making it.
    """

    id: str
    status: Status
    raw_status: str
    service: str = "transactionlink"
    workflow_definition_id: str | None = None
    name: str | None = None
    revision: str | None = None
    workspace_id: str | None = None
    record_id: str | None = None
    expires_at: datetime | None = None
    link: Secret | None = None
    token: Secret | None = None
    run_id: str | None = None
    client_token: Secret | None = None
    handle: Handle
    reattached: bool = False

    @property
    def is_terminal(self) -> bool:
        return self.status.is_terminal

    @property
    def is_interactive(self) -> bool:
        """
        Whether a person has to do something on a hosted page (contract A4.1: decided by link or token, not by type).
        """
        return self.link is not None or self.token is not None
