"""The sandbox as an ASGI application: one store, and the routes of each service over it."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tl_orchestration.sandbox import control, hosted, transactionlink
from tl_orchestration.sandbox.answers import RefusedError
from tl_orchestration.sandbox.b3os import executions, runs
from tl_orchestration.sandbox.b3os.envelope import refusal
from tl_orchestration.sandbox.legacy import auth
from tl_orchestration.sandbox.legacy import routes as legacy
from tl_orchestration.sandbox.settings import SandboxSettings
from tl_orchestration.sandbox.store import Store
from tl_orchestration.sandbox.webhooks import routes as webhooks


def create_app(settings: SandboxSettings | None = None) -> Starlette:
    """
    Make the application with a fresh store, which is at `app.state.store`.

    Under a server other than `SandboxServer` or `serve` everything works but the faults that close a
    connection; those are refused when they are ordered.
    """
    store = Store(SandboxSettings() if settings is None else settings)

    async def refuse(request: Request, error: Exception) -> Response:
        """Answer what no route took, such as a wrong path or method, in the service's own form."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        if not request.url.path.startswith("/_sandbox"):
            store.count_request(f"{request.method} *")
        code = "METHOD_NOT_ALLOWED" if status == 405 else "NOT_FOUND"
        refused = RefusedError(status, code, f"No {request.method} {request.url.path} here")
        if request.url.path.startswith("/v1/"):
            response = refusal(refused, request, store.variants)
        else:
            response = refused.answer(store.fingerprint())
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    parts = (webhooks, auth, legacy, transactionlink, executions, runs, hosted, control)
    app = Starlette(
        # The legacy API goes first: `POST /workflows/run` is no execution.
        routes=[route for part in parts for route in part.routes(store)],
        exception_handlers={HTTPException: refuse},
    )
    # A client that adds a slash has the path wrong; the service is not known to redirect it.
    app.router.redirect_slashes = False
    app.state.store = store
    return app
