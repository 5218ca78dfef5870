"""The synchronous twin, against a real gateway on a loop in another thread."""

import asyncio
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import pytest

from lfmesh.client import FeedClosed, NoGateway, TickerSnapshot, TradeEvent, TradesSnapshot, UnknownProduct
from lfmesh.client.sync import connect
from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, World, world
from tests.services.gateway.test_joins import flowing

P = "BTC-USD"


def with_gateway(script: Callable[[World], None]) -> None:
    """Run a script in a thread while a gateway runs here."""

    async def scenario() -> None:
        async with world() as here:
            await flowing(here, BOOK, 1)
            await flowing(here, TRADES, 3)
            await flowing(here, TICKER, 3)
            await asyncio.to_thread(script, here)
            await eventually(lambda: here.gateway.statistics().clients == 0)

    run(scenario())


def publish(here: World, count: int) -> None:
    loop = here.gateway._loop
    for number in range(count):
        loop.call_soon_threadsafe(here.normalizer.publish, TRADES, [number])


def test_a_script_subscribes_waits_and_reads() -> None:
    def script(here: World) -> None:
        with connect(here.ws_url) as feed:
            feed.subscribe([P], channels=["book", "trades", "ticker"])
            book = feed.wait_for_book(P)
            assert book.depth == feed.book(P).depth
            assert feed.products() == ["BTC-USD", "ETH-USD", "SOL-USD"]
            publish(here, 30)
            seen: list[int] = []
            for event in feed:
                if isinstance(event, TradesSnapshot):
                    seen += [trade.trade_id for trade in event.new]
                elif isinstance(event, TradeEvent):
                    seen.append(event.trade_id)
                    assert feed.trades(P)[-1] == event.trade
                    assert feed.position(P, "trades") == event.position
                if seen and seen[-1] == 33:
                    break
            assert seen == list(range(1, 34))
            assert feed.ticker(P).last_trade is not None
            assert feed.status(P, "trades").state == "live"
            assert feed.ping() > 0
            assert feed.connected
            feed.subscribe(P, conflate_ms=20)
            feed.wait_for(P, "ticker")
            assert feed.position(P, "ticker") == here.normalizer.model.streams[TICKER].position
            assert feed.statistics().conflated == 0
            with pytest.raises(UnknownProduct):
                feed.subscribe("NO-SUCH")
            feed.unsubscribe(P, ["book"])
            assert set(feed.positions()) == {TICKER, TRADES}

    with_gateway(script)


def test_it_works_where_a_loop_runs_as_in_a_notebook() -> None:
    def script(here: World) -> None:
        async def cell() -> None:
            feed = connect(here.ws_url)
            feed.subscribe(P)
            for event in feed:
                if isinstance(event, TickerSnapshot):
                    break
            feed.close()

        asyncio.run(cell())

    with_gateway(script)


def test_closing_ends_who_reads_in_another_thread() -> None:
    def script(here: World) -> None:
        feed = connect(here.ws_url)
        feed.subscribe(P)
        events = iter(feed)
        next(events)
        threading.Timer(0.1, feed.close).start()
        for _ in events:
            pass
        feed.close()
        with pytest.raises(FeedClosed):
            feed.subscribe(P)
        with pytest.raises(FeedClosed):
            feed.ticker(P)

    with_gateway(script)


def test_a_feed_that_nobody_holds_is_closed() -> None:
    def script(here: World) -> None:
        feed = connect(here.ws_url)
        feed.subscribe(P)
        thread = next(one for one in threading.enumerate() if one.name == "lfmesh feed")
        gone = weakref.ref(feed)
        del feed
        assert gone() is None
        thread.join(5)
        assert not thread.is_alive()

    with_gateway(script)


def test_no_gateway_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with pytest.raises(NoGateway):
        connect("ws://127.0.0.1:1/ws", open_timeout_s=0.05)
    assert threading.active_count() == before


def test_a_program_ends_that_has_not_closed_its_feed() -> None:
    program = (
        "import sys; from lfmesh.client.sync import connect; feed = connect(sys.argv[1]); feed.subscribe('BTC-USD')"
    )

    def script(here: World) -> None:
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, here.ws_url],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")

    with_gateway(script)
