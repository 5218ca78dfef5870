"""The feed against a real gateway: subscribing, reading, waiting, ending."""

import asyncio

import pytest

from lfmesh.client import (
    BookSnapshot,
    BookUpdate,
    Channel,
    ClientError,
    Connected,
    Disconnected,
    Event,
    FeedClosed,
    NoAnswer,
    NoGateway,
    NotSubscribed,
    Skipped,
    Tick,
    TickerSnapshot,
    TradeEvent,
    TradesSnapshot,
    UnknownChannel,
    UnknownProduct,
    connect,
    desk,
)
from lfmesh.exact import Exact
from tests.aio import eventually, run
from tests.client.server import take, through
from tests.services.gateway.kit import BOOK, TICKER, TRADES, configured, world
from tests.services.gateway.test_joins import flowing

P = "BTC-USD"


def trade_ids(events: list[Event]) -> list[int]:
    listed = [trade.trade_id for event in events if isinstance(event, TradesSnapshot) for trade in event.new]
    return listed + [event.trade_id for event in events if isinstance(event, TradeEvent)]


def test_events_come_in_order_and_state_is_that_of_the_event() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, TRADES, 3)
            await flowing(here, TICKER, 3)
            await feed.subscribe([P], channels=["trades", "ticker"])
            await feed.wait_for(P, "trades")
            await feed.wait_for(P, "ticker")
            for number in range(50):
                here.normalizer.publish(TRADES, [number])
                here.normalizer.publish(TICKER, [number])
            seen: list[Event] = []
            async for event in feed:
                seen.append(event)
                match event:
                    case TradeEvent():
                        assert feed.position(P, "trades") == event.position
                        assert feed.trades(P)[-1] == event.trade
                    case Tick() | TickerSnapshot():
                        assert feed.position(P, "ticker") == event.position
                        assert feed.ticker(P) == event.ticker
                    case _:
                        pass
                if (
                    len(trade_ids(seen)) == 53
                    and feed.position(P, "ticker") == here.normalizer.model.streams[TICKER].position
                ):
                    break
            assert isinstance(seen[0], Connected)
            assert trade_ids(seen) == list(range(1, 54))
            last = feed.trades(P)[-1]
            assert (type(last.px), str(last.px), last.side) == (Exact, last.px_text, "sell")
            assert feed.positions()[TRADES] == here.normalizer.model.streams[TRADES].position
            assert feed.status(P, "trades") == ("live", 0, "")

    run(scenario())


def test_who_does_not_read_has_the_state_of_now_and_is_told_what_was_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_KEPT_EVENTS", 100)

    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, TRADES, 1)
            await feed.subscribe([P], channels=["trades"])
            await feed.wait_for(P, "trades")
            for number in range(500):
                here.normalizer.publish(TRADES, [number])
            await eventually(lambda: feed.position(P, "trades") == here.normalizer.model.streams[TRADES].position)
            assert feed.trades(P)[-1].trade_id == 501
            events = aiter(feed)
            first = await anext(events)
            assert isinstance(first, Skipped)
            here.normalizer.publish(TRADES, [1])
            assert (await take(events, TradeEvent, until=lambda e: e.trade_id > 501)).trade_id == 502
            assert first.count >= 400

    run(scenario())


def test_a_pause_between_two_readers_loses_nothing() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, TRADES, 1)
            await feed.subscribe([P], channels=["trades"])
            seen = await through(aiter(feed), TradesSnapshot)
            for number in range(200):
                here.normalizer.publish(TRADES, [number])
            await eventually(lambda: feed.position(P, "trades") == here.normalizer.model.streams[TRADES].position)
            seen += await through(aiter(feed), TradeEvent, until=lambda e: e.trade_id == 201)
            assert trade_ids(seen) == list(range(1, 202))

    run(scenario())


def test_a_slow_reader_slows_the_socket_down_and_nothing_is_dropped() -> None:
    async def scenario() -> None:
        async with world(configured(outbox_bytes=64 * 1024 * 1024)) as here, connect(here.ws_url) as feed:
            await flowing(here, TRADES, 1)
            await feed.subscribe([P], channels=["trades"])
            events = aiter(feed)
            seen = await through(events, TradesSnapshot)
            for number in range(6000):
                here.normalizer.publish(TRADES, [number])
                if number % 200 == 0:
                    await asyncio.sleep(0)
            await here.caught_up(TRADES)
            await eventually(lambda: feed.statistics().unread >= desk._RAW_ITEMS)
            waiting = feed.statistics()
            assert waiting.messages < 3000
            seen += await through(events, TradeEvent, until=lambda e: e.trade_id == 6001)
            assert trade_ids(seen) == list(range(1, 6002))
            assert not any(isinstance(event, Skipped | Disconnected) for event in seen)

    run(scenario())


