"""What legacy starts refer to: cases and parameters sets, kept so that orphans can be found."""

from collections.abc import Mapping
from typing import Any

import attrs

from tl_orchestration.sandbox.clock import to_text
from tl_orchestration.sandbox.ids import Streams

PERSONAL = ("firstName", "lastName", "personalNumber", "email", "phone")
BUSINESS = ("companyNumber", "companyName", "companyAddress")
"""The members of a case, by the part of `partyDetails` in which they are told."""


@attrs.frozen(kw_only=True)
class Case:
    """
    One case as it was made.

    Args:
        fields: the known members of the request.
        time: epoch seconds.
        request: number of the request that made it.
    """

    id: str
    party_id: str
    fields: Mapping[str, Any] = attrs.field(repr=False)
    time: float
    request: int

    @property
    def party_details(self) -> dict[str, Any]:
        """The fields as the service tells them; those not given are null."""
        return {
            "personal": {name: self.fields.get(name) for name in PERSONAL},
            "business": {name: self.fields.get(name) for name in BUSINESS},
            "documents": self.fields.get("documents", []),
        }

    def described(self) -> dict[str, Any]:
        """The fields as JSON members, for `/_sandbox/cases`."""
        fields = dict(self.fields)
        return attrs.asdict(self, recurse=False) | {"time": to_text(self.time), "fields": fields}


@attrs.frozen(kw_only=True)
class ParameterSet:
    """
    One parameters set as it was made.

    Args:
        parameters: any JSON value.
        time: epoch seconds.
        request: number of the request that made it.
    """

    id: str
    definition: str
    parameters: Any = attrs.field(repr=False)
    time: float
    request: int

    def described(self) -> dict[str, Any]:
        """The fields as JSON members, for `/_sandbox/parameters`."""
        return attrs.asdict(self, recurse=False) | {"time": to_text(self.time)}


class Cases:
    """Every case and parameters set of one sandbox, in the order in which they were made."""

    def __init__(self, ids: Streams) -> None:
        self._ids = ids
        self.cases: dict[str, Case] = {}
        self.parameter_sets: dict[str, ParameterSet] = {}

    def open(self, fields: Mapping[str, Any], now: float, request: int) -> Case:
        """Make a case."""
        case = Case(
            id=self._ids.uuid("cases"), party_id=self._ids.uuid("parties"), fields=fields, time=now, request=request
        )
        self.cases[case.id] = case
        return case

    def keep(self, definition: str, parameters: Any, now: float, request: int) -> ParameterSet:
        """Make a parameters set."""
        made = ParameterSet(
            id=self._ids.uuid("parameters"), definition=definition, parameters=parameters, time=now, request=request
        )
        self.parameter_sets[made.id] = made
        return made
