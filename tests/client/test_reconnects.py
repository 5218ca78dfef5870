"""What a feed mends by itself: kills, drains, gateways that are full, that misbehave, that are not there yet."""

import asyncio
import json
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from lfmesh.client import (
    BookSnapshot,
    BookUpdate,
    Connected,
    Disconnected,
    Event,
    Goaway,
    NoGateway,
    Tick,
    TickerSnapshot,
    TradeEvent,
    TradesSnapshot,
    Violation,
    connect,
    connection,
)
from lfmesh.client.link import Failed, Route
from lfmesh.types import Channel
from tests.aio import eventually, run
from tests.client.server import (
    EPOCH,
    QUIET,
    Caller,
    Json,
    P,
    book_incr,
    book_snapshot,
    gateway,
    incr,
    subscribed,
    take,
    through,
    ticker_snapshot,
    trade_incr,
    trades_snapshot,
)
from tests.services.gateway.kit import TRADES, configured, world
from tests.services.gateway.test_joins import flowing


def ids(events: list[Event]) -> list[int]:
    found: list[int] = []
    for event in events:
        if isinstance(event, TradesSnapshot):
            found += [trade.trade_id for trade in event.new]
        elif isinstance(event, TradeEvent):
            found.append(event.trade_id)
    return found


def test_a_lost_connection_is_made_again_and_resumed_without_a_snapshot() -> None:
    async def scenario() -> None:
        async with world() as here, connect(here.ws_url) as feed:
            await flowing(here, TRADES, 3)
            await feed.subscribe([P], channels=["trades"])
            events = aiter(feed)
            seen = await through(events, TradesSnapshot)
            for round_number in range(5):
                for number in range(20):
                    here.normalizer.publish(TRADES, [number])
                feed.drop("a test")
                for number in range(20):
                    here.normalizer.publish(TRADES, [number])
                last = 3 + 40 * (round_number + 1)
                seen += await through(events, TradeEvent, until=lambda e, last=last: e.trade_id == last)  # type: ignore[misc] # bound now
            assert ids(seen) == list(range(1, 204))
            lost = [event for event in seen if isinstance(event, Disconnected)]
            assert [(event.reason, event.failures) for event in lost] == [("a test", 0)] * 5
            assert [event.again for event in seen if isinstance(event, Connected)] == [False] + [True] * 5
            assert sum(isinstance(event, TradesSnapshot) for event in seen) == 1

    run(scenario())


def test_a_killed_gateway_s_clients_go_on_at_the_other_one() -> None:
    async def scenario() -> None:
        async with world() as here, world() as there:
            # Two gateways of one mesh: the second one follows the first one's normalizer.
            there.gateway.on_peers(here.peers())
            await flowing(here, TRADES, 3)
            await eventually(
                lambda: there.gateway._hub.stream(TRADES).position == here.normalizer.model.streams[TRADES].position
            )
            async with connect([here.ws_url, there.ws_url]) as feed:
                await feed.subscribe([P], channels=["trades"])
                events = aiter(feed)
                seen = await through(events, TradesSnapshot)
                server = here.gateway._front._server  # type: ignore[union-attr] # it is open
                assert server is not None
                server.close(close_connections=False)
                for one in tuple(server.connections):
                    one.transport.abort()
                for number in range(50):
                    here.normalizer.publish(TRADES, [number])
                seen += await through(events, TradeEvent, until=lambda e: e.trade_id == 53)
                assert ids(seen) == list(range(1, 54))
                assert feed.url == there.ws_url
                assert [event.url for event in seen if isinstance(event, Connected)] == [here.ws_url, there.ws_url]

    run(scenario())


