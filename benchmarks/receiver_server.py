"""
The server of one run: the receiver, or for ``-`` an application that reads the body and answers. Prints its port; ends
when its standard input does. ``python -m benchmarks.receiver_server DATABASE KEYS``.
"""

from __future__ import annotations

import sys
import threading

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.webhooks.inbox import Inbox
from tl_orchestration.webhooks.keys import PinnedKeys
from tl_orchestration.webhooks.receiver import Receiver
from tl_orchestration.webhooks.server import listening, server
from tl_orchestration.webhooks.signatures import JwsVerifier


async def bare(request: Request) -> Response:
    """
    What every application has to do.
    """
    await request.body()
    return Response(status_code=204)


def main() -> None:
    """
    Serve.
    """
    database, keys = sys.argv[1:]
    app = Starlette(routes=[Route("/webhooks/{service}", bare, methods=["POST"])])
    receiver = None
    if database != "-":
        receiver = Receiver(Inbox(database), [JwsVerifier(PinnedKeys.in_folder(keys))])
        app = receiver.app
    one, listener = server(app), listening("127.0.0.1", 0)

    def end() -> None:
        sys.stdin.read()
        one.should_exit = True

    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=end, daemon=True).start()
    one.run(sockets=[listener])
    if receiver is not None:
        receiver.close()


if __name__ == "__main__":
    main()
