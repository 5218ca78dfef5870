"""Every kind of request and every error row of the client protocol, over real sockets."""

import json

import pytest

from tests.aio import run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, Client, Json, World, configured, place, world
from tests.services.gateway.test_joins import flowing


async def answer(here: World, *texts: str | bytes) -> list[Json]:
    """What a client gets for these, before the answer to a ping after them."""
    async with here.client() as client:
        for text in texts:
            await client.raw(text)
        return await client.rest()


BAD = [
    ("{", "INVALID_JSON", "not JSON"),
    ("", "INVALID_JSON", "not JSON"),
    ("[" * 60_000, "INVALID_JSON", "recursion"),
    ('{"op":"ping","t":NaN}', "INVALID_JSON", "not JSON"),
    ('{"op":"ping","t":1} x', "INVALID_JSON", "trailing"),
    ("[]", "BAD_REQUEST", "object"),
    ("7", "BAD_REQUEST", "object"),
    ("{}", "BAD_REQUEST", "op"),
    ('{"op":7}', "BAD_REQUEST", "op"),
    ('{"op":"buy"}', "INVALID_OPERATION", "buy"),
    ('{"op":"SUBSCRIBE","products":["BTC-USD"]}', "INVALID_OPERATION", "SUBSCRIBE"),
    ('{"op":"subscribe"}', "BAD_REQUEST", "products"),
    ('{"op":"subscribe","products":[]}', "BAD_REQUEST", "products"),
    ('{"op":"subscribe","products":"BTC-USD"}', "BAD_REQUEST", "products"),
    ('{"op":"subscribe","products":["BTC-USD",7]}', "BAD_REQUEST", "products.1"),
    ('{"op":"subscribe","products":["BTC-USD"],"channels":[]}', "BAD_REQUEST", "channels"),
    ('{"op":"subscribe","products":["BTC-USD"],"channels":"book"}', "BAD_REQUEST", "channels"),
    ('{"op":"subscribe","products":["BTC-USD"],"want_snapshot":"yes"}', "BAD_REQUEST", "want_snapshot"),
    ('{"op":"subscribe","products":["BTC-USD"],"conflate_ms":-1}', "BAD_REQUEST", "conflate_ms"),
    ('{"op":"subscribe","products":["BTC-USD"],"conflate_ms":1.5}', "BAD_REQUEST", "conflate_ms"),
    ('{"op":"subscribe","products":["BTC-USD"],"from_seq":{"BTC-USD":-1}}', "BAD_REQUEST", "from_seq"),
    ('{"op":"subscribe","products":["BTC-USD"],"from_seq":{"BTC-USD":true}}', "BAD_REQUEST", "from_seq"),
    ('{"op":"subscribe","products":["BTC-USD"],"from_seq":{"BTC-USD":9007199254740992}}', "BAD_REQUEST", "from_seq"),
    ('{"op":"subscribe","products":["BTC-USD"],"from_seq":{"BTC-USD":{"ticker":5}}}', "BAD_REQUEST", "from_seq"),
    (
        '{"op":"subscribe","products":["BTC-USD"],"from_seq":{"BTC-USD":{"ticker":{"epoch":1}}}}',
        "BAD_REQUEST",
        "from_seq",
    ),
    (
        '{"op":"subscribe","products":["BTC-USD"],"channels":["book","ticker"],"from_seq":{"BTC-USD":5}}',
        "BAD_REQUEST",
        "exactly one channel",
    ),
    ('{"op":"unsubscribe","products":"all"}', "BAD_REQUEST", "products"),
    ('{"op":"ping"}', "BAD_REQUEST", "t"),
    ('{"op":"ping","t":"now"}', "BAD_REQUEST", "t"),
    (b'{"op":"ping","t":1}', "BAD_REQUEST", "text frames"),
]


@pytest.mark.parametrize(("text", "code", "names"), BAD)
def test_a_request_that_can_t_be_carried_out_is_answered_and_the_connection_stays(
    text: str | bytes, code: str, names: str
) -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            (error,) = await answer(here, text)
            assert (error["op"], error["code"]) == ("error", code)
            assert names in error["msg"]
            assert here.gateway.statistics().errors_total == {code: 1}

    run(scenario())


def test_the_id_of_a_refused_request_comes_back() -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            told = await answer(
                here,
                '{"op":"subscribe","products":[],"id":"a"}',
                '{"op":"nothing","id":5}',
                '{"id":"b"}',
                '{"op":"nothing","id":[1]}',
                '{"op":"nothing","id":true}',
            )
            assert [error.get("id") for error in told] == ["a", 5, "b", None, None]

    run(scenario())


def test_unknown_products_and_channels_are_named_and_the_known_part_is_carried_out() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TICKER)
            await client.send(
                op="subscribe", products=["XRP-EUR", "BTC-USD", "XRP-EUR"], channels=["candles", "ticker"], id=1
            )
            unknown, channel, subscribed, snapshot = await client.take(4)
            assert (unknown["code"], unknown["id"]) == ("UNKNOWN_PRODUCT", 1)
            assert "XRP-EUR" in unknown["msg"]
            assert (channel["code"], channel["id"]) == ("UNKNOWN_CHANNEL", 1)
            assert "candles" in channel["msg"]
            assert (subscribed["products"], subscribed["channels"]) == (["BTC-USD"], ["ticker"])
            assert snapshot["op"] == "snapshot"

    run(scenario())


