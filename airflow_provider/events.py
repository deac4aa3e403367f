"""
What a trigger may say to its task: how a wait ended, for which execution. Ids, states and class names only, because
Airflow logs the payload and keeps it in its database.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from attrs import frozen

from tl_orchestration.answers import safe_id
from tl_orchestration.errors import InvalidAnswer

EVENT_FORMAT = 1
#: Beyond any time and any status.
_LARGEST = 1e12


class Ending(StrEnum):
    """
    How the wait ended: the execution did, the deadline came first, or the wait itself failed.
    """

    ENDED = "ended"
    DEADLINE = "deadline"
    FAILED = "failed"


@frozen(kw_only=True)
class WaitEvent:
    """
    The payload of a trigger event.

    Args:
        ending: How the wait ended.
        execution_id: Of which execution.
        raw_status: The service's last literal, if one was seen.
        error: Class name of the error, where the wait failed.
        status_code: HTTP status of that error, if it had one.
        deadline: When waiting was to end, epoch seconds.
        expires_at: When the service ends the execution, epoch seconds.
        service: Which API the execution lives in.
        api_version: The version of the API that it was started with, where the service has several.
    """

    ending: Ending
    execution_id: str
    raw_status: str | None = None
    error: str | None = None
    status_code: int | None = None
    deadline: float | None = None
    expires_at: float | None = None
    service: str = "transactionlink"
    api_version: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """
        As JSON values.
        """
        return {
            "format": EVENT_FORMAT,
            "ending": self.ending.value,
            "execution_id": self.execution_id,
            "raw_status": self.raw_status,
            "error": self.error,
            "status_code": self.status_code,
            "deadline": self.deadline,
            "expires_at": self.expires_at,
            "service": self.service,
            "api_version": self.api_version,
        }

    @classmethod
    def from_dict(cls, payload: Any) -> WaitEvent:
        """
        Read a payload; whatever is not understood is refused, never taken for a success.

        Raises:
            InvalidAnswer: It is not an event of a known format.
        """
        try:
            if type(payload["format"]) is not int or payload["format"] != EVENT_FORMAT:
                raise ValueError("format")
            identifier = safe_id(payload["execution_id"])
            if identifier is None:
                raise ValueError("execution_id")
            return cls(
                ending=Ending(payload["ending"]),
                execution_id=identifier,
                raw_status=_optional(payload, "raw_status", str),
                error=_optional(payload, "error", str),
                status_code=_optional(payload, "status_code", int),
                deadline=_optional(payload, "deadline", float, int),
                expires_at=_optional(payload, "expires_at", float, int),
                service=_optional(payload, "service", str) or "transactionlink",
                api_version=_optional(payload, "api_version", int),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InvalidAnswer(
                "The task was resumed with an event that this version does not understand; it is not taken for a"
                " success. Clear the task to look at the execution again."
            ) from None


@frozen(kw_only=True)
class BatchEvent:
    """
    The payload of a batch trigger's event: there is something for a worker to do, or the wait itself has failed.

    Args:
        campaign: Whose.
        error: Class name of the error, where the wait failed.
        status_code: HTTP status of that error, if it had one.
    """

    campaign: str
    error: str | None = None
    status_code: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """
        As JSON values.
        """
        return {
            "format": EVENT_FORMAT,
            "campaign": self.campaign,
            "error": self.error,
            "status_code": self.status_code,
        }

    @classmethod
    def from_dict(cls, payload: Any) -> BatchEvent:
        """
        Read a payload.

        Raises:
            InvalidAnswer: It is not an event of a known format.
        """
        try:
            if type(payload["format"]) is not int or payload["format"] != EVENT_FORMAT:
                raise ValueError("format")
            campaign = _optional(payload, "campaign", str)
            if campaign is None:
                raise ValueError("campaign")
            return cls(
                campaign=campaign,
                error=_optional(payload, "error", str),
                status_code=_optional(payload, "status_code", int),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InvalidAnswer(
                "The task was resumed with an event that this version does not understand. Clear the task: it goes on"
                " with its campaign."
            ) from None


def _optional(payload: Any, name: str, *kinds: type) -> Any:
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(name)
    if isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise ValueError(name)
    return value