def test_less_than_everything_is_merged_and_as_right() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, BOOK, 3)
            await flowing(here, TRADES, 3)
            await feed.subscribe([P], channels=["book", "trades"], conflate_ms=20)
            await feed.wait_for_book(P)
            begun = feed.position(P, "book")
            assert begun is not None
            events = aiter(feed)
            seen: list[Event] = []
            for number in range(200):
                here.normalizer.publish(BOOK, [7 * number, 7 * number + 1])  # bids
                here.normalizer.publish(TRADES, [number])
            end = here.normalizer.model.streams[BOOK].position
            seen += await through(events, BookUpdate, until=lambda event: event.position == end)
            updates = [event for event in seen if isinstance(event, BookUpdate)]
            assert sum(event.merged for event in updates) == end.seq - begun.seq > 200
            assert len(updates) < 100
            book = feed.book(P)
            assert (book.bids, book.asks) == here.normalizer.model.streams[BOOK].sides()
            if len(trade_ids(seen)) < 203:
                seen += await through(events, TradeEvent, until=lambda event: event.trade_id == 203)
            assert trade_ids(seen) == list(range(1, 204))
            assert feed.statistics().conflated == 0

    run(scenario())


def test_who_is_sent_no_more_for_now_is_told_and_right_in_the_end() -> None:
    async def scenario() -> None:
        async with world(configured(client_messages_per_s=1000)) as here, connect(here.ws_url) as feed:
            await flowing(here, BOOK, 3)
            await flowing(here, TRADES, 3)
            await feed.subscribe([P], channels=["book", "trades"])
            await feed.wait_for_book(P)

            def conflated() -> bool:
                for number in range(20):
                    here.normalizer.publish(BOOK, [7 * number])
                    here.normalizer.publish(TRADES, [number])
                return here.gateway.statistics().conflations_total["rate"] > 0

            await eventually(conflated, 20)
            here.normalizer.publish(BOOK, [7])
            await eventually(lambda: feed.statistics().conflated, 20)
            streams = here.normalizer.model.streams
            for key in (BOOK, TRADES):
                await eventually(lambda key=key: feed.position(*key) == streams[key].position, 20)  # type: ignore[misc]
            assert (feed.book(P).bids, feed.book(P).asks) == streams[BOOK].sides()
            assert feed.trades(P)[-1].trade_id == here.normalizer.model.trade_id
            told = await take(aiter(feed), BookSnapshot, until=lambda event: event.conflated)
            assert told.reason == "conflated"

    run(scenario(), 40)


def test_unknown_products_are_an_error_of_the_call_and_the_rest_is_followed() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, TICKER, 1)
            with pytest.raises(UnknownProduct, match="not carried here: NO-SUCH") as caught:
                await feed.subscribe([P, "NO-SUCH"])
            assert caught.value.products == ("NO-SUCH",)
            with pytest.raises(UnknownProduct):
                await feed.subscribe("NO-SUCH", channels=["book"])
            with pytest.raises(UnknownChannel, match="known: ticker, trades, book"):
                await feed.subscribe(P, channels=["depth"])
            await feed.wait_for(P, "ticker")
            with pytest.raises(NotSubscribed):
                feed.book("NO-SUCH")
            assert await feed.products() == ["BTC-USD", "ETH-USD", "SOL-USD"]

    run(scenario())


def test_ping_and_unsubscribe() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, TICKER, 1)
            await feed.subscribe([P, "ETH-USD"], channels=["ticker", "trades"])
            assert 0 < await feed.ping() < 5
            await feed.unsubscribe(P, ["ticker"])
            with pytest.raises(NotSubscribed):
                feed.ticker(P)
            assert here.gateway.statistics().subscriptions == 3
            await feed.unsubscribe()
            assert here.gateway.statistics().subscriptions == 0

    run(scenario())


def test_calls_are_answered_while_somebody_reads_and_from_inside_the_loop() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, TRADES, 1)
            await flowing(here, TICKER, 1)
            await feed.subscribe([P], channels=["trades"])
            asked = False
            seen: list[Event] = []
            async for event in feed:
                seen.append(event)
                if isinstance(event, TradesSnapshot):
                    for number in range(20):
                        here.normalizer.publish(TRADES, [number])
                    await feed.subscribe([P], channels=["ticker"])
                    asked = True
                if asked and isinstance(event, TickerSnapshot):
                    break
            seen += (
                await through(aiter(feed), TradeEvent, until=lambda e: e.trade_id == 21)
                if len(trade_ids(seen)) < 21
                else []
            )
            assert trade_ids(seen) == list(range(1, 22))

    run(scenario())


