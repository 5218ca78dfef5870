"""Calls that block, beside the loop."""

import asyncio
import threading

import pytest

from lfmesh.services.snapshotter.workers import Workers
from tests.aio import run


def test_calls_are_made_in_order_and_their_results_and_errors_come_back() -> None:
    async def body() -> None:
        workers = Workers("test")
        made: list[int] = []

        def call(number: int) -> int:
            made.append(number)
            if number == 3:
                raise ValueError("three")
            return number * 2

        results = await asyncio.gather(*(workers.run(call, number) for number in range(5)), return_exceptions=True)
        assert made == [0, 1, 2, 3, 4]
        assert [one for one in results if isinstance(one, int)] == [0, 2, 4, 8]
        assert isinstance(results[3], ValueError)
        workers.close()
        workers.close()
        with pytest.raises(RuntimeError):
            await workers.run(call, 1)

    run(body())


def test_who_waits_no_longer_is_not_held_up_by_a_call_that_hangs() -> None:
    async def body() -> None:
        workers = Workers("test", 2)
        gate = threading.Event()
        begun: list[str] = []
        hanging = [asyncio.ensure_future(workers.run(gate.wait, 20)) for _ in range(2)]
        waiting = asyncio.ensure_future(workers.run(begun.append, "never"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.shield(hanging[0])
        waiting.cancel()
        await asyncio.wait((waiting,))
        gate.set()
        assert await asyncio.gather(*hanging) == [True, True]
        assert await workers.run(len, begun) == 0, "what was given up before it began is not made"
        workers.close()

    run(body())
