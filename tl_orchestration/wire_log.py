"""
What httpcore may say at DEBUG about our own exchanges: how far it has come, not what the service or a proxy wrote.

Its log lines quote the headers of an answer, where a cookie or an address may grant access, and errors that quote what
could not be read, which may be a piece of the body. Exchanges of others in the same process are logged as ever.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

#: The loggers that httpcore writes an exchange to.
_LOGGERS = ("httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks")
#: Ends of the names of steps whose line goes on with what came from outside.
_QUOTING = ("receive_response_headers.complete", ".failed")

_ours: ContextVar[bool] = ContextVar("tl_orchestration_exchange", default=False)


class _StepsOnly(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        step = record.getMessage().partition(" ")[0]
        if _ours.get() and step.endswith(_QUOTING):
            record.msg, record.args = step, ()
        return True


@contextlib.contextmanager
def contents_unlogged() -> Iterator[None]:
    """
    Keep what an answer says out of what is logged by the code under this, which reads and closes it.
    """
    before = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(before)


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_StepsOnly())

__all__ = ["contents_unlogged"]
