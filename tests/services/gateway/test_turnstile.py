"""A crowd is let in in its order, a few a turn of the loop, and whoever gives up holds nobody up."""

import asyncio
import time

from lfmesh.services.gateway.turnstile import Turnstile
from tests.aio import run


def test_a_crowd_enters_over_many_turns_in_the_order_of_its_coming() -> None:
    async def crowd() -> None:
        turnstile = Turnstile(turn_s=0.001)
        entered: list[int] = []
        turns = 0

        async def enter(number: int) -> None:
            async with turnstile:
                entered.append(number)
                until = time.perf_counter() + 0.0004
                while time.perf_counter() < until:
                    pass

        people = [asyncio.create_task(enter(number)) for number in range(60)]
        while not all(one.done() for one in people):
            before = len(entered)
            await asyncio.sleep(0)
            turns += 1
            assert len(entered) - before < 30, "most of them at once"
        assert entered == list(range(60))
        assert turns >= 10

    run(crowd(), 10)


def test_who_is_alone_does_not_wait() -> None:
    async def alone() -> None:
        turnstile = Turnstile(turn_s=0.001)
        for _ in range(3):
            async with turnstile:
                assert turnstile.waiting == 0
            await asyncio.sleep(0)

    run(alone(), 10)


def test_whoever_gives_up_holds_nobody_up() -> None:
    async def impatient() -> None:
        turnstile = Turnstile(turn_s=0.0)
        entered: list[int] = []

        async def enter(number: int) -> None:
            async with turnstile:
                entered.append(number)

        people = [asyncio.create_task(enter(number)) for number in range(5)]
        await asyncio.sleep(0)
        people[2].cancel()
        await asyncio.wait(people)
        assert entered == [0, 1, 3, 4]
        assert turnstile.waiting == 0

    run(impatient(), 10)
