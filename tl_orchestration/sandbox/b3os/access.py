"""What a request to B3OS must bring before anything else is looked at."""

from starlette.requests import Request

from tl_orchestration.sandbox.answers import RefusedError
from tl_orchestration.sandbox.store import Store


def admit(store: Store, request: Request, *, write: bool) -> None:
    """
    Check key, scope and organization, in this order.

    An `X-Org-ID` that names another organization than the key's is refused even where none is needed.

    Raises:
        RefusedError: 401 or 403.
    """
    given = request.headers.get("authorization")
    scope = next((key.scope for key in store.settings.api_keys if given == f"Bearer {key.value}"), None)
    if scope is None:
        raise RefusedError(401, "UNAUTHORIZED", "Missing or invalid API key")
    if write and scope != "read-write":
        raise RefusedError(403, "FORBIDDEN", "This API key may only read")
    organization = request.headers.get("x-org-id")
    if organization is None and store.variants["organization_header"] == "required":
        raise RefusedError(403, "FORBIDDEN", "Missing organization context: send X-Org-ID")
    if organization not in {None, store.settings.organization_id}:
        raise RefusedError(403, "FORBIDDEN", "This API key belongs to another organization")
