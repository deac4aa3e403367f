"""
From a record of the source to a request: a typed mapping, whose complaints never show a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from attrs import evolve, field, fields, frozen, validators

from tl_orchestration import strict_json
from tl_orchestration.batch.sources import Unreadable
from tl_orchestration.errors import InvalidRequest, InvalidSettings
from tl_orchestration.ledger.key import LONGEST_KEY
from tl_orchestration.models import RunRequest
from tl_orchestration.options import Options

Type = Literal["as-is", "text", "integer", "number", "boolean", "date", "json"]

#: Longest business key, bytes: the ledger's key has the campaign in front of it.
LONGEST_BUSINESS_KEY = LONGEST_KEY - 300
_TRUE = frozenset({"true", "t", "yes", "y", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "0"})
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


class _TooManyDigits(ValueError):
    """
    A number that JSON's readers would round.
    """


class BadRow(Exception):
    """
    A record that cannot be run.

    Args:
        column: The column at fault, where it is one.
        reason: Why, without any value.
    """

    def __init__(self, column: str | None, reason: str) -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason


@frozen
class Column:
    """
    Where a value comes from, and what it must be.

    Args:
        name: The column.
        type: ``as-is`` takes the value as the source gives it, which is text for CSV, an empty one included; ``date``
            becomes ``YYYY-MM-DD``; ``json`` is text that holds JSON. A number with more digits than a JSON number keeps
            is refused, but as ``text``, which has them all.
        required: Whether a row without it is bad. If not, the parameter is left out. For other types than ``as-is``,
            empty text counts as none.
    """

    name: str
    type: Type = field(
        default="as-is",
        validator=validators.in_(("as-is", "text", "integer", "number", "boolean", "date", "json")),
    )
    required: bool = True


def _columns(value: Mapping[str, Column | str]) -> dict[str, Column]:
    return {name: one if isinstance(one, Column) else Column(one) for name, one in dict(value).items()}


@frozen(kw_only=True)
class Columns:
    """
    Which column is what.

    Args:
        key: The business key: names the row in ledger, logs and reports, so it must not be personal.
        parameters: By the name of the workflow's parameter, the column that it comes from.
        parameters_from: A column with a JSON object of parameters; ``parameters`` are laid over it.
        record_id: Column with the record's UUID.
        locale: Column with the language; ``default_locale`` where it is empty.
        expires_in: Column with the seconds from start to expiry.
        options: By the name of a field of the service's options (:class:`~tl_orchestration.LegacyOptions`,
            :class:`~tl_orchestration.B3osOptions`), the column that it comes from; they are laid over the options of
            the book.
    """

    key: str
    parameters: Mapping[str, Column] = field(factory=dict, converter=_columns)
    parameters_from: str | None = None
    record_id: str | None = None
    locale: str | None = None
    expires_in: str | None = None
    default_locale: str = "en"
    options: Mapping[str, Column] = field(factory=dict, converter=_columns)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Columns:
        """
        From JSON values: the members are the arguments, and the column of a parameter or an option is its name or an
        object of a Column's arguments.

        Raises:
            InvalidSettings: It is no such object.
        """
        named = dict(document)
        if surplus := sorted(set(named) - {one.name for one in fields(cls)}):
            raise InvalidSettings(f"The columns have members that are not known: {', '.join(surplus)}.")
        try:
            typed: dict[str, Any] = {
                member: {
                    name: value if isinstance(value, str | Column) else Column(**value)
                    for name, value in dict(named.pop(member, {})).items()
                }
                for member in ("parameters", "options")
            }
            return cls(**typed, **named)
        except (TypeError, ValueError, AttributeError):
            raise InvalidSettings(
                'The columns must be like {"key": "id", "parameters": {"firstName": "first", "dateOfBirth": {"name":'
                ' "born", "type": "date"}}}.'
            ) from None

    def named(self) -> frozenset[str]:
        """
        Every column that is read.
        """
        others = (self.parameters_from, self.record_id, self.locale, self.expires_in)
        typed = (*self.parameters.values(), *self.options.values())
        used = {self.key, *(column.name for column in typed), *others}
        return frozenset(name for name in used if name is not None)

    def key_of(self, record: Mapping[str, Any]) -> str:
        """
        The business key of a record.

        Raises:
            BadRow: It has none that can be used.
        """
        value = record.get(self.key)
        if isinstance(value, Unreadable):
            raise BadRow(self.key, value.reason)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise BadRow(self.key, "there is no key" if value is None else "the key is neither text nor a whole number")
        text = str(value).strip()
        if not text:
            raise BadRow(self.key, "there is no key")
        if not text.isprintable() or len(text.encode(errors="replace")) > LONGEST_BUSINESS_KEY:
            raise BadRow(self.key, f"the key is not printable text of at most {LONGEST_BUSINESS_KEY} bytes")
        return text

    def request_of(
        self,
        record: Mapping[str, Any],
        workflow_definition_id: str,
        options: Options | None = None,
        accepts: Callable[[RunRequest], object] = lambda request: None,
    ) -> RunRequest:
        """
        What to run for a record.

        Args:
            options: What the columns of options are laid over; there is something where there are any.
            accepts: Raises InvalidRequest where the service takes no such request.

        Raises:
            BadRow: A value is missing or not what it must be.
        """
        parameters: dict[str, Any] = {}
        if self.parameters_from is not None:
            given = value_of(record, Column(self.parameters_from, "json"))
            if not isinstance(given, Mapping):
                raise BadRow(self.parameters_from, "it is not a JSON object")
            parameters.update(given)
        for name, column in self.parameters.items():
            value = value_of(record, column)
            if value is not None:
                parameters[name] = value
        seconds = None if self.expires_in is None else value_of(record, Column(self.expires_in, "number", False))
        locale = None if self.locale is None else value_of(record, Column(self.locale, "text", False))
        record_id = None if self.record_id is None else value_of(record, Column(self.record_id, "text", False))
        if self.options and options is not None:
            options = self._options_of(record, options)
        try:
            request = RunRequest(
                workflow_definition_id,
                parameters,
                locale=locale or self.default_locale,
                expires_in=seconds,
                record_id=record_id,
                options=options,
            )
        except InvalidRequest as error:
            raise BadRow(self._blamed(error.message), error.message) from None
        try:
            accepts(request)
        except InvalidRequest as error:
            blamed = (source for name, source in self._by_field().items() if name in error.message)
            raise BadRow(next(blamed, None), error.message) from None
        return request

    def _options_of(self, record: Mapping[str, Any], options: Options) -> Options:
        for name, column in self.options.items():
            value = value_of(record, column)
            if isinstance(value, str) and not value.strip():  # as it is; but no option is empty text
                if column.required:
                    raise BadRow(column.name, "it is missing or empty")
                continue
            if value is None:
                continue
            try:
                options = evolve(options, **{name: value})
            except InvalidRequest as error:
                raise BadRow(column.name, error.message) from None
        return options

    def _blamed(self, message: str) -> str | None:
        for name, column in self._by_field().items():
            if message.startswith(name):
                return column
        # The longest one: another name may be the beginning of it.
        for name in sorted(self.parameters, key=len, reverse=True):
            if message.startswith(f"parameters.{name}"):
                return self.parameters[name].name
        return self.parameters_from

    def _by_field(self) -> dict[str, str | None]:
        return {"expires_in": self.expires_in, "locale": self.locale, "record_id": self.record_id}


def value_of(record: Mapping[str, Any], column: Column) -> Any:
    """
    A value of a record as the column's type; None where it is absent or empty and may be.

    Raises:
        BadRow: It is missing, or no such value.
    """
    value = record.get(column.name)
    if isinstance(value, Unreadable):
        raise BadRow(column.name, value.reason)
    if value is None or (isinstance(value, str) and not value.strip() and column.type != "as-is"):
        if column.required:
            raise BadRow(column.name, "it is missing or empty")
        return None
    try:
        return _READERS[column.type](value)
    except _TooManyDigits:
        raise BadRow(column.name, "it has more digits than a JSON number keeps; as text it has them all") from None
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        raise BadRow(column.name, f"it is not {_NAMES[column.type]}") from None


def _as_is(value: Any) -> Any:
    """
    What JSON has no word for becomes what it has: dates of Parquet and SQL, and their exact numbers.
    """
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else _kept(value)
    if isinstance(value, bytes):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise TypeError
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise ValueError
    return f"{value:f}" if isinstance(value, Decimal) else str(value).strip()


def _integer(value: Any) -> int:
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value.strip()):
            raise ValueError
        return int(value)
    if isinstance(value, bool) or value != int(value):
        raise ValueError
    return int(value)


def _number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise TypeError
    number = value if isinstance(value, float) else _kept(Decimal(value.strip() if isinstance(value, str) else value))
    if not math.isfinite(number):
        raise ValueError
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _kept(exact: Decimal) -> float:
    """
    A float that is the number, or whose shortest text is.
    """
    number = float(exact)
    if math.isfinite(number) and exact not in (Decimal(number), Decimal(repr(number))):
        raise _TooManyDigits
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _date(value: Any) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, str):
        raise TypeError
    return date.fromisoformat(value.strip()).isoformat()


def _json(value: Any) -> Any:
    return strict_json.read(value) if isinstance(value, str | bytes) else value


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "as-is": _as_is,
    "text": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "json": _json,
}
_NAMES = {
    "as-is": "a value that JSON can hold",
    "text": "text or a number",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date such as 1990-12-31",
    "json": "JSON",
}

__all__ = ["BadRow", "Column", "Columns", "value_of"]
