"""The fakes that users import behave as the page about them says."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tl_orchestration import RunRequest, Settings, Status
from tl_orchestration.errors import (
    InvalidRequest,
    NoAnswer,
    NoResult,
    NotFound,
    RateLimited,
    ResultNotReady,
    ServerError,
    StartOutcomeUnknown,
    WaitInterrupted,
    WaitTimeout,
)
from tl_orchestration.ledger import MemoryLedger, State
from tl_orchestration.retry import RetryPolicy
from tl_orchestration.testing import SCRIPTS, FakeService, Script, VirtualClock

ENDINGS = {
    "kyc-approve": Status.SUCCEEDED,
    "kyc-expire": Status.EXPIRED,
    "kyc-fail": Status.FAILED,
    "kyc-reject": Status.SUCCEEDED,
    "kyc-slow": Status.SUCCEEDED,
}


@pytest.fixture
def service() -> FakeService:
    """A fresh service."""
    return FakeService()


@pytest.mark.parametrize("definition", ENDINGS)
def test_scripted_endings(definition: str, service: FakeService) -> None:
    """Each definition ends as its name says, for both clients."""
    with service.client() as client:
        assert client.wait(client.run(RunRequest(definition))).status is ENDINGS[definition]

    async def run() -> Status:
        async with service.async_client() as client:
            return (await client.wait(await client.run(RunRequest(definition)))).status

    assert asyncio.run(run()) is ENDINGS[definition]
    assert {*ENDINGS, "kyc-review"} == set(SCRIPTS)


def test_same_names_and_endings_as_the_sandbox() -> None:
    """What passes with the fake meets the same definitions in the sandbox."""
    from tl_orchestration.sandbox.definitions import SCRIPTED

    assert set(SCRIPTS) <= set(SCRIPTED)
    for name, script in SCRIPTS.items():
        other = SCRIPTED[name]
        assert (script.ends, script.interactive) == (other.outcome, other.interactive)
        assert script.interactive or script.after == other.duration
        assert (script.result or {}).get("decision") == other.decision


def test_results(service: FakeService) -> None:
    """A result is there once it is, and only where there is one."""
    with service.client() as client:
        approved, failed = client.run(RunRequest("kyc-reject")), client.run(RunRequest("kyc-fail"))
        with pytest.raises(ResultNotReady):
            client.result(approved)
        service.clock.advance(1)
        assert client.result(approved)["decision"] == "reject"
        with pytest.raises(NoResult):
            client.result(failed)


def test_unknown_names(service: FakeService) -> None:
    """Neither definitions nor executions are made up; a credential is accepted."""
    with service.client() as client:
        client.check()
        with pytest.raises(NotFound):
            client.run(RunRequest("no-such-definition"))
        with pytest.raises(NotFound):
            client.poll("no-such-execution")
    assert service.starts == []


def test_cancel(service: FakeService) -> None:
    """A cancel takes effect once, and one of something that is over is no error."""
    with service.client() as client:
        execution = client.run(RunRequest("kyc-slow"))
        assert client.cancel(execution).status is Status.CANCELLED
        assert client.cancel(execution).status is Status.CANCELLED
    assert [cancel.took_effect for cancel in service.cancels] == [True, False]


def test_interactive_has_a_link_and_ends_when_told(service: FakeService) -> None:
    """A person's decision is the test's to make; a second one changes nothing."""
    with service.client() as client:
        execution = client.run(RunRequest("kyc-review"))
        assert execution.is_interactive
        service.clock.advance(600)
        assert client.poll(execution).status is Status.RUNNING
        service.end(execution.id, result={"decision": "reject"})
        service.end(execution.id, "FAILED")
        assert client.poll(execution).status is Status.SUCCEEDED
        assert client.result(execution) == {"decision": "reject"}


def test_own_definition() -> None:
    """A test can teach the service definitions of its own."""
    service = FakeService(definitions={"mine": Script(ends="NEW_WORD", after=5, result={"score": 1})})
    with service.client() as client:
        execution = client.run(RunRequest("mine"))
        with pytest.raises(WaitTimeout) as caught:
            client.wait(execution, timeout=60)
    assert (caught.value.raw_status, caught.value.result_available) == ("NEW_WORD", True)


def test_expiry_ends_what_nothing_else_ends(service: FakeService) -> None:
    """The expiry that the client asks for is kept."""
    with service.client() as client:
        execution = client.run(RunRequest("kyc-review", expires_in=3600))
        service.clock.advance(3601)
        assert client.poll(execution).status is Status.EXPIRED


def test_lost_answer_was_carried_out(service: FakeService) -> None:
    """A lost answer leaves a start behind that only the service knows."""
    service.lose_answer()
    with service.client(ledger=MemoryLedger()) as client:
        with pytest.raises(StartOutcomeUnknown):
            client.run(RunRequest("kyc-approve"), key="k")
        assert client.ledger is not None
        entry = client.ledger.read("k")
    assert entry is not None
    assert entry.state is State.UNKNOWN
    assert len(service.starts) == 1
    assert len(service.requests) == 1


def test_disconnected_start_is_repeated(service: FakeService) -> None:
    """Where nothing was sent, the client tries again by itself; where that does not help, it says so."""
    service.disconnect(times=2)
    with service.client() as client:
        client.run(RunRequest("kyc-approve"))
        assert len(service.starts) == 1
        service.disconnect(times=4)
        with pytest.raises(NoAnswer) as caught:
            client.run(RunRequest("kyc-approve"))
    assert not caught.value.sent
    assert len(service.starts) == 1


def test_refusals(service: FakeService) -> None:
    """A refusal is answered with its status and Retry-After, and carries nothing out."""
    with service.client(retry=RetryPolicy(attempts=1)) as client:
        service.refuse("run", 429, retry_after="7")
        with pytest.raises(RateLimited) as caught:
            client.run(RunRequest("kyc-approve"))
        assert caught.value.retry_after == 7
        service.refuse("run", 400)
        with pytest.raises(InvalidRequest):
            client.run(RunRequest("kyc-approve"))
        assert service.starts == []
        execution = client.run(RunRequest("kyc-approve"))
        service.refuse("poll", times=1)
        with pytest.raises(ServerError):
            client.poll(execution)
        assert client.poll(execution).status is Status.RUNNING


def test_what_is_ordered_strikes_the_operation_only(service: FakeService) -> None:
    """A fault of polls does not touch the start."""
    service.refuse("poll", 503, times=3)
    with service.client() as client:
        assert client.wait(client.run(RunRequest("kyc-approve"))).status is Status.SUCCEEDED


def test_recovered_service_fails_no_more(service: FakeService) -> None:
    """What was ordered can be taken back."""
    service.disconnect(times=100)
    service.recover()
    with service.client() as client:
        client.run(RunRequest("kyc-approve"))
    assert len(service.requests) == 1


def test_stop_ends_a_wait(service: FakeService) -> None:
    """A wait that is told to stop stops, without real time."""
    with service.client() as client:
        execution = client.run(RunRequest("kyc-slow"))
        with pytest.raises(WaitInterrupted):
            client.wait(execution, stop=lambda: service.clock.monotonic() > 100)
    assert 100 < service.clock.monotonic() < 200


def test_closed_clients_send_nothing(service: FakeService) -> None:
    """A closed client is closed here as well."""
    client = service.client()
    client.close()
    with pytest.raises(RuntimeError):
        client.poll("e-1")
    assert service.requests == []


def test_settings_are_taken_over(service: FakeService) -> None:
    """Settings apply, but for the host."""
    with service.client(settings=Settings(status_map={"NEW_WORD": "FAILED"})) as client:
        execution = client.run(RunRequest("kyc-slow"))
        service.end(execution.id, "NEW_WORD")
        assert client.poll(execution).status is Status.FAILED


def test_a_day_takes_no_time(service: FakeService) -> None:
    """Real time does not pass, whatever is waited for."""
    began = time.monotonic()
    with service.client() as client, pytest.raises(WaitTimeout):
        client.wait(client.run(RunRequest("kyc-review", expires_in=7 * 86400), timeout=86400))
    assert service.clock.monotonic() >= 86400
    assert time.monotonic() - began < 5


def test_coroutines_wake_in_order() -> None:
    """Whoever is due first wakes first, at the time at which he is due; equal times in the order of sleeping."""
    clock = VirtualClock(now=0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.asleep(nap)
            woken.append((name, clock.now()))

    async def main() -> None:
        await asyncio.gather(sleeper("a", 10, 10), sleeper("b", 3, 4, 5), sleeper("c", 12))

    asyncio.run(main())
    assert woken == [("b", 3), ("b", 7), ("a", 10), ("c", 12), ("b", 12), ("a", 20)]


def test_cancelled_sleeper_is_forgotten() -> None:
    """The time of a sleep that was cancelled does not pass."""
    clock = VirtualClock()

    async def main() -> None:
        tasks = [asyncio.create_task(clock.asleep(1000)), asyncio.create_task(clock.asleep(5))]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert clock.monotonic() == 5


def test_time_waits_for_the_ledger() -> None:
    """While one coroutine writes to a slow ledger, the others' time stands still."""

    class SlowLedger(MemoryLedger):
        def claim(self, *arguments: Any) -> Any:
            time.sleep(0.05)
            return super().claim(*arguments)

    service = FakeService()

    async def main() -> float:
        async with service.async_client(ledger=SlowLedger()) as client:

            async def tick() -> None:
                for _ in range(1000):
                    await service.clock.asleep(1)

            ticking = asyncio.create_task(tick())
            await asyncio.sleep(0)
            await client.run(RunRequest("kyc-approve"), key="k")
            passed = service.clock.monotonic()
            ticking.cancel()
            return passed

    assert asyncio.run(main()) < 20


def test_plans_happen_on_the_way() -> None:
    """What is planned happens at its time, in order, before whoever slept past it goes on."""
    clock = VirtualClock(now=100)
    seen: list[float] = []
    clock.plan(20, lambda: seen.append(clock.now()))
    clock.plan(10, lambda: seen.append(clock.now()))
    clock.advance(5)
    assert seen == []
    clock.sleep(100)
    assert seen == [110, 120]
    assert clock.now() == 205
