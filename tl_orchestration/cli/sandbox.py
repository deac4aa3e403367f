"""
``tl sandbox``: the local copy of the service, in the foreground.
"""

from __future__ import annotations

import logging
from pathlib import Path

import click

from tl_orchestration.cli import missing_extra
from tl_orchestration.cli.arguments import Command
from tl_orchestration.cli.outcomes import SUCCESS
from tl_orchestration.cli.output import tell
from tl_orchestration.cli.settings import verbose_option

_TOKEN = "tot_sandbox"  # noqa: S105 -- public; opens a sandbox and nothing else


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Only loopback is safe: its controls are open.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.toml",
    help="Definitions, tokens and variants of behaviour.",
)
@verbose_option
def sandbox(port: int, host: str, config: Path | None) -> int:
    """
    Serve a local copy of the service until Ctrl-C. It keeps everything in memory.
    """
    try:
        import starlette  # noqa: F401 -- only asked for; the sandbox's own message has another form
        import uvicorn  # noqa: F401
    except ImportError:
        return missing_extra("sandbox")
    from tl_orchestration.sandbox import SandboxSettings, serve

    try:
        settings = SandboxSettings() if config is None else SandboxSettings.from_toml(config)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"The sandbox cannot be set up: {error}.") from None
    logging.getLogger("tl_orchestration").setLevel(logging.INFO)  # it tells where it listens
    if port and any(token.value == _TOKEN for token in settings.tokens):
        address = f"[{host}]" if ":" in host else host
        tell(
            "In another terminal: export"
            f" TRANSACTIONLINK_BASE_URL=http://{address}:{port} TRANSACTIONLINK_TOKEN={_TOKEN}"
        )
    try:
        serve(settings, host=host, port=port)
    except OSError as error:
        raise click.UsageError(f"The sandbox cannot listen on {host}, port {port} ({error.strerror}).") from None
    return SUCCESS
