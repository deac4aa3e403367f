"""
What both demonstrations do around what they show: a folder, a sandbox, a rig, and an end without traces.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dev.rig import Rig
from dev.stack import Console, end_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R", bound=Rig)


class DemoError(Exception):
    """
    Something did not come out as it has to.
    """


def demonstrate(
    rig_of: Callable[[Path, str], R], play: Callable[[Console, R, str], None], explain: Callable[[R], str]
) -> int:
    """
    Let something be shown on a rig that is not started yet. After a failure the rig's folder is kept.

    Args:
        rig_of: Makes the rig in a folder, for the URL of a sandbox.
        play: Shows it, by the same URL.
        explain: What the rig knows of a failure, while it still runs.

    Returns:
        Exit code.
    """
    from tl_orchestration.sandbox import SandboxServer

    console = Console()
    end_on_signals()
    home = Path(tempfile.mkdtemp(prefix="kyc-demo-"))
    failure = details = ""
    try:
        with SandboxServer() as sandbox:
            console.say("sandbox", f"is ready at {sandbox.url}")
            rig = rig_of(home, sandbox.url)
            try:
                play(console, rig, sandbox.url)
            except Exception as error:  # whatever it was, a person wants to read why and where to look
                failure, details = f"{type(error).__name__}: {error}", explain(rig)
            finally:
                console.say("everything", "is being stopped")
                rig.stop()
    except KeyboardInterrupt:
        shutil.rmtree(home, ignore_errors=True)
        console.say("everything", "is stopped: interrupted")
        return 130
    console.say("everything", "is stopped")
    if failure:
        kept = f"{rig.product}'s home, with all logs, is kept: {home}"
        print(f"{details}\n\nFAILED. {failure}\n{kept}", file=sys.stderr)
        return 1
    shutil.rmtree(home, ignore_errors=True)
    return 0
