"""
Webhooks: a delivery is verified, stored once, and wakes up whatever waits for its execution.

Needs the extra ``webhooks``. Importing this package costs nothing. On the way of a delivery:
:mod:`~tl_orchestration.webhooks.receiver` takes it, :mod:`~tl_orchestration.webhooks.signatures` verifies it with a key
from :mod:`~tl_orchestration.webhooks.keys`, :mod:`~tl_orchestration.webhooks.announcement` reads what it is about, and
:mod:`~tl_orchestration.webhooks.inbox` keeps that. Nothing here holds a credential that could start or read anything.
"""
