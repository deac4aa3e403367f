"""
Inputs of a flow run, in which the server keeps what must outlive every process of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

_PAGE = 200


def read(client: SyncPrefectClient, flow_run_id: UUID, prefix: str) -> dict[str, str]:
    """
    Name -> value of the inputs with that prefix, oldest first.
    """
    found: dict[str, str] = {}
    while True:
        page = client.filter_flow_run_input(flow_run_id, prefix, _PAGE, set(found))
        found |= {each.key: each.value for each in page}
        if len(page) < _PAGE:
            return found


def create(client: SyncPrefectClient, flow_run_id: UUID, name: str, value: str) -> bool:
    """
    Whether this call made it; if not, there was one of that name already. Prefect's client repeats a request whose
    answer was lost, and then finds its own in the way.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        client.create_flow_run_input(flow_run_id, name, value)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 409:
            raise
        return False
    return True


__all__ = ["create", "read"]