@pytest.mark.parametrize("several", [False, True])
def test_a_gateway_that_goes_away_is_left_after_the_time_that_it_names(*, several: bool) -> None:
    async def scenario() -> None:
        async def first(caller: Caller) -> None:
            await caller.accept(*trades_snapshot(1, [1]), '{"op":"goaway","reason":"draining","reconnect_ms":150}')
            await caller.send(trade_incr(2, 2))  # it flows on until then
            await caller.stay()

        async def second(caller: Caller) -> None:
            request = await caller.accept(trade_incr(3, 3))
            assert request["from_seq"] == {P: {"trades": {"epoch": EPOCH, "seq": 2}}}
            await caller.stay()

        async with (
            gateway(first, second) as one,
            gateway(second) as other,
            connect([one, other] if several else one) as feed,
        ):
            await feed.subscribe([P], channels=["trades"])
            events = aiter(feed)
            seen = await through(events, TradeEvent, until=lambda e: e.trade_id == 3)
            assert ids(seen) == [1, 2, 3]
            assert any(isinstance(event, Goaway) and event.reconnect_ms == 150 for event in seen)
            (lost,) = [event for event in seen if isinstance(event, Disconnected)]
            assert lost.reason == "the gateway goes away"
            assert feed.url == (other if several else one)

    run(scenario())


def test_a_drained_gateway_loses_nothing_for_who_comes_again() -> None:
    async def scenario() -> None:
        async with world() as here, world(configured(drain_s=2.0)) as there:
            there.gateway.on_peers(here.peers())
            await flowing(here, TRADES, 3)
            await eventually(
                lambda: there.gateway._hub.stream(TRADES).position == here.normalizer.model.streams[TRADES].position
            )
            async with connect([there.ws_url, here.ws_url]) as feed:
                await feed.subscribe([P], channels=["trades"])
                events = aiter(feed)
                seen = await through(events, TradesSnapshot)
                stopping = asyncio.create_task(there.gateway.stop())
                published = 3
                while not stopping.done() or published < 100:
                    here.normalizer.publish(TRADES, [published])
                    published += 1
                    if published % 20 == 0:
                        seen += await through(events, TradeEvent, until=lambda e, last=published: e.trade_id == last)  # type: ignore[misc] # bound now
                here.normalizer.publish(TRADES, [published])
                seen += await through(events, TradeEvent, until=lambda e: e.trade_id == published + 1)
                await stopping
                assert ids(seen) == list(range(1, published + 2))
                assert feed.url == here.ws_url
                assert not any(isinstance(event, Violation) for event in seen)

    run(scenario())


def test_everything_that_goes_wrong_on_the_way_is_mended() -> None:
    """A gateway that is full, cuts in the middle of a snapshot's parts, sends nonsense, skips, repeats, and drains."""

    async def full(caller: Caller) -> None:
        await caller.connection.close(1013, "full, try later")

    async def cut_in_parts(caller: Caller) -> None:
        request = await caller.request()
        part = book_snapshot(5, [("9", "1")])[0].replace('"reason"', '"part":1,"parts":2,"reason"')
        await caller.send(subscribed(request), *trades_snapshot(1, [1, 2]), trade_incr(2, 3), part)
        caller.cut()

    async def nonsense(caller: Caller) -> None:
        await caller.accept(trade_incr(3, 4), '{"op":"incr","data":{"product":7}}', trade_incr(4, 999))
        await caller.stay()

    async def skips(caller: Caller) -> None:
        request = await caller.accept(*book_snapshot(7, [("9", "1")], [("11", "1")]), trade_incr(4, 5))
        assert request["from_seq"] == {P: {"trades": {"epoch": EPOCH, "seq": 3}}}
        await caller.send(trade_incr(6, 7), book_incr(8, [("12", "1")]))  # one is missing; the book is crossed
        for _ in range(2):
            again = await caller.request()
            if again["channels"] == ["trades"]:
                assert again["from_seq"] == {P: {"trades": {"epoch": EPOCH, "seq": 4}}}
                await caller.send(subscribed(again), trade_incr(5, 6), trade_incr(6, 7))
            else:
                assert "from_seq" not in again
                await caller.send(subscribed(again), *book_snapshot(9, [("9", "2")], [("11", "1")]))
        await caller.send(trade_incr(7, 8))
        await caller.connection.close(1001, "draining")

    async def last(caller: Caller) -> None:
        await caller.accept(trade_incr(8, 9), book_incr(10, [("10", "3")]))
        await caller.stay()

    async def scenario() -> None:
        async with gateway(full, cut_in_parts, nonsense, skips, last) as url, connect(url) as feed:
            await feed.subscribe([P], channels=["trades", "book"])
            events = aiter(feed)
            seen = await through(events, TradeEvent, until=lambda e: e.trade_id == 9)
            assert ids(seen) == list(range(1, 10))
            seen += await through(events, BookUpdate, until=lambda e: e.position.seq == 10)
            assert feed.book(P).bids == [("10", "3"), ("9", "2")]
            kinds = [event.kind for event in seen if isinstance(event, Violation)]
            assert sorted(kinds) == ["crossed", "gap", "malformed"]
            reasons = [event.reason for event in seen if isinstance(event, Disconnected)]
            assert reasons == [
                "closed with 1013 full, try later", "connection broken", "a message that can't be read",
                "closed with 1001 draining",
            ]  # fmt: skip

    run(scenario())


