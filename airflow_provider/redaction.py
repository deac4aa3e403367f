"""
Keeps rendered parameters out of Airflow's database.

Airflow stores and shows the value of every template field. Parameters of a KYC check are personal data, so after
rendering the operator holds them in a wrapper that Airflow can only see the keys of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MASK = "***"


class Withheld:
    """
    A value for this process only. ``serialize`` is what Airflow stores: the keys, and nothing of the values.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def reveal(self) -> Any:
        """
        The value, for the one place that sends it.
        """
        return self._value

    def serialize(self) -> Any:
        """
        Called by Airflow for what it stores as the rendered field.
        """
        if isinstance(self._value, Mapping):
            return {str(key): MASK for key in self._value}
        return MASK

    def __repr__(self) -> str:
        return f"Withheld({self.serialize()!r})"

    __str__ = __repr__


def without_password(value: Any) -> Any:
    """
    A rendered path or URI; withheld, where a password may be in it.
    """
    authority = value.partition("://")[2].partition("/")[0] if isinstance(value, str) else ""
    return Withheld(value) if ":" in authority.rpartition("@")[0] else value


def revealed(value: Any) -> Any:
    """
    The value itself, withheld or not.
    """
    return value.reveal() if isinstance(value, Withheld) else value
