"""
Tries of one step, over a scripted world.
"""

from __future__ import annotations

from tests.builders import EXECUTION_ID, NOW, response
from tests.scripted import World
from tl_orchestration.errors import NoAnswer
from tl_orchestration.exchange import once
from tl_orchestration.fingerprint import Fingerprint, fingerprint
from tl_orchestration.ledger import Entry
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.services import Service
from tl_orchestration.services.legacy import Legacy
from tl_orchestration.start import Step, start_once

KEY = "dag/run/task"
STEP = Step(key=KEY, generation="0")
RUNNING = response(200, {"id": EXECUTION_ID, "status": "RUNNING"})
LOST = NoAnswer("reset", sent=True)


def start(
    world: World,
    request: RunRequest,
    *,
    service: Service | None = None,
    step: Step = STEP,
    identity: Fingerprint | None = None,
) -> Execution:
    """One try of the step."""
    service = service or Legacy(now=lambda: NOW)
    return world.drive(
        start_once(
            service.for_request(request),
            request,
            step,
            identity=identity or fingerprint(request, b"secret"),
            timeout=3600,
            clock=world.clock.clock(),
            start=once,
            repeat=once,
        )
    )


def held(world: World) -> Entry:
    """What the ledger holds."""
    found = world.ledger.read(KEY)
    assert found is not None
    return found
