"""Of all that need a token at the same moment, one asks for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.authorizing import KEY, SECRET, URL, Service, one
from tl_orchestration.errors import AuthenticationError
from tl_orchestration.workspace_key import WorkspaceKey


def gather(count: int, call: Callable[[], int]) -> list[int]:
    """What so many threads get that all begin in the same moment."""
    begin = threading.Barrier(count)

    def begun() -> int:
        begin.wait(60)
        return call()

    with ThreadPoolExecutor(count) as pool:
        return [future.result(60) for future in [pool.submit(begun) for _ in range(count)]]


class TestSingleFlight:
    def test_threads(self) -> None:
        """Of many threads that need a token one asks; and again of many whose token is refused."""
        key, service = WorkspaceKey(KEY, SECRET), Service(delay=0.2)
        assert {200} == set(gather(20, lambda: one(key.auth(), service).status_code))
        assert service.given == 1
        service.refused.add("Bearer token-1")
        assert {200} == set(gather(20, lambda: one(key.auth(), service).status_code))
        assert service.given == 2

    async def _all(self, key: WorkspaceKey, service: Service, count: int) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(service.awaited), auth=key.auth()) as client:
            answers = await asyncio.gather(*(client.get(URL, extensions={"base_url": URL}) for _ in range(count)))
        return [answer.status_code for answer in answers]

    def test_tasks(self) -> None:
        """The same in an event loop; whoever waited without letting it go on would wait for ever."""
        key, service = WorkspaceKey(KEY, SECRET), Service(delay=0.05)

        async def scene() -> None:
            assert set(await self._all(key, service, 200)) == {200}
            service.refused.add("Bearer token-1")
            assert set(await self._all(key, service, 200)) == {200}

        asyncio.run(scene())
        assert service.given == 2

    def test_threads_and_event_loops_together(self) -> None:
        """One credential in several threads, each with a loop of its own or none."""
        key, service = WorkspaceKey(KEY, SECRET), Service(delay=0.2)
        turns = iter(range(8))

        def call() -> int:
            if next(turns) % 2:
                return max(asyncio.run(self._all(key, service, 5)))
            return one(key.auth(), service).status_code

        assert {200} == set(gather(8, call))
        assert service.given == 1

    def test_refusal_is_shared(self) -> None:
        """Who waits for a token that is refused does not ask on his own, and gets an error of his own."""
        key, service = WorkspaceKey(KEY, SECRET), Service(delay=0.1)
        service.answers.append(httpx.Response(400, json={}))

        raised: list[BaseException] = []

        def call() -> int:
            with pytest.raises(AuthenticationError) as caught:
                one(key.auth(), service)
            raised.append(caught.value)
            return 0

        gather(10, call)
        assert len({id(error) for error in raised}) == 10
        assert (len(service.asked), service.headers) == (1, [])

    def test_whoever_is_stopped_while_asking_leaves_it_to_the_next(self) -> None:
        """A cancelled task takes nobody with it."""
        key, service = WorkspaceKey(KEY, SECRET), Service(delay=0.1)

        async def scene() -> list[int]:
            async with httpx.AsyncClient(transport=httpx.MockTransport(service.awaited), auth=key.auth()) as client:
                tasks = [asyncio.create_task(client.get(URL, extensions={"base_url": URL})) for _ in range(5)]
                while not service.under_way:  # noqa: ASYNC110 -- it is nothing to wait for
                    await asyncio.sleep(0)
                tasks[0].cancel()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(answers[0], asyncio.CancelledError)
            return [answer.status_code for answer in answers[1:] if isinstance(answer, httpx.Response)]

        assert asyncio.run(scene()) == [200] * 4
        assert service.given == 1

    def test_whoever_waits_can_be_stopped_alone(self) -> None:
        """Nor does one that waits."""
        key, service = WorkspaceKey(KEY, SECRET), Service(delay=0.1)

        async def scene() -> list[int]:
            async with httpx.AsyncClient(transport=httpx.MockTransport(service.awaited), auth=key.auth()) as client:
                tasks = [asyncio.create_task(client.get(URL, extensions={"base_url": URL})) for _ in range(5)]
                while not service.under_way:  # noqa: ASYNC110 -- it is nothing to wait for
                    await asyncio.sleep(0)
                tasks[3].cancel()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
            return [answer.status_code for answer in answers if isinstance(answer, httpx.Response)]

        assert asyncio.run(scene()) == [200] * 4
        assert service.given == 1

    def test_waiting_thread_looks_at_its_own_deadline(self) -> None:
        """Whoever sends says how long may be waited."""

        class Late(Exception):
            pass

        class Held(Service):
            def __call__(self, request: httpx.Request) -> httpx.Response:
                asked.set()
                let_go.wait(30)
                return super().__call__(request)

        def remaining(wanted: float | None) -> float:
            raise Late

        asked, let_go = threading.Event(), threading.Event()
        key, service = WorkspaceKey(KEY, SECRET), Held()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(one, key.auth(), service)
            assert asked.wait(30)
            try:
                with pytest.raises(Late):
                    one(key.auth(), service, extensions={"remaining": remaining})
            finally:
                let_go.set()
            assert asking.result(30).status_code == 200