def test_positions_of_one_run_are_where_the_next_one_begins() -> None:
    async def scenario() -> None:
        async with world() as here:
            await flowing(here, TRADES, 5)
            async with connect(here.ws_url) as feed:
                await feed.subscribe([P], channels=["trades"])
                await feed.wait_for(P, "trades")
                positions = feed.positions()
            here.normalizer.publish(TRADES, [1, 2, 3])
            stored = {
                (str(product), str(channel)): (epoch, seq) for (product, channel), (epoch, seq) in positions.items()
            }
            async with connect(here.ws_url) as feed:
                await feed.subscribe([P], channels=["trades"], from_seq=stored)
                events = aiter(feed)
                assert [(await take(events, TradeEvent)).trade_id for _ in range(3)] == [6, 7, 8]

    run(scenario())


def test_without_a_snapshot_a_stream_begins_with_what_is_next() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, TRADES, 5)
            await feed.subscribe([P], channels=["trades"], want_snapshot=False)
            here.normalizer.publish(TRADES, [1])
            seen = await through(aiter(feed), TradeEvent)
            assert trade_ids(seen) == [6]

    run(scenario())


def test_waiting_has_an_end() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await feed.subscribe([P], channels=["book"])
            with pytest.raises(NoAnswer, match=r"no book of BTC-USD within 0.05 s: it is recovering \(no data yet\)"):
                await feed.wait_for_book(P, timeout_s=0.05)
            with pytest.raises(NotSubscribed):
                await feed.wait_for_book("ETH-USD")

    run(scenario())


def test_a_closed_feed_ends_its_readers_and_refuses_calls() -> None:
    async def scenario() -> None:
        async with world() as here:
            feed = await connect(here.ws_url)
            await feed.subscribe([P])
            reading = asyncio.ensure_future(_all(feed.__aiter__()))
            pinging = asyncio.ensure_future(feed.wait_for(P, "ticker", timeout_s=None))
            await asyncio.sleep(0)
            await feed.close()
            await feed.close()
            assert isinstance((await reading)[0], Connected)
            with pytest.raises(FeedClosed):
                await pinging
            with pytest.raises(FeedClosed):
                await feed.subscribe([P])
            await eventually(lambda: here.gateway.statistics().clients == 0)
            assert "1000" in {str(code) for code in here.gateway.statistics().closes_total}

    run(scenario())


async def _all(events: object) -> list[Event]:
    return [event async for event in events]  # type: ignore[attr-defined] # what aiter gives


def test_a_feed_of_state_alone_keeps_no_events() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url, events=False) as feed:
            await flowing(here, TICKER, 1)
            await feed.subscribe([P])
            await feed.wait_for(P, "ticker")
            assert feed.statistics().unread == 0
            with pytest.raises(ClientError, match="events=False"):
                aiter(feed)

    run(scenario())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/ws", "ws://", "nonsense", "ws://host:99999/ws", []])
def test_what_is_no_address_is_said_at_once(url: str | list[str]) -> None:
    with pytest.raises(NoGateway):
        connect(url)


def test_nobody_there_is_waited_for_and_then_said() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(NoGateway, match=r"within 0.3 s: .*refused"):
            await connect(f"ws://127.0.0.1:{port}/ws", open_timeout_s=0.3)
        async with connect(f"ws://127.0.0.1:{port}/ws", open_timeout_s=0) as feed:
            seen = await through(aiter(feed), Disconnected, until=lambda e: e.failures == 3)
            assert all("refused" in event.reason for event in seen if isinstance(event, Disconnected))
            with pytest.raises(NoAnswer, match="refused"):
                await feed.subscribe([P], timeout_s=0.05)

    run(scenario())


def test_a_big_book_comes_whole() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            key = TICKER._replace(channel=Channel.BOOK)
            here.normalizer.open(key)
            bids = here.normalizer.model.streams[key].bids
            bids.update({Exact(f"{px}.25"): (f"{px}.25", "0.10000000") for px in range(1, 30_001)})
            await here.caught_up(key)
            await feed.subscribe([P], channels=["book"])
            book = await feed.wait_for_book(P)
            assert (len(book.bids), book.best_bid, book.asks) == (30_000, ("30000.25", "0.10000000"), [])
            assert book.best_bids(2)[1].px == Exact("29999.25")
            whole = await take(aiter(feed), BookSnapshot)
            assert len(whole.texts) > 1
            assert whole.bids[0] == book.best_bid

    run(scenario())
