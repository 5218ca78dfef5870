"""Run a coroutine in a test, with a deadline."""

import asyncio
from collections.abc import Callable, Coroutine


def run[T](coro: Coroutine[object, object, T], timeout: float = 30.0) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(timeout):
            return await coro

    return asyncio.run(bounded())


async def eventually(condition: Callable[[], object], timeout: float = 10.0, interval: float = 0.01) -> None:
    """Wait until `condition()` is true; fail after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(interval)
