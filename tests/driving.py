"""
Flows driven by hand: the test sees each command and says what comes back.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from tl_orchestration.exchange import Command, Flow, Request

T = TypeVar("T")
C = TypeVar("C", bound=Command)


class Hand(Generic[T]):
    """
    Holds a flow at its next command. What the flow raises comes out of ``reply`` and ``fail``.
    """

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._returned: list[T] = []
        self.commands: list[Command] = []
        self._advance(None)

    def asks(self, kind: type[C]) -> C:
        """
        The command that waits for a reply.
        """
        assert not self._returned, f"the flow has returned {self._returned[0]!r}"
        command = self.commands[-1]
        assert isinstance(command, kind), f"the flow asks for {command!r}"
        return command

    def reply(self, value: object) -> Hand[T]:
        """
        Send the reply in.
        """
        self._advance(value)
        return self

    def fail(self, error: Exception) -> Hand[T]:
        """
        Throw an error in.
        """
        try:
            self.commands.append(self._flow.throw(error))
        except StopIteration as done:
            self._returned.append(done.value)
        return self

    @property
    def done(self) -> bool:
        """
        Whether the flow has returned.
        """
        return bool(self._returned)

    @property
    def returned(self) -> T:
        """
        What the flow has returned.
        """
        assert self._returned, f"the flow asks for {self.commands[-1]!r}"
        return self._returned[0]

    @property
    def requests(self) -> list[Request]:
        """
        The requests that it has asked for so far.
        """
        return [command for command in self.commands if isinstance(command, Request)]

    def _advance(self, value: object) -> None:
        try:
            self.commands.append(self._flow.send(value))
        except StopIteration as done:
            self._returned.append(done.value)
