"""
The receiver of webhooks inside Airflow's API server, where ``airflow.cfg`` says so.

Airflow lets anybody reach an application of a plugin, and that is what a receiver needs: a delivery proves itself by
its signature, and all that it can do is to insert a row.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from airflow_provider import inboxes
from airflow_provider.versions import conf
from tl_orchestration.webhooks.spells import Spells

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from tl_orchestration.webhooks.public_key import KeyServer
    from tl_orchestration.webhooks.receiver import Receiver
    from tl_orchestration.webhooks.signatures import Verifier

    _Application = Callable[
        [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
    ]

log = logging.getLogger(__name__)

#: Below which path of the API server it is.
PREFIX = "/transactionlink"
_SECTION = "transactionlink"


def applications() -> list[dict[str, Any]]:
    """
    What the plugin offers the API server: nothing, unless ``[transactionlink] receive_webhooks`` is true.
    """
    if not conf.getboolean(_SECTION, "receive_webhooks", fallback=False):
        return []
    return [{"app": Application(), "url_prefix": PREFIX, "name": "Transactionlink webhooks"}]


class Application:
    """
    The receiver's application, made at its first request: every process of Airflow loads plugins, one serves them.
    """

    def __init__(self) -> None:
        self._making: asyncio.Task[_Application] | None = None
        self._failures = Spells(log)

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """
        Answer as the receiver does; 503 where it cannot be made, so that the vendor delivers again.
        """
        if self._making is None or (self._making.done() and self._making.exception() is not None):
            self._making = asyncio.ensure_future(asyncio.to_thread(_receiver_app))
        try:
            application = await asyncio.shield(self._making)
        except Exception as error:
            said = str(error) if _is_ours(error) else type(error).__name__
            self._failures.warn("Webhooks cannot be received: %s", said)
            await send({"type": "http.response.start", "status": 503, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await application(scope, receive, send)


def _receiver_app() -> _Application:
    return receiver().app


def receiver() -> Receiver:
    """
    As ``[transactionlink]`` of ``airflow.cfg`` says.

    Raises:
        InvalidSettings: It says too little, or what cannot be used.
    """
    from tl_orchestration.errors import InvalidSettings

    url = inboxes.url_of()
    if url is None:
        raise InvalidSettings("[transactionlink] receive_webhooks needs [transactionlink] inbox_url.")
    inbox = inboxes.opened(url)
    try:
        from tl_orchestration.webhooks.receiver import Receiver
    except ModuleNotFoundError:
        raise InvalidSettings("Receiving webhooks needs an extra: pip install 'tl-orchestration[webhooks]'.") from None
    return Receiver(inbox, _verifiers())


def _verifiers() -> list[Verifier]:
    from tl_orchestration.secret import Secret
    from tl_orchestration.webhooks.verifying import verifiers

    return verifiers(
        pinned=_option("webhook_keys") or None,
        key_server=_key_server,
        unencoded=conf.getboolean(_SECTION, "webhook_unencoded", fallback=False),
        b3os_secrets=[Secret(one) for one in _option("webhook_b3os_secrets").split()],
        b3os_header=_option("webhook_b3os_header") or None,
    )


def _key_server() -> KeyServer:
    from tl_orchestration.settings import VENDOR_URL, Settings
    from tl_orchestration.webhooks.public_key import KeyServer

    hosts = tuple(host for host in _option("allowed_hosts").split(",") if host.strip())
    return KeyServer(_option("webhook_key_host") or VENDOR_URL, Settings(allowed_hosts=hosts or None))


def _option(name: str) -> str:
    return str(conf.get(_SECTION, name, fallback="") or "").strip()


def _is_ours(error: Exception) -> bool:
    from tl_orchestration.errors import TransactionlinkError

    return isinstance(error, TransactionlinkError)


__all__ = ["PREFIX", "Application", "applications", "receiver"]
