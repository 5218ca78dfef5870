"""The harness and the simulated exchange: every misbehaviour begins and ends, and the truth is told."""

import pytest

from loadgen.chaos.plan import VENUE_KINDS, Kind
from loadgen.chaos.truth import Ledger
from loadgen.chaos.venue import Venue
from loadgen.sim import SimConfig, serve
from tests.aio import run


@pytest.mark.parametrize("kind", VENUE_KINDS)
def test_every_misbehaviour_is_one_that_the_exchange_knows_and_is_over_in_the_end(kind: Kind) -> None:
    async def scenario() -> None:
        async with serve(SimConfig(product_count=3, rate_msgs_s=500)) as sim:
            venue = Venue(sim.rest_url)
            await venue.misbehave(kind, 0.05, 1.0, sim.products)
            assert (await venue.status())["faults"] == []

    run(scenario())


def test_the_ledger_is_what_happened() -> None:
    async def scenario() -> None:
        async with serve(SimConfig(product_count=2, rate_msgs_s=20_000, count=3000)) as sim:
            venue, ledger = Venue(sim.rest_url), Ledger()
            await sim.wait_finished()
            truth = await venue.truth()
            for product in sim.products:
                half = (truth[product].last_trade_id or 0) - 10
                trades = await venue.trades_after(product, 0)
                ledger.add(product, [trade for trade in trades if trade.trade_id <= half])
                ledger.add(product, await venue.trades_after(product, ledger.last_id(product)))
                assert ledger.trades[product] == trades
                assert ledger.last_id(product) == truth[product].last_trade_id
            assert await venue.last_trade_ids() == {product: ledger.last_id(product) for product in sim.products}

    run(scenario())


def test_a_market_that_stands_still_goes_on() -> None:
    async def scenario() -> None:
        async with serve(SimConfig(product_count=1, rate_msgs_s=1000, start_paused=True)) as sim:
            venue = Venue(sim.rest_url)
            await venue.start()
            await venue.pause()
            before = await venue.truth()
            assert await venue.truth() == before
            await venue.resume()
            while await venue.truth() == before:
                pass

    run(scenario())