def test_a_silent_gateway_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_SILENCE_NS", 300_000_000)

    async def silent(caller: Caller) -> None:
        await caller.accept(*ticker_snapshot(1))
        await caller.stay()

    async def scenario() -> None:
        async with gateway(silent) as url, connect(url) as feed:
            await feed.subscribe([P])
            lost = await take(aiter(feed), Disconnected)
            assert lost.reason == "no word for 0.3 s"

    run(scenario())


def test_who_reads_nothing_is_not_taken_for_a_silent_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_SILENCE_NS", 200_000_000)

    async def talkative(caller: Caller) -> None:
        await caller.accept(*ticker_snapshot(0))
        for seq in range(1, 200_000):
            await caller.send(incr(Channel.TICKER, seq, QUIET))

    async def scenario() -> None:
        async with gateway(talkative) as url, connect(url) as feed:
            await feed.subscribe([P])
            events = aiter(feed)
            await take(events, TickerSnapshot)
            await asyncio.sleep(0.7)  # longer than the silence that is allowed
            seen = await through(events, Tick, until=lambda e: e.position.seq == 3000)
            assert not any(isinstance(event, Disconnected) for event in seen)

    run(scenario())


def test_binary_frames_are_no_gateway_s() -> None:
    async def binary(caller: Caller) -> None:
        await caller.connection.send(b"\x00\x01")
        await caller.stay()

    async def scenario() -> None:
        async with gateway(binary) as url:
            feed = await connect(url)
            with pytest.raises(NoGateway, match="binary frames"):
                await feed.subscribe([P])
            with pytest.raises(NoGateway, match="binary frames"):
                await through(aiter(feed), BookSnapshot)
            await feed.close()

    run(scenario())


def test_a_policy_close_is_not_tried_again() -> None:
    async def refuse(caller: Caller) -> None:
        await caller.connection.close(1008, "who are you")

    async def scenario() -> None:
        async with gateway(refuse) as url:
            with pytest.raises(NoGateway, match="1008 who are you"):
                async with connect(url) as feed:
                    await feed.subscribe([P])

    run(scenario())


@pytest.mark.parametrize("status", [HTTPStatus.NOT_FOUND, HTTPStatus.OK, HTTPStatus.FORBIDDEN])
def test_a_server_that_is_no_gateway_is_said_at_once(status: HTTPStatus) -> None:
    def refuse(server: ServerConnection, _request: Request) -> Response:
        return server.respond(status, "no such page\n")

    async def scenario() -> None:
        async with serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, process_request=refuse) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(NoGateway, match=f"HTTP {status.value}: it is no gateway"):
                await connect(f"ws://127.0.0.1:{port}/ws", open_timeout_s=None)

    run(scenario())


def test_a_server_of_something_else_is_said_at_once() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await reader.read()
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(NoGateway, match="is no gateway"):
                await connect(f"ws://127.0.0.1:{port}/ws", open_timeout_s=None)

    run(scenario())


def test_a_server_that_is_not_ready_yet_is_waited_for() -> None:
    answers = iter([HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS, None])

    def refuse(server: ServerConnection, _request: Request) -> Response | None:
        status = next(answers)
        return None if status is None else server.respond(status, "later\n")

    async def scenario() -> None:
        async with serve(lambda one: one.wait_closed(), "127.0.0.1", 0, process_request=refuse) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}/ws") as feed:
                seen = await through(aiter(feed), Connected)
                assert [type(event) for event in seen] == [Disconnected, Disconnected, Connected]

    run(scenario())


