"""
A local copy of the remote services, for demos, tests and users' own DAG tests.

One server has the current and the legacy Transactionlink API at its root, B3OS under `/v1`, the hosted page at
`/hosted`, and `/_sandbox` to look into it and to steer it (see `control`). What the documentation leaves open is
a variant (see `variants`).

The copy is written from the public documentation alone and shares no code with the client, so that it can be
an oracle for it. It keeps everything in memory and forgets it when it stops.

Not for exposure: the `/_sandbox` endpoints need no token and show the parameters of every start. The server
binds the loopback interface unless told otherwise; keep it there, or inside a private container network.
"""

try:
    from tl_orchestration.sandbox.app import create_app
    from tl_orchestration.sandbox.server import SandboxServer, serve
    from tl_orchestration.sandbox.settings import SandboxSettings
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] not in {"h11", "starlette", "uvicorn"}:
        raise
    raise ImportError(
        f"The sandbox needs {missing.name}, which is not installed. "
        "Install it with: pip install 'tl-orchestration[sandbox]'",
        name=missing.name,
    ) from missing

__all__ = ["SandboxServer", "SandboxSettings", "create_app", "serve"]
