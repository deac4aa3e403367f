"""
Whether tasks that a flow run has submitted go on beside its wait, as the server and the process know it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow, get_client, runtime, task
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_blocks import submitted
from prefect_blocks.submitted import Watch


def here() -> FlowRunContext:
    context = FlowRunContext.get()
    assert context is not None
    return context


@task
def busy(seconds: float) -> None:
    time.sleep(seconds)


LOOKED = threading.Event()


@task
def held() -> None:
    LOOKED.wait(60)


def test_queued_tasks_are_seen_at_once() -> None:
    """Neither a task that has just been submitted nor one in the queue is known to the server."""
    looks: list[tuple[bool | None, int]] = []
    runner: Any = ThreadPoolTaskRunner(max_workers=1)
    LOOKED.clear()

    @flow(task_runner=runner)
    def body() -> None:
        watch = Watch()
        futures: list[Any] = [held.submit() for _ in range(4)]
        ends = time.monotonic() + 60
        while (len(looks) < 2 or not looks[-1][0]) and time.monotonic() < ends:
            said = watch.none_go_on(here())
            looks.append((said, sum(future.wrapped_future.done() for future in futures)))
            LOOKED.set()

    body()

    assert looks[0] == (False, 0)
    assert looks[-1] == (True, 4)


@task
async def abusy(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_none_is_believed_at_the_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what an async flow runs beside its wait, the server learns a moment later."""
    monkeypatch.setattr(submitted, "QUIET", 0.3)
    looks: list[bool | None] = []

    @flow
    async def body() -> None:
        watch = Watch()
        for _ in range(2):
            looks.append(await asyncio.to_thread(watch.none_go_on, here()))
            await asyncio.sleep(0.3)

    asyncio.run(body())

    assert looks == [None, True]


def test_task_beside_an_async_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the server knows it; and then two more looks are needed."""
    monkeypatch.setattr(submitted, "QUIET", 0.0)
    looks: list[bool | None] = []

    @flow
    async def body() -> None:
        watch = Watch()
        beside = asyncio.create_task(abusy(30.0))
        while False not in looks:
            looks.append(await asyncio.to_thread(watch.none_go_on, here()))
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)
        assert watch.quiet_since is None

    asyncio.run(body())

    assert looks[-1] is False


@task
def fails() -> None:
    raise OSError("upstream")


def test_task_that_never_ran() -> None:
    """What waited for a task that failed stays unfinished for ever, and keeps no process."""
    looks: list[bool | None] = []
    names: list[str | None] = []

    @flow
    def body() -> None:
        upstream = fails.submit()
        after = busy.submit(0, wait_for=[upstream], return_state=False)
        after.wait()
        ends = time.monotonic() + 60
        with get_client(sync_client=True) as client:
            while "NotReady" not in names and time.monotonic() < ends:
                with contextlib.suppress(ObjectNotFound):
                    names[:] = [client.read_task_run(after.task_run_id).state_name]
        watch = Watch()
        while (look := watch.none_go_on(here())) is None:  # 3.6.17 needs a second one
            time.sleep(0.1)
        looks.append(look)

    body(return_state=True)

    assert names == ["NotReady"]
    assert looks == [True]


@pytest.mark.parametrize(("later", "none"), [(1.0, True), (-60.0, False)])
def test_task_run_of_a_killed_process(later: float, *, none: bool) -> None:
    """One that was pending when its process was killed is no task of this process."""
    looks: list[bool | None] = []

    @flow
    def body() -> None:
        busy(0)
        with get_client(sync_client=True) as client:
            client.create_task_run(busy, runtime.flow_run.id, "left", state=Pending())
        context = here().model_copy(update={"start_time": datetime.now(UTC) + timedelta(seconds=later)})
        looks.append(Watch().none_go_on(context))

    body()

    assert looks == [none]