def test_nothing_known_is_only_refused() -> None:
    async def scenario() -> None:
        async with world() as here:
            (error,) = await answer(here, json.dumps({"op": "subscribe", "products": ["XRP-EUR"] * 3}))
            assert error["code"] == "UNKNOWN_PRODUCT"
            (error,) = await answer(here, json.dumps({"op": "unsubscribe", "channels": ["candles"]}))
            assert error["code"] == "UNKNOWN_CHANNEL"
            names = ["x" * 500, *(f"P{number}-USD" for number in range(500))]
            (error,) = await answer(here, json.dumps({"op": "subscribe", "products": names}))
            assert len(error["msg"]) < 400
            assert "491 more" in error["msg"]

    run(scenario())


def test_past_the_bound_on_subscriptions_nothing_is_carried_out() -> None:
    async def scenario() -> None:
        async with world(configured(max_subscriptions_per_client=4)) as here, here.client() as client:
            await client.subscribe(TICKER, TRADES, BOOK, want_snapshot=False)
            await client.rest()
            await client.send(op="subscribe", products=["BTC-USD", "ETH-USD", "XRP-EUR"], channels=["ticker", "book"])
            (error,) = await client.rest()
            assert error["code"] == "TOO_MANY_SUBSCRIPTIONS"
            assert "5" in error["msg"]
            assert here.gateway.statistics().subscriptions == 3
            # What is followed already does not count twice.
            await client.send(op="subscribe", products=["BTC-USD", "ETH-USD"], want_snapshot=False)
            assert (await client.rest())[0]["op"] == "subscribed"
            assert here.gateway.statistics().subscriptions == 4

    run(scenario())


def test_past_the_rate_requests_are_not_carried_out() -> None:
    async def scenario() -> None:
        config = configured(request_rate_per_s=0.5, request_burst=3)
        async with world(config) as here, here.client() as client, here.client() as other:
            for number in range(3):
                await client.send(op="ping", t=number)
            await client.send(op="subscribe", products=["BTC-USD"], id="late")
            await client.raw("{")
            *pongs, refused, unreadable = await client.take(5)
            assert [pong["t"] for pong in pongs] == [0, 1, 2]
            assert (refused["op"], refused["id"]) == ("rate_limit", "late")
            assert 0 < refused["retry_ms"] <= 2000
            assert (unreadable["op"], "id" in unreadable) == ("rate_limit", False)
            assert here.gateway.statistics().subscriptions == 0
            assert here.gateway.statistics().rate_limited_total == 2
            await other.send(op="ping", t=1)
            assert (await other.next())["op"] == "pong"

    run(scenario())


def test_ping_and_its_other_names() -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            told = await answer(
                here,
                '{"op":"ping","t":5,"id":"x"}',
                '{"operation":"ping","timestamp":-9223372036854775808}',
                '{"op":"ping","t":9007199254740993,"unknown":"ignored"}',
            )
            assert told == [
                {"op": "pong", "t": 5, "id": "x"},
                {"op": "pong", "t": -9223372036854775808},
                {"op": "pong", "t": 9007199254740993},
            ]

    run(scenario())


def test_subscribe_by_its_other_name() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TICKER)
            await client.raw('{"operation":"subscribe","products":["BTC-USD"]}')
            assert [message["op"] for message in await client.take(2)] == ["subscribed", "snapshot"]

    run(scenario())


async def follow_all(here: World, client: Client) -> None:
    for key in (TICKER, TRADES, BOOK):
        await flowing(here, key)
    await client.subscribe(TICKER, TRADES, BOOK, want_snapshot=False)
    await client.send(op="subscribe", products=["ETH-USD"], want_snapshot=False)
    await client.rest()


@pytest.mark.parametrize(
    ("request_fields", "products", "channels", "left"),
    [
        ({}, ["BTC-USD", "ETH-USD"], ["ticker", "trades", "book"], 0),
        ({"products": [], "channels": None}, ["BTC-USD", "ETH-USD"], ["ticker", "trades", "book"], 0),
        ({"products": ["BTC-USD"]}, ["BTC-USD"], ["ticker", "trades", "book"], 1),
        ({"channels": ["ticker"]}, ["BTC-USD", "ETH-USD"], ["ticker"], 2),
        ({"products": ["ETH-USD"], "channels": ["book"]}, ["ETH-USD"], ["book"], 4),
        ({"products": ["BTC-USD"], "channels": ["book", "trades"]}, ["BTC-USD"], ["book", "trades"], 2),
    ],
)
def test_unsubscribe(request_fields: Json, products: list[str], channels: list[str], left: int) -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await follow_all(here, client)
            await client.send(op="unsubscribe", id="u", **request_fields)
            unsubscribed = await client.next()
            assert unsubscribed == {"op": "unsubscribed", "id": "u", "products": products, "channels": channels}
            assert here.gateway.statistics().subscriptions == left

    run(scenario())


def test_after_unsubscribed_nothing_comes_of_the_stream() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await follow_all(here, client)
            await client.send(op="unsubscribe", products=["BTC-USD", "XRP-EUR"], channels=["ticker"])
            error, unsubscribed = await client.take(2)
            assert error["code"] == "UNKNOWN_PRODUCT"
            assert unsubscribed["op"] == "unsubscribed"
            for key in (TICKER, TRADES):
                here.normalizer.publish(key, [9])
            await here.caught_up(TICKER, TRADES)
            assert [message["data"]["channel"] for message in await client.rest()] == ["trades"]

    run(scenario())


def test_unsubscribe_while_joining() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TICKER)
            here.snapshotter.held = True
            await client.subscribe(TICKER)
            await client.send(op="unsubscribe")
            assert [message["op"] for message in await client.take(2)] == ["subscribed", "unsubscribed"]
            here.snapshotter.release()
            here.normalizer.publish(TICKER, [4])
            await here.caught_up(TICKER)
            assert await client.rest() == []

    run(scenario())


def test_conflate_ms_is_accepted() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER, conflate_ms=100)
            assert place((await client.take(2))[1]) == ("snapshot", epoch, 3)

    run(scenario())
