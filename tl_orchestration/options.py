"""
What a request carries for one service only: :class:`LegacyOptions` and :class:`B3osOptions`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import NOTHING, asdict, field, fields, frozen

from tl_orchestration.errors import InvalidRequest
from tl_orchestration.json_input import check_scalar, json_copy, kind_of


def _text(name: str) -> Any:
    """
    A field that is personal data, as a string: the vendor's samples also show numbers (contract C15).
    """
    return field(default=None, converter=lambda value: _string(value, name), repr=_present)


def _string(value: object, name: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{name} must be text that is not empty, not {kind_of(value)}.")
    check_scalar(value, name)
    return value


def _present(value: object) -> str:
    return "None" if value is None else "'***'"


def _required(name: str) -> Any:
    def convert(value: object) -> str:
        text = _string(value, name)
        if text is None:
            raise InvalidRequest(f"{name} is required (contract B2).")
        return text

    return field(converter=convert)


def _optional(name: str) -> Any:
    return field(default=None, converter=lambda value: _string(value, name))


def _case_id(value: object) -> str | None:
    if value is None:
        return None
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise InvalidRequest("case_id must be a UUID.") from None


def _phone(value: object) -> tuple[str, str] | None:
    if value is None:
        return None
    parts = list(value) if isinstance(value, tuple | list) else []
    if len(parts) != 2 or None in parts:
        raise InvalidRequest("phone must be a pair: country code and number.")
    return str(_string(parts[0], "phone[0]")), str(_string(parts[1], "phone[1]"))


@frozen(kw_only=True)
class CaseDocument:
    """
    A document of a case (contract A6): its id, its name and where it lies. Personal data, so it is never shown.
    """

    resource_id: str | None = _text("resource_id")
    resource_name: str | None = _text("resource_name")
    resource_path: str | None = _text("resource_path")


def _documents(value: object) -> tuple[CaseDocument, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        raise InvalidRequest(f"documents must be a list, not {kind_of(value)}.")
    return tuple(_document(item, position) for position, item in enumerate(value))


def _document(value: object, position: int) -> CaseDocument:
    if isinstance(value, CaseDocument):
        return value
    known = {attribute.name for attribute in fields(CaseDocument)}
    if not isinstance(value, Mapping) or not set(value) <= known:
        raise InvalidRequest(f"documents[{position}] must have {', '.join(sorted(known))} and nothing else.")
    return CaseDocument(**value)


@frozen(kw_only=True)
class LegacyOptions:
    """
    Whom a run of the legacy Transactionlink API is about (contract A6).

    With a case, given by its id or by fields to make one from, version 1 of the API is used; without one version 2,
    where ``RunRequest.record_id`` may name a record. Fields of a case are personal data: never shown, logged or stored.

    Args:
        case_id: UUID of a case that exists. Not together with fields of a new one.
        first_name, last_name, personal_number, email: Of the person.
        company_name, company_number, company_address: Of the company.
        phone: Country code and number, such as ``("+370", "60000000")``.
        documents: :class:`CaseDocument`, or dicts with its fields.

    Raises:
        InvalidRequest: A field is wrong; the message names it, never its value.
    """

    case_id: str | None = field(default=None, converter=_case_id)
    first_name: str | None = _text("first_name")
    last_name: str | None = _text("last_name")
    personal_number: str | None = _text("personal_number")
    email: str | None = _text("email")
    company_name: str | None = _text("company_name")
    company_number: str | None = _text("company_number")
    company_address: str | None = _text("company_address")
    phone: tuple[str, str] | None = field(default=None, converter=_phone, repr=_present)
    documents: tuple[CaseDocument, ...] = field(
        default=(), converter=_documents, repr=lambda value: f"<{len(value)} documents>"
    )

    def __attrs_post_init__(self) -> None:
        if self.case_id is not None and self.describes_case:
            raise InvalidRequest("Give case_id, or fields to make a case from, not both.")

    @property
    def describes_case(self) -> bool:
        """
        Whether there are fields to make a case from.
        """
        return any(getattr(self, attribute.name) for attribute in fields(LegacyOptions) if attribute.name != "case_id")

    @property
    def has_case(self) -> bool:
        return self.case_id is not None or self.describes_case

    def identity(self) -> dict[str, Any]:
        """
        As JSON values, for the request's keyed fingerprint.
        """
        return {"legacy": asdict(self)}


def _metadata(value: object) -> dict[str, Any] | None:
    return None if value is None else json_copy(value, "client_safe_metadata")


@frozen(kw_only=True)
class B3osOptions:
    """
    What B3OS wants to know of an execution's origin (contract B2).

    Args:
        source_system: Which system asks, such as ``airflow``. Required by the service.
        source_entity_type: What the execution is about, such as ``customer``. Required by the service.
        source_entity_id: The id of that entity in the source system. Must not be personal.
        external_ref: A reference of the caller's own. Must not be personal.
        client_safe_metadata: A JSON object that B3OS shows to whoever holds the client token.

    Raises:
        InvalidRequest: A field is wrong; the message names it, never its value.
    """

    source_system: str = _required("source_system")
    source_entity_type: str = _required("source_entity_type")
    source_entity_id: str | None = _optional("source_entity_id")
    external_ref: str | None = _optional("external_ref")
    client_safe_metadata: Mapping[str, Any] | None = field(
        default=None, converter=_metadata, repr=lambda value: "None" if value is None else f"<{len(value)} keys>"
    )

    def identity(self) -> dict[str, Any]:
        """
        As JSON values, for the request's keyed fingerprint.
        """
        return {"b3os": asdict(self)}


Options = LegacyOptions | B3osOptions

_KINDS: Mapping[str, type[Options]] = {"transactionlink-legacy": LegacyOptions, "b3os": B3osOptions}


def options_for(service: str, given: object, argument: str) -> Options | None:
    """
    The options that a service takes, from a mapping of their fields, from a ready value, or None where none are given.

    Args:
        service: Name of the service.
        given: What the user gave.
        argument: What the user knows it by, for messages.

    Raises:
        InvalidRequest: The service takes no options, others, or needs some; or a field is unknown or wrong. The message
            names fields, never a value.
    """
    kind = _KINDS.get(service)
    if given is None and kind is not B3osOptions:
        return None
    if kind is None:
        raise InvalidRequest(f"The service {service} takes no {argument}: leave it out.")
    if isinstance(given, kind):
        return given
    if isinstance(given, LegacyOptions | B3osOptions):
        raise InvalidRequest(
            f"The service {service} takes {kind.__name__} as its {argument}, not {type(given).__name__}."
        )
    required = [attribute.name for attribute in fields(kind) if attribute.default is NOTHING]
    if given is None:
        raise InvalidRequest(f"The service {service} needs {argument} with {' and '.join(required)}.")
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"{argument} must be a dict or {kind.__name__}, not {kind_of(given)}.")
    known = [attribute.name for attribute in fields(kind)]
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise InvalidRequest(
            f"{argument} of the service {service} have no {', '.join(unknown)}; known are: {', '.join(known)}."
        )
    return kind(**{**dict.fromkeys(required), **given})
