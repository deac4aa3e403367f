"""
Hands the link of an interactive execution to a callable or a notifier of Airflow's.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier
from airflow.sdk.log import mask_secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from tl_orchestration import Execution


def with_context(on_link: Callable[..., Any], context: Context) -> Callable[[Execution], None]:
    """
    The operator's ``on_link`` as the core calls it. It gets a copy of Airflow's context with ``link``, ``link_token``
    and ``execution_id``, so that nothing else that has the context has the link; and Airflow masks both in all logs of
    the task from then on.
    """

    def deliver(execution: Execution) -> None:
        link, token = (None if secret is None else secret.reveal() for secret in (execution.link, execution.token))
        for value in (link, token):
            if value:
                mask_secret(value)
        known: Any = {**context, "link": link, "link_token": token, "execution_id": execution.id}
        sent = _notified(on_link, known) if isinstance(on_link, BaseNotifier) else on_link(known)
        if inspect.iscoroutine(sent):
            asyncio.run(sent)

    return deliver


def _notified(notifier: BaseNotifier, given: dict[str, Any]) -> Any:
    # Not by calling it: some versions of Airflow log what it raises, which may quote the link, and go on. A copy,
    # because rendering replaces the templates: the next execution of this process has another link.
    notifier = copy.copy(notifier)
    context: Any = {name: getattr(notifier, name) for name in notifier.template_fields} | given
    notifier.render_template_fields(context)
    is_asynchronous = type(notifier).notify is BaseNotifier.notify
    return notifier.async_notify(context) if is_asynchronous else notifier.notify(context)


__all__ = ["with_context"]
