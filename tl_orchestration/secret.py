"""
A string that cannot be printed.
"""

from __future__ import annotations

from typing import NoReturn

from tl_orchestration.errors import InvalidSettings


class Secret:
    """
    Holds a token or a link that grants access. ``repr``, ``str``, ``format`` and pickling never show it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: str | None = value

    def reveal(self) -> str:
        """
        The value itself, for the one place that needs it.

        Raises:
            InvalidSettings: The value was lost because the object went through pickle or copy.
        """
        if self._value is None:
            raise InvalidSettings("This secret did not travel: secrets are not carried from one process to another.")
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(Secret)

    def __reduce__(self) -> tuple[object, ...]:
        return _lost, ()

    def __iter__(self) -> NoReturn:
        raise TypeError("a secret is not a sequence")


def _lost() -> Secret:
    secret = Secret("")
    secret._value = None
    return secret
