"""The hosted page, where a person approves or rejects an interactive execution."""

from html import escape
from string import Template
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from tl_orchestration.sandbox.definitions import DECISIONS
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.store import AlreadyFinishedError, Store, UnknownExecutionError
from tl_orchestration.sandbox.words import transactionlink_word

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title - Transactionlink sandbox</title>
<style>
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 32rem; margin: 10vh auto; padding: 0 1.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
form { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 2rem; }
button { font: inherit; padding: .6rem 1.6rem; border: 2px solid; border-radius: .4rem; cursor: pointer; }
button[value=approve] { background: #14532d; border-color: #14532d; color: #fff; }
button[value=reject] { background: #fff; border-color: #991b1b; color: #991b1b; }
button:focus-visible { outline: 3px solid #2563eb; outline-offset: 3px; }
footer { margin-top: 3rem; font-size: .875rem; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p role="status">$text</p>
$details
<footer>This is a local sandbox. Nothing here is a real check.</footer>
</main>
</body>
</html>
""")

_DETAILS = Template("""\
<dl>
<dt>Workflow</dt><dd>$name</dd>
<dt>Status</dt><dd>$status</dd>
</dl>
""")

_FORM = Template("""\
<form method="post">
<input type="hidden" name="token" value="$token">
<button type="submit" name="decision" value="approve">Approve</button>
<button type="submit" name="decision" value="reject">Reject</button>
</form>
""")

# The token is in the address: it must not travel on in a Referer, nor stay in a cache.
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": ("default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes(store: Store) -> list[Route]:
    """The routes of the hosted page over one store."""
    page = _Page(store)
    return [
        Route(path, handler, methods=[method])
        for path in ("/hosted", "/hosted/{link}")
        for method, handler in (("GET", page.show), ("POST", page.decide))
    ]


def hosted_link(store: Store, request: Request, execution: Execution) -> str:
    """The address of the hosted page, under `public_url` or else under the host that the request came to."""
    base = store.settings.public_url or str(request.base_url).rstrip("/")
    if store.variants["link_format"] == "path":
        return f"{base}/hosted/{execution.link_id}"
    return f"{base}/hosted?{urlencode({'token': execution.token})}"


class _Page:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def show(self, request: Request) -> Response:
        self._store.count_request("GET /hosted")
        token = request.path_params.get("link") or request.query_params.get("token", "")
        try:
            execution = self._store.find_by_token(token)
        except UnknownExecutionError:
            return _unknown_link()
        if not execution.waits_for_person_at(self._store.clock.now()):
            return self._finished(execution, 200)
        text = "Please decide whether this customer passes the check."
        form = _FORM.substitute(token=escape(token))
        return _page(200, "Review a customer", text, self._details(execution) + form)

    async def decide(self, request: Request) -> Response:
        self._store.count_request("POST /hosted")
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        token, decision = form.get("token", [""])[0], form.get("decision", [""])[0]
        try:
            execution = self._store.find_by_token(token)
            if decision not in DECISIONS:
                return _page(400, "No decision", "The decision must be approve or reject.", "")
            execution = self._store.decide(token, decision)
        except UnknownExecutionError:
            return _unknown_link()
        except AlreadyFinishedError:
            return self._finished(execution, 409)
        verdict = "approved" if decision == "approve" else "rejected"
        text = f"The customer was {verdict}. You may close this page."
        return _page(200, "Thank you", text, self._details(execution))

    def _finished(self, execution: Execution, status: int) -> Response:
        text = "This review is already finished. There is nothing left to decide."
        return _page(status, "Already finished", text, self._details(execution))

    def _details(self, execution: Execution) -> str:
        status = transactionlink_word(execution.status_at(self._store.clock.now()), self._store.variants)
        return _DETAILS.substitute(name=escape(execution.definition_name), status=escape(status))


def _unknown_link() -> Response:
    return _page(404, "Unknown link", "This link is not valid here. Please ask for a new one.", "")


def _page(status: int, title: str, text: str, details: str) -> Response:
    """A whole page; `details` is HTML, everything else is text without markup."""
    html = _PAGE.substitute(title=title, text=text, details=details)
    return HTMLResponse(html, status, _HEADERS)
