"""What a request to either Transactionlink API must bring before anything else is looked at."""

from starlette.requests import Request

from tl_orchestration.sandbox.answers import RefusedError
from tl_orchestration.sandbox.credentials import Key, Token
from tl_orchestration.sandbox.store import Store
from tl_orchestration.sandbox.versions import check_version


def admit(store: Store, request: Request, permission: str) -> None:
    """
    Check credential, permission (`can_run` or `can_view`) and version, in this order.

    Raises:
        RefusedError: 401, 403 or 406.
    """
    _check(_holder(store, request), permission)
    check_version(store, request)


def admit_legacy(store: Store, request: Request, permission: str) -> None:
    """The same for the endpoints of the legacy API, which is not known to take organization tokens."""
    holder = _holder(store, request)
    takes_tokens = store.variants["legacy_organization_token"]
    if isinstance(holder, Token) and holder.is_organization_token and not takes_tokens:
        holder = None
    _check(holder, permission)
    check_version(store, request)


def _check(holder: Token | Key | None, permission: str) -> None:
    if holder is None:
        raise RefusedError(401, "UNAUTHORIZED", "JWT token missing or invalid")
    if not getattr(holder, permission):
        raise RefusedError(403, "FORBIDDEN", "Missing permission for this operation")


def _holder(store: Store, request: Request) -> Token | Key | None:
    given = request.headers.get("authorization", "")
    bearer = given.removeprefix("Bearer ") if given.startswith("Bearer ") else None
    form = store.variants["organization_token_form"]
    for token in store.settings.tokens:
        if token.is_organization_token:
            if (form != "bearer" and token.value == given) or (form != "raw" and token.value == bearer):
                return token
        elif token.value == bearer:
            return token
    return None if bearer is None else store.sessions.key_of_access(bearer, store.clock.now())