def test_one_hopeless_address_among_several_is_left_out() -> None:
    def refuse(server: ServerConnection, _request: Request) -> Response:
        return server.respond(404, "no such page\n")

    async def steady(caller: Caller) -> None:
        await caller.accept(*ticker_snapshot(1))
        await caller.stay()

    async def scenario() -> None:
        async with (
            serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, process_request=refuse) as server,
            gateway(steady) as url,
        ):
            wrong = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
            async with connect([wrong, url]) as feed:
                await feed.subscribe([P])
                assert feed.url == url

    run(scenario())


def test_a_request_that_is_turned_away_is_carried_out_later() -> None:
    async def busy(caller: Caller) -> None:
        request = await caller.request()
        await caller.send(json.dumps({"op": "rate_limit", "retry_ms": 20, "id": request["id"]}))
        assert await caller.accept(*ticker_snapshot(1)) == request
        await caller.stay()

    async def scenario() -> None:
        async with gateway(busy) as url, connect(url) as feed:
            await feed.subscribe([P])
            await feed.wait_for(P, "ticker")

    run(scenario())


def test_long_lists_are_resumed_in_several_requests() -> None:
    names = [f"PRODUCT{number}-USD" for number in range(1500)]
    resumed: list[Json] = []

    async def first(caller: Caller) -> None:
        asked: list[str] = []
        while len(asked) < len(names):
            request = await caller.accept()
            asked += request["products"]
            for name in request["products"]:
                await caller.send(*ticker_snapshot(7, product=name))
        await caller.connection.close(1001, "draining")

    async def second(caller: Caller) -> None:
        while sum(len(request["products"]) for request in resumed) < len(names):
            resumed.append(await caller.accept())
        for name in names:
            await caller.send(incr(Channel.TICKER, 8, QUIET, product=name))
        await caller.stay()

    async def scenario() -> None:
        async with gateway(first, second) as url, connect(url) as feed:
            await feed.subscribe(names)
            seen = await through(aiter(feed), Tick, until=lambda e: e.product == names[-1])
            assert sum(isinstance(event, Tick) for event in seen) == len(names)
        assert len(resumed) > 1
        assert all(len(json.dumps(request, separators=(",", ":"))) <= 64 * 1024 for request in resumed)
        positions = [position for request in resumed for position in request["from_seq"].values()]
        assert positions == [{"ticker": {"epoch": EPOCH, "seq": 7}}] * len(names)

    run(scenario())


# Where to, and when ---------------------------------------------------------------------------------------------


def test_pauses_grow_up_to_a_bound_and_begin_anew_after_a_good_connection() -> None:
    route = Route(["ws://a/ws"], lambda: 1.0)
    pauses = [route.failed(Failed("refused")) for _ in range(12)]
    assert pauses[:4] == [0.0, 0.2, 0.4, 0.8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
    route.served(well=True)
    assert route.lost(None, well=True) == 0.0


def test_alternatives_are_tried_one_after_the_other_before_a_pause() -> None:
    route = Route(["ws://a/ws", "ws://b/ws"], lambda: 1.0)
    tried = []
    for _ in range(6):
        tried.append(route.url)
        route.failed(Failed("refused"))
    assert tried == ["ws://a/ws", "ws://b/ws"] * 3
    route = Route(["ws://a/ws", "ws://b/ws"], lambda: 1.0)
    assert [route.failed(Failed("refused")) for _ in range(6)] == [0.0, 0.0, 0.0, 0.2, 0.0, 0.4]


def test_a_gateway_that_always_closes_at_once_is_not_hammered() -> None:
    route = Route(["ws://a/ws"], lambda: 1.0)
    pauses = []
    for _ in range(8):
        route.served(well=False)
        pauses.append(route.lost(0.0, well=False))
    assert pauses[0] == 0.0
    assert pauses[-1] == 5.0


def test_an_address_that_was_a_gateway_s_is_never_hopeless() -> None:
    route = Route(["ws://a/ws"], lambda: 1.0)
    route.served(well=True)
    for _ in range(5):
        route.failed(Failed("404", hopeless=True))
    with pytest.raises(NoGateway, match="404"):
        Route(["ws://a/ws"], lambda: 1.0).failed(Failed("404", hopeless=True))
