"""What must not be left half done ends before a cancellation goes on, and whoever was cancelled can learn how."""

from __future__ import annotations

import asyncio

import pytest

from tl_orchestration.finishing import CancelledLate, finished, slept


def cancelled_late(work: asyncio.Future[str], *, answer: str | Exception | None) -> CancelledLate:
    """A task that awaits it is cancelled twice; then it ends with the answer, or is itself cancelled."""
    late: list[CancelledLate] = []

    async def wait() -> None:
        try:
            await finished(work)
        except CancelledLate as error:
            late.append(error)
            raise

    async def main() -> None:
        task = asyncio.create_task(wait())
        for _ in range(2):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        if isinstance(answer, Exception):
            work.set_exception(answer)
        elif answer is None:
            work.cancel()
        else:
            work.set_result(answer)
        await asyncio.wait([task])
        assert task.cancelled()

    work.get_loop().run_until_complete(main())
    return late[0]


class TestFinished:
    def test_returns_and_raises_what_was_awaited(self) -> None:
        """Without a cancellation it is an ordinary await."""

        async def main() -> None:
            work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(work.set_result, "done")
            assert await finished(work) == "done"
            failing: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            failing.set_exception(ValueError("failed"))
            with pytest.raises(ValueError, match="failed"):
                await finished(failing)

        asyncio.run(main())

    def test_outcome_is_not_lost_with_the_cancellation(self) -> None:
        """However often the task is cancelled, it is told so once the work has ended, with the work's outcome."""
        with asyncio.Runner() as runner:
            create = runner.get_loop().create_future
            assert cancelled_late(create(), answer="done").result() == "done"
            with pytest.raises(ValueError, match="failed"):
                cancelled_late(create(), answer=ValueError("failed")).result()
            with pytest.raises(asyncio.CancelledError):
                cancelled_late(create(), answer=None).result()


def test_cancelled_sleep_ends_early() -> None:
    """Whoever must go on does so at once."""

    async def main() -> None:
        task = asyncio.create_task(slept(3600))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert isinstance(caught.value, CancelledLate)
        assert caught.value.result() is None

    asyncio.run(main())
