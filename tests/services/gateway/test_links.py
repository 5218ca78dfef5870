"""Links to normalizers that swallow what is sent over them: noticed, made anew, and nothing is lost."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, World, place, world
from tests.services.gateway.test_joins import flowing
from tests.transport.proxy import BOTH, Direction, Proxy, proxied
from tests.transport.test_silent_links import in_namespace


@asynccontextmanager
async def behind_proxies() -> AsyncIterator[tuple[World, list[Proxy]]]:
    """A world whose normalizer can only be reached through proxies, one for each of its sockets."""
    async with world(beacons=False) as here:
        record = here.normalizer.record
        async with (
            proxied(record.endpoints["market_data"]) as market_data,
            proxied(record.endpoints["requests"]) as requests,
        ):
            here.gateway.on_peers([])
            endpoints = {"market_data": market_data.endpoint, "requests": requests.endpoint}
            here.normalizer.record = msgspec.structs.replace(record, endpoints=endpoints)
            here.gateway.on_peers(here.peers())
            here.normalizer.start_beacons()
            await here.attached()
            yield here, [market_data, requests]


@pytest.mark.parametrize("ways", [BOTH, ("to_client",)], ids=["both", "to_client"])
def test_what_a_silent_link_swallows_comes_when_it_is_back(ways: tuple[Direction, ...]) -> None:
    async def scenario() -> None:
        async with behind_proxies() as (here, proxies), here.client() as client:
            epochs = {key: await flowing(here, key, 2) for key in (TICKER, TRADES, BOOK)}
            await client.subscribe(TICKER, TRADES, BOOK)
            await client.until(lambda m: m["op"] == "snapshot" and m["data"]["channel"] == "book")
            await eventually(lambda: here.gateway.readiness() == [])
            for proxy in proxies:
                proxy.swallow(*ways)
            for number in range(20):
                for key in epochs:
                    here.normalizer.publish(key, [number])
            await eventually(lambda: here.gateway.readiness() != [] and here.gateway.statistics().links_rebuilt_total)
            start = len(client.messages)
            for proxy in proxies:
                proxy.heal()
            for key in epochs:
                here.normalizer.publish(key, [77])
            await here.caught_up(*epochs)
            await eventually(lambda: here.gateway.readiness() == [])
            told = [m for m in (await client.rest(), client.messages[start:])[1] if m["op"] in ("incr", "snapshot")]
            for key, epoch in epochs.items():
                mine = [place(m) for m in told if m["data"]["channel"] == key.channel]
                seen = [seq for _, _, seq in mine]
                assert seen == list(range(seen[0], 24))
                assert {op for op, _, _ in mine} == {"incr"}, "from the normalizer's ring"
                assert {one for _, one, _ in mine} == {epoch}
            stopped = here.supervisor.events("beacons have stopped; links are made anew")
            assert len(stopped) == 1
            await eventually(lambda: len(here.supervisor.events("beacons come")) == 2)

    run(scenario())


def test_a_link_that_swallows_only_what_we_say_goes_on() -> None:
    """What is published still comes; requests that are swallowed are asked again over a new socket."""

    async def scenario() -> None:
        async with behind_proxies() as (here, proxies), here.client() as client:
            epoch = await flowing(here, TRADES, 2)
            await client.subscribe(TRADES)
            await client.until(lambda m: m["op"] == "snapshot")
            for proxy in proxies:
                proxy.swallow("to_server")
            here.normalizer.publish(TRADES, [1])
            await client.until(lambda m: m["op"] == "incr" and place(m)[1:] == (epoch, 3))
            here.normalizer.publish(TRADES, [2], lost=True)
            here.normalizer.publish(TRADES, [3])
            await eventually(lambda: here.gateway.statistics().gaps_total == 1)
            for proxy in proxies:
                proxy.heal()
            await client.until(lambda m: m["op"] == "incr" and place(m)[1:] == (epoch, 5))
            assert [place(m)[2] for m in client.messages if m["op"] == "incr"] == [3, 4, 5]

    run(scenario())


def test_the_same_where_the_network_drops_every_packet() -> None:
    in_namespace("tests.services.gateway.packets")


def test_who_was_held_up_itself_calls_nobody_silent() -> None:
    """A gateway that was starved for long may have all that it was sent still to read."""

    async def scenario() -> None:
        async with world() as here:
            await flowing(here, TICKER)
            await eventually(lambda: here.gateway.readiness() == [])
            time.sleep(1.3)  # the loop stands still: a process that gets no time  # noqa: ASYNC251
            heard = here.gateway.statistics().beacons_received_total
            await eventually(lambda: here.gateway.statistics().beacons_received_total > heard + 3)
            assert here.gateway.readiness() == []
            assert here.gateway.statistics().links_rebuilt_total == 0
            assert not here.supervisor.events("beacons have stopped; links are made anew")

    run(scenario())
