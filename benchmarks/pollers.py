"""
One process that watches executions in one of the ways that are compared. Prints what it measured as JSON.

All of them send the same request and parse the answer with the same code; they differ in who holds the connections,
what bounds them, and who sleeps. ``python -m benchmarks.pollers WAY URL EXECUTIONS INTERVAL SECONDS``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import resource
import statistics
import sys
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import httpx

from tl_orchestration import AsyncClient, Execution, OrganizationToken, Pacing, Patience, Settings
from tl_orchestration.exchange import Request, Response, once
from tl_orchestration.services.transactionlink import Transactionlink

#: Connections of every way that bounds them, and requests in flight.
CONNECTIONS = 10
#: Share of the executions that end while they are watched.
ENDING = 0.2
_NEVER = 9_999_999_999_999
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "benchmark", "Authorization": "tot_benchmark"}

Get = Callable[[str], Awaitable[Response]]
Watch = Callable[[str, float], Awaitable[object]]


def _polled_by(get: Get) -> Watch:
    """
    The loop that one would write: poll, parse, sleep.
    """
    service = Transactionlink(now=time.time)

    async def watch(name: str, interval: float) -> None:
        while True:
            flow = service.poll(name, once)
            request: Any = next(flow)
            assert isinstance(request, Request)
            response = await get(request.path)
            try:
                flow.send(response)
            except StopIteration as parsed:
                execution: Execution = parsed.value
            if execution.is_terminal:
                return
            await asyncio.sleep(interval)

    return watch


def _read(answer: httpx.Response) -> Response:
    return Response(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


def watcher(url: str) -> Watch:
    """
    This project's.
    """
    client = AsyncClient(OrganizationToken("tot_benchmark"), url, settings=Settings(max_connections=CONNECTIONS))
    paces: dict[float, Patience] = {}

    def watch(name: str, interval: float) -> Awaitable[object]:
        patience = paces.get(interval)
        if patience is None:
            pacing = Pacing(floor=max(interval, 1e-6), cap=max(interval, 1e-6), share=0.0, jitter=0.0)
            patience = paces[interval] = Patience(pacing=pacing)
        return client.wait(name, patience=patience)

    return watch


def bounded(url: str) -> Watch:
    """
    One shared httpx.AsyncClient behind a semaphore.
    """
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=75)
    client = httpx.AsyncClient(limits=limits, headers=_HEADERS, trust_env=False)
    in_flight = asyncio.Semaphore(CONNECTIONS)

    async def get(path: str) -> Response:
        async with in_flight:
            return _read(await client.get(url + path))

    return _polled_by(get)


def unbounded(url: str) -> Watch:
    """
    One shared httpx.AsyncClient as it comes.
    """
    client = httpx.AsyncClient(headers=_HEADERS, trust_env=False, timeout=60)

    async def get(path: str) -> Response:
        return _read(await client.get(url + path))

    return _polled_by(get)


def per_poll(url: str) -> Watch:
    """
    A new httpx.AsyncClient for each poll.
    """

    async def get(path: str) -> Response:
        async with httpx.AsyncClient(headers=_HEADERS, trust_env=False, timeout=60) as client:
            return _read(await client.get(url + path))

    return _polled_by(get)


def with_aiohttp(url: str) -> Watch:
    """
    One shared aiohttp session.
    """
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=75)
    session = aiohttp.ClientSession(connector=connector, headers=_HEADERS, auto_decompress=False)

    async def get(path: str) -> Response:
        async with session.get(url + path) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, headers, await answer.read())

    return _polled_by(get)


WAYS: dict[str, Callable[[str], Watch]] = {
    "watcher": watcher,
    "bounded": bounded,
    "unbounded": unbounded,
    "per-poll": per_poll,
    "aiohttp": with_aiohttp,
}


def _seen(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/seen", timeout=60) as answer:
        counts: dict[str, int] = json.load(answer)
    return counts


async def measured(way: str, url: str, executions: int, interval: float, seconds: float) -> None:
    """
    Watch for so many seconds. Delays are told where the time is long enough for an ending to be seen.
    """
    rng = random.Random(1)
    watch = WAYS[way](url)
    delays: list[float] = []
    horizon = seconds - 1.1 * interval - 0.3
    began = time.time() + 0.2 + executions / 20_000

    async def one(number: int) -> None:
        ends = began + rng.uniform(0, horizon) if horizon > 0 and rng.random() < ENDING else None
        await asyncio.sleep(began - time.time() + rng.uniform(0, interval))
        await watch(f"e{number}-{_NEVER if ends is None else int(ends * 1000)}", interval)
        assert ends is not None
        delays.append(max(0.0, time.time() - ends))

    tasks = [asyncio.create_task(one(number)) for number in range(executions)]
    # From a thread, because the loop of a way that collapses would not come back in time.
    threading.Thread(target=_tell, args=(tasks, delays, url, began, seconds), daemon=True).start()
    await asyncio.gather(*tasks)


def _tell(tasks: list[asyncio.Task[None]], delays: list[float], url: str, began: float, seconds: float) -> None:
    time.sleep(began - time.time())
    before, used = _seen(url), time.process_time()
    time.sleep(seconds - (time.time() - began))
    used, took, after = time.process_time() - used, time.time() - began, _seen(url)
    assert not any(task.done() and task.exception() for task in tasks)
    found, polls = sorted(delays), after["polls"] - before["polls"]
    _report(
        {
            "polls": polls,
            "per_second": polls / took,
            "cpu_per_10k": used / max(polls, 1) * 10_000,
            "connections": after["connections"],
            "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "p50": statistics.median(found) if len(found) > 20 else None,
            "p95": found[int(len(found) * 0.95)] if len(found) > 20 else None,
        }
    )


async def memory(way: str, url: str, executions: int) -> None:
    """
    Bytes that Python holds for each execution that was polled once and sleeps, the caller's task included.
    """
    watch = WAYS[way](url)
    tasks = [asyncio.create_task(_as_coroutine(watch(f"warm-{_NEVER}", 1e6)))]
    await asyncio.sleep(0.5)
    gc.collect()
    tracemalloc.start()
    tasks += [asyncio.create_task(_as_coroutine(watch(f"e{number}-{_NEVER}", 1e6))) for number in range(executions)]

    def tell() -> None:
        while _seen(url)["polls"] <= executions:
            time.sleep(0.5)
        time.sleep(0.5)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        assert not any(task.done() for task in tasks)
        _report({"bytes": held / executions})

    threading.Thread(target=tell, daemon=True).start()
    await asyncio.gather(*tasks)


def _report(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)
    os._exit(0)  # to end thousands of requests in good order is not what is measured


async def _as_coroutine(awaitable: Awaitable[object]) -> None:
    await awaitable


def main() -> None:
    """
    Measure, print, end the process.
    """
    way, url, executions, interval, seconds = sys.argv[1:]
    if seconds == "memory":
        asyncio.run(memory(way, url, int(executions)))
    else:
        asyncio.run(measured(way, url, int(executions), float(interval), float(seconds)))


if __name__ == "__main__":
    main()
