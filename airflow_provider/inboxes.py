"""
Where webhooks arrive: the inbox that a connection or ``airflow.cfg`` names.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider.versions import conf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tl_orchestration import Pacing
    from tl_orchestration.webhooks.inbox import Inbox

log = logging.getLogger(__name__)


def url_of(extra: Mapping[str, Any] | None = None) -> str | None:
    """
    Of the inbox for a connection with that extra, or of this Airflow's own.
    """
    named = (extra or {}).get("inbox_url") or conf.get("transactionlink", "inbox_url", fallback="")
    return str(named or "").strip() or None


def safety_net() -> Pacing:
    """
    When waits poll that hear of webhooks: as ``[transactionlink] safety_net`` says, else as the core does.
    """
    from tl_orchestration.errors import InvalidRequest
    from tl_orchestration.pacing import SAFETY_NET, Pacing

    said = conf.get("transactionlink", "safety_net", fallback="") or ""
    try:
        return Pacing.every(float(said)) if said.strip() else SAFETY_NET
    except (InvalidRequest, ValueError):
        log.warning("[transactionlink] safety_net is no number of seconds above zero; it is not used.")
        return SAFETY_NET


def opened(url: str) -> Inbox:
    """
    The inbox. Imports what takes half a second, so an event loop has it done by a thread. Nothing is connected yet.

    Raises:
        InvalidSettings: The URL cannot be used, or what it needs is not installed.
    """
    from tl_orchestration.errors import InvalidSettings

    try:
        from tl_orchestration.webhooks.inbox import Inbox

        return Inbox(url)
    except ModuleNotFoundError:
        raise InvalidSettings(
            "The inbox of webhooks is a SQL table, which needs an extra: pip install 'tl-orchestration[sql]'."
        ) from None


def opened_if_possible(url: str) -> Inbox | None:
    """
    As :func:`opened`; a wait that cannot have it polls as if there were none.
    """
    from tl_orchestration.errors import InvalidSettings

    try:
        return opened(url)
    except InvalidSettings as error:
        log.warning("Executions are polled without the inbox of webhooks (inbox_url): %s", error)
        return None
