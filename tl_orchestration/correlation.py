"""
A random id among the parameters of a start, by which a person finds the execution in the vendor's dashboard.

It is recorded with the intent, so it is known whatever becomes of the start. It says nothing about anybody.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from tl_orchestration.errors import InvalidRequest

if TYPE_CHECKING:
    from tl_orchestration.ledger.entry import Entry
    from tl_orchestration.models import RunRequest

_BYTES = 16


@frozen
class Correlation:
    """
    Args:
        parameter: The parameter's name, which the caller has chosen.
        id: Its value: ``tl-`` and 128 random bits, hexadecimal.
    """

    parameter: str
    id: str

    def __str__(self) -> str:
        return f"{self.parameter} = {self.id}"

    def added_to(self, request: RunRequest) -> RunRequest:
        """
        The request as it is sent.
        """
        return evolve(request, parameters={**request.parameters, self.parameter: self.id})


def new_correlation(parameter: str) -> Correlation:
    """
    One that no start has had before.
    """
    return Correlation(parameter, f"tl-{secrets.token_hex(_BYTES)}")


def recorded_correlation(entry: Entry) -> Correlation | None:
    """
    That of the entry's latest attempt, if it has one.
    """
    if entry.correlation_parameter is None or entry.correlation_id is None:
        return None
    return Correlation(entry.correlation_parameter, entry.correlation_id)


def check_parameter(name: object) -> None:
    """
    Raises:
        ValueError: This cannot be a parameter's name, or not one that can be shown to a person.
    """
    if name is not None and not (isinstance(name, str) and name.strip() and name.isprintable()):
        raise ValueError("correlation_parameter must be the name of a parameter: printable text that is not empty")


def check_free(request: RunRequest, parameter: str | None) -> None:
    """
    Raises:
        InvalidRequest: The request has a parameter of this name itself.
    """
    if parameter in request.parameters:
        raise InvalidRequest(
            f"correlation_parameter names {parameter!r}, which is among the parameters already. Nothing was sent;"
            " choose a name that the workflow definition does not use."
        )
