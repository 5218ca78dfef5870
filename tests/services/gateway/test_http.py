"""HTTP on the clients' port."""

import asyncio
import json
from typing import NamedTuple

import jsonschema
import pytest

from lfmesh.models import parse_json, parse_message, to_json
from lfmesh.types import StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, Json, World, configured, world
from tests.services.gateway.test_joins import flowing


class Reply(NamedTuple):
    status: int
    headers: str
    body: bytes

    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found


async def get(here: World, target: str) -> Reply:
    host, port = here.address
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    return Reply(int(head.split()[1]), head.decode(), body)


def test_probes_tell_the_truth() -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            assert (await get(here, "/health")).json()["status"] == "ok"
            ready = await get(here, "/ready")
            assert ready.status == 503
            assert ready.json() == {"ready": False, "reasons": ["no beacon from normalizer-0 yet"]}
            here.normalizer.start_beacons()
            await here.attached()
            assert (await get(here, "/ready")).json()["reasons"] == ["no data yet from shard 0"]
            await flowing(here, TICKER)
            await eventually(lambda: here.gateway.readiness() == [])
            assert (await get(here, "/ready")).status == 200

    run(scenario())


def test_metrics_hold_what_the_testing_guide_names() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.publish(TICKER, [4])
            await client.next()
            await eventually(lambda: here.gateway.readiness() == [])
            text = (await get(here, "/metrics")).body.decode()
            for sample in (
                'lfmesh_gateway_clients{instance="gateway-0"} 1.0',
                'lfmesh_gateway_subscriptions{instance="gateway-0"} 1.0',
                'lfmesh_gateway_deliveries_total{instance="gateway-0"} 1.0',
                'lfmesh_gateway_rate_limited_total{instance="gateway-0"} 0.0',
                'lfmesh_gateway_streams{instance="gateway-0",state="live"} 1.0',
                'lfmesh_gateway_ready{instance="gateway-0"} 1.0',
            ):
                assert sample in text
            assert "lfmesh_gateway_deliveries_per_s" in text

    run(scenario())


def test_products() -> None:
    async def scenario() -> None:
        async with world(configured(shards=3), beacons=False) as here:
            listed = (await get(here, "/products")).json()["products"]
            assert [product["id"] for product in listed] == list(here.config.mesh.products)
            assert all(product["channels"] == ["ticker", "trades", "book"] for product in listed)
            assert {product["id"]: product["shard"] for product in listed} == here.gateway.products

    run(scenario())


@pytest.mark.parametrize("key", [TICKER, TRADES, BOOK])
def test_a_snapshot_is_the_data_of_the_message_digit_for_digit(key: StreamKey) -> None:
    async def scenario() -> None:
        async with world() as here:
            await flowing(here, key, 8)
            reply = await get(here, f"/v1/snapshot/{key.product}?channel={key.channel}")
            assert reply.status == 200
            assert "application/json" in reply.headers
            message = parse_message(b'{"op":"snapshot","data":' + reply.body + b"}")
            assert to_json(message) == b'{"op":"snapshot","data":' + reply.body + b"}"
            state = reply.body[reply.body.index(b'"state":') + 8 : -1].decode()
            assert state == here.normalizer.model.streams[key].state(key.channel)

    run(scenario())


def test_the_channel_is_ticker_unless_it_is_named() -> None:
    async def scenario() -> None:
        async with world() as here:
            await flowing(here, TICKER)
            assert (await get(here, "/v1/snapshot/BTC-USD")).json()["channel"] == "ticker"

    run(scenario())


def test_a_book_in_parts_is_one_over_http() -> None:
    async def scenario() -> None:
        async with world() as here:
            here.snapshotter.part_bytes = 200
            await flowing(here, BOOK, 60)
            whole = parse_json((await get(here, "/v1/snapshot/BTC-USD?channel=book")).body)
            bids, asks = here.normalizer.model.streams[BOOK].sides()
            assert len(bids) + len(asks) > 20
            assert [[str(px), str(qty)] for px, qty in whole["state"]["bids"]] == [list(level) for level in bids]
            assert [[str(px), str(qty)] for px, qty in whole["state"]["asks"]] == [list(level) for level in asks]
            assert "parts" not in whole

    run(scenario())


def test_many_who_ask_at_once_are_one_request() -> None:
    async def scenario() -> None:
        async with world() as here:
            await flowing(here, TICKER)
            here.snapshotter.held = True
            asking = [asyncio.ensure_future(get(here, "/v1/snapshot/BTC-USD")) for _ in range(10)]
            while not here.snapshotter.asked:
                await asyncio.sleep(0.01)
            await get(here, "/health")
            here.snapshotter.release()
            assert [(await one).status for one in asking] == [200] * 10
            assert len(here.snapshotter.asked) <= 2

    run(scenario())


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("/v1/snapshot/XRP-EUR", 404, "XRP-EUR"),
        ("/v1/snapshot/", 404, "UNKNOWN_PRODUCT"),
        ("/v1/snapshot/BTC-USD?channel=candles", 400, "candles"),
        ("/v1/snapshot/BTC-USD?chanel=book", 400, "chanel"),
        ("/v1/snapshot/BTC-USD?channel=book&channel=book", 400, "twice"),
        ("/v1/snapshot/BTC-USD?channel=trades", 503, "no state of BTC-USD trades"),
        ("/nothing", 404, "/ws"),
        ("/ws", 426, "WebSocket"),
    ],
)
def test_what_can_t_be_answered_is_refused_in_clear_words(target: str, status: int, words: str) -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            reply = await get(here, target)
            assert reply.status == status
            assert words in reply.body.decode()
            if target.startswith("/v1") and status in (404, 503):
                assert set(reply.json()["error"]) == {"code", "msg"}

    run(scenario())


def test_the_schema_is_one_and_holds_for_what_is_sent() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            schema = (await get(here, "/schema")).json()
            jsonschema.Draft202012Validator.check_schema(schema)
            validator = jsonschema.Draft202012Validator(schema)
            for key in (TICKER, TRADES, BOOK):
                await flowing(here, key)
            await client.subscribe(TICKER, TRADES, BOOK)
            await client.take(4)
            for key in (TICKER, TRADES, BOOK):
                here.normalizer.publish(key, [7])
            await client.take(3)
            await client.send(op="nothing")
            await client.rest()
            assert {message["op"] for message in client.messages} == {"subscribed", "snapshot", "incr", "error", "pong"}
            for message in client.messages:
                validator.validate(message)

    run(scenario())


def test_the_page_is_for_people_and_escapes_what_it_shows() -> None:
    async def scenario() -> None:
        async with world(configured(instance="<gateway>")) as here:
            page = await get(here, "/")
            assert page.status == 200
            assert "text/html" in page.headers
            text = page.body.decode()
            assert "&lt;gateway&gt;" in text
            assert "<gateway>" not in text
            assert "/v1/snapshot/BTC-USD?channel=ticker" in text
            assert "not ready: no data yet from shard 0" in text

    run(scenario())
