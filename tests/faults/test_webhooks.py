"""
Many executions whose webhooks come late, twice, in any order, or not at all: each ends once, and none goes back.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.remote import TOKEN
from tests.wire.webhooks.conftest import serving, until
from tl_orchestration import AsyncClient, Execution, OrganizationToken, Pacing, Patience, RunRequest, Settings, Status
from tl_orchestration.sandbox import SandboxServer, SandboxSettings
from tl_orchestration.sandbox.webhooks.scripts import Target
from tl_orchestration.webhooks.inbox import Inbox
from tl_orchestration.webhooks.keys import FetchedKeys
from tl_orchestration.webhooks.public_key import KeyServer

EXECUTIONS = 1_000 if os.environ.get("SOAK") else 120
#: Five groups: from one to five copies of each delivery, one in ten lost, all overtaking each other.
GROUPS = {
    f"kyc-{copies}": {"duration": 0.5 + copies / 2, "webhooks": {"copies": copies, "drop": 0.1, "spread": 1.5}}
    for copies in range(1, 6)
}
#: Late enough that a hint is what ends most waits, and short enough for a test.
NET = Patience(safety_net=Pacing(floor=6.0, cap=6.0, share=0.0))


def test_each_ends_once(tmp_path: Path) -> None:
    """Whatever happens to its webhooks, each execution ends exactly once, none is stuck, none goes back."""
    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}")
    with SandboxServer(SandboxSettings(definitions=GROUPS, seed=6, webhook_interval=0.2)) as sandbox:
        keys = FetchedKeys(KeyServer(sandbox.url).fetch)
        with serving(inbox, keys) as url:
            sandbox.store.courier.deliver_to((Target(url=f"{url}/webhooks/transactionlink"),))
            endings = asyncio.run(_wait_for_all(sandbox, inbox))
            until(lambda: sandbox.store.courier.waiting == 0)
            before = len(inbox.latest(10_000))
            assert sandbox.store.courier.replay() > 0
            until(lambda: sandbox.store.courier.waiting == 0)
            attempts = sandbox.store.courier.attempts
            again = asyncio.run(_poll_some(sandbox, [execution.id for execution in endings][:20]))
        keys.close()
    assert len(endings) == EXECUTIONS
    assert {execution.status for execution in endings} == {Status.SUCCEEDED}
    assert len({execution.id for execution in endings}) == EXECUTIONS
    assert len(sandbox.store.starts) == EXECUTIONS
    assert set(again) == {Status.SUCCEEDED}
    # Every delivery was acknowledged, lost ones were lost, and the inbox has each about once.
    assert {attempt.status for attempt in attempts} == {204}
    announced = {hint.execution_id for hint in inbox.latest(10_000)}
    assert 0.75 * EXECUTIONS < len(announced) < EXECUTIONS
    assert before <= 3 * EXECUTIONS
    inbox.close()


async def _wait_for_all(sandbox: SandboxServer, inbox: Inbox) -> list[Execution]:
    seen: dict[str, list[Status]] = {}
    ended = 0

    def note(execution: Execution) -> None:
        seen.setdefault(execution.id, []).append(execution.status)

    patience = Patience(safety_net=NET.safety_net, on_change=note)
    settings = Settings(max_connections=10)
    async with AsyncClient(OrganizationToken(TOKEN), sandbox.url, settings=settings, inbox=inbox) as client:

        async def one(number: int) -> Execution:
            nonlocal ended
            execution = await client.run(RunRequest(f"kyc-{number % 5 + 1}"))
            ending = await client.wait(execution, timeout=120, patience=patience)
            ended += 1
            if ended == EXECUTIONS // 2:
                assert sandbox.store.courier.replay() > 0  # while the other half is waited for
            return ending

        endings = await asyncio.gather(*map(one, range(EXECUTIONS)))
    for statuses in seen.values():
        assert statuses in ([Status.RUNNING, Status.SUCCEEDED], [Status.SUCCEEDED])
    return endings


async def _poll_some(sandbox: SandboxServer, ids: list[str]) -> list[Status]:
    async with AsyncClient(OrganizationToken(TOKEN), sandbox.url) as client:
        return [(await client.poll(execution_id)).status for execution_id in ids]


def test_hint_beats_the_safety_net(tmp_path: Path) -> None:
    """Over the whole way, sandbox to receiver to inbox to poller, an ending is seen long before the next poll."""
    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}")
    definitions = {"kyc-approve": {"duration": 2}}
    with SandboxServer(SandboxSettings(definitions=definitions)) as sandbox:
        keys = FetchedKeys(KeyServer(sandbox.url).fetch)
        with serving(inbox, keys) as url:
            sandbox.store.courier.deliver_to((Target(url=f"{url}/webhooks/transactionlink"),))

            async def main() -> Execution:
                async with AsyncClient(OrganizationToken(TOKEN), sandbox.url, inbox=inbox) as client:
                    execution = await client.run(RunRequest("kyc-approve"))
                    return await asyncio.wait_for(client.wait(execution), 60)  # the safety net is five minutes away

            assert asyncio.run(main()).status is Status.SUCCEEDED
        keys.close()
        polls = sandbox.store.requests["GET /workflows/{id}"]
    assert polls <= 4
    inbox.close()


def test_forgeries_do_nothing(tmp_path: Path) -> None:
    """Beside each genuine delivery a forged one comes: it is refused, tried no second time, and changes nothing."""
    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}")
    definitions = {
        f"kyc-{forge}": {"duration": 0.1, "webhooks": {"forge": forge, "drop": 1}}
        for forge in ("signature", "body", "key", "unsigned")
    }
    with SandboxServer(SandboxSettings(definitions=definitions)) as sandbox:
        keys = FetchedKeys(KeyServer(sandbox.url).fetch)
        with serving(inbox, keys) as url:
            sandbox.store.courier.deliver_to((Target(url=f"{url}/webhooks/transactionlink"),))
            for name in definitions:
                sandbox.store.start(name, parameters={})
            until(lambda: len(sandbox.store.courier.attempts) == 4)
        keys.close()
        assert {(one.forged, one.status) for one in sandbox.store.courier.attempts} == {
            (forge, 401) for forge in ("signature", "body", "key", "unsigned")
        }
    assert inbox.latest() == []
    inbox.close()


def test_delivery_is_tried_again(tmp_path: Path) -> None:
    """A delivery that meets no receiver is tried five times more, and no further."""
    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}")
    with SandboxServer(SandboxSettings(webhook_interval=0.05)) as sandbox:
        keys = FetchedKeys(KeyServer(sandbox.url).fetch)
        with serving(inbox, keys) as url:
            pass
        courier = sandbox.store.courier
        courier.deliver_to((Target(url=f"{url}/webhooks/transactionlink"),))
        sandbox.store.start("kyc-approve", parameters={})
        sandbox.store.clock.advance(10)
        until(lambda: len(courier.attempts) == 6 and courier.waiting == 0)
        assert [(one.status, one.attempt) for one in courier.attempts] == [(None, number) for number in range(1, 7)]
        keys.close()
    inbox.close()
