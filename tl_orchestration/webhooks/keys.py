"""
Public keys by ``kid``: pinned, or fetched from the service and remembered.

``kid`` comes from whoever sends, so it never decides where to ask, and how often it makes us ask is limited: keys that
are known go on working while somebody tries thousands of others.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from attrs import define
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tl_orchestration.errors import InvalidSettings, NoAnswer, WebhookRefused, WebhookUndecided
from tl_orchestration.webhooks.public_key import read_key

log = logging.getLogger(__name__)

#: For how long a fetched key is used without asking again, seconds.
LIFETIME = 3600.0
#: For how much longer while the service cannot be asked, seconds.
STALE = 24 * 3600.0
#: How long after a failure the service is asked again about a key that we have, seconds.
RETRY = 60.0
#: For how long a key that the service does not have is not asked for again, seconds.
ABSENT = 60.0
#: Look-ups of keys that we do not have, in any minute.
UNKNOWN_PER_MINUTE = 2
#: Most keys, and most names of keys that the service does not have, that are remembered.
MOST = 1000
_MINUTE = 60.0
T = TypeVar("T")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

#: Asks the service for a key; None: it has no such key. Raises NoAnswer where it cannot be asked.
Fetch = Callable[[str], RSAPublicKey | None]


class Keys(Protocol):
    """
    Where keys come from.
    """

    def lookup(self, kid: str) -> Future[RSAPublicKey]:
        """
        The key of this name. The future fails with ``WebhookRefused`` where there is none.
        """


class PinnedKeys:
    """
    Keys that are given, and no others: nothing is ever fetched.

    Args:
        keys: PEM text by ``kid``.

    Raises:
        InvalidSettings: There is none, or one of them is not an RSA public key of at least 2048 bits.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        if not keys:
            raise InvalidSettings("There is no pinned key.")
        self._keys: dict[str, Future[RSAPublicKey]] = {}
        for kid, text in keys.items():
            try:
                self._keys[kid] = _done(read_key(text.encode()))
            except ValueError as error:
                raise InvalidSettings(f"The pinned key {kid} cannot be used: {error}.") from None

    @classmethod
    def in_folder(cls, folder: str | Path) -> PinnedKeys:
        """
        The keys in the files ``<kid>.pem`` of a folder.

        Raises:
            InvalidSettings: It cannot be read, has none, or one of them cannot be used.
        """
        try:
            found = {path.stem: path.read_text("ascii", "replace") for path in sorted(Path(folder).glob("*.pem"))}
        except OSError as error:
            raise InvalidSettings(f"The pinned keys cannot be read ({error.strerror}).") from None
        if not found:
            raise InvalidSettings(f"There is no file <kid>.pem in {folder}.")
        return cls(found)

    def lookup(self, kid: str) -> Future[RSAPublicKey]:
        """
        As :meth:`Keys.lookup`; done at once.
        """
        return self._keys.get(kid) or _failed(WebhookRefused("The signature is by a key that is not pinned."))


@define
class _Held:
    key: RSAPublicKey
    answered_at: float
    fresh_until: float


class FetchedKeys:
    """
    Keys that are fetched when they are first needed, and again when they have grown old. Safe to use from any thread.

    A key that the service has withdrawn is refused once its lifetime is over. While the service cannot be asked, a key
    that it has confirmed within a day goes on working.

    Args:
        fetch: How the service is asked; runs in a thread of this object's own.
        monotonic: Seconds.
    """

    def __init__(self, fetch: Fetch, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._pending: dict[str, Future[RSAPublicKey]] = {}
        self._asked: deque[float] = deque(maxlen=UNKNOWN_PER_MINUTE)
        self._known = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tl-webhook-keys")
        # Of their own: a key that is known must not wait until a stranger's was not found.
        self._unknown = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tl-webhook-new-keys")

    def close(self) -> None:
        """
        End its threads.
        """
        for threads in (self._known, self._unknown):
            threads.shutdown(wait=False, cancel_futures=True)

    def lookup(self, kid: str) -> Future[RSAPublicKey]:
        """
        As :meth:`Keys.lookup`. Whoever asks for the same key at the same time shares one request.
        """
        if not _UUID.fullmatch(kid):
            return _failed(WebhookRefused("The signature header names no key that the service could have."))
        with self._lock:
            now = self._monotonic()
            held = self._held.get(kid)
            if held is not None:
                self._held.move_to_end(kid)
                if now < held.fresh_until:
                    return _done(held.key)
            if (pending := self._pending.get(kid)) is not None:
                return pending
            if held is None and (refused := self._may_not_ask(kid, now)):
                return _failed(refused)
            future = self._pending[kid] = Future()
            future.set_running_or_notify_cancel()  # nobody may cancel what others wait for as well
        (self._unknown if held is None else self._known).submit(self._ask, kid, future)
        return future

    def _may_not_ask(self, kid: str, now: float) -> WebhookRefused | None:
        if self._absent.get(kid, now) > now:
            return WebhookRefused("The service has no key of this name.")
        if len(self._asked) == UNKNOWN_PER_MINUTE and now - self._asked[0] < _MINUTE:
            return WebhookUndecided("The key is not known, and the service has been asked for others too often.")
        self._asked.append(now)
        return None

    def _ask(self, kid: str, future: Future[RSAPublicKey]) -> None:
        try:
            found = self._fetch(kid)
        except NoAnswer as error:
            log.warning("The key of a delivery could not be fetched: %s", error)
            outcome = self._unanswered(kid)
        except Exception as error:  # whatever it is, those who wait must hear of it
            log.error("The key of a delivery could not be fetched (%s).", type(error).__name__)
            outcome = self._unanswered(kid)
        else:
            outcome = self._answered(kid, found)
        if isinstance(outcome, RSAPublicKey):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    def _answered(self, kid: str, key: RSAPublicKey | None) -> RSAPublicKey | WebhookRefused:
        with self._lock:
            now = self._monotonic()
            del self._pending[kid]
            if key is None:
                self._held.pop(kid, None)
                _remember(self._absent, kid, now + ABSENT)
                return WebhookRefused("The service has no key of this name.")
            self._absent.pop(kid, None)
            _remember(self._held, kid, _Held(key, now, now + LIFETIME))
            return key

    def _unanswered(self, kid: str) -> RSAPublicKey | WebhookRefused:
        with self._lock:
            now = self._monotonic()
            del self._pending[kid]
            held = self._held.get(kid)
            if held is not None and now - held.answered_at < LIFETIME + STALE:
                held.fresh_until = now + RETRY
                return held.key
            self._held.pop(kid, None)
            return WebhookUndecided("The key could not be fetched.")


def _remember(memory: OrderedDict[str, T], kid: str, what: T) -> None:
    memory[kid] = what
    memory.move_to_end(kid)
    if len(memory) > MOST:
        memory.popitem(last=False)


def _done(key: RSAPublicKey) -> Future[RSAPublicKey]:
    future: Future[RSAPublicKey] = Future()
    future.set_result(key)
    return future


def _failed(refused: WebhookRefused) -> Future[RSAPublicKey]:
    future: Future[RSAPublicKey] = Future()
    future.set_exception(refused)
    return future


__all__ = ["FetchedKeys", "Keys", "PinnedKeys"]
