"""The simulator over real sockets: subscriptions, REST, control, faults, truth."""

import asyncio
import json
import os
import signal
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lfmesh.errors import BadTape, ConfigError, LfmeshError, PortInUse
from loadgen import tape
from loadgen.sim import BAD_FRAMES, Fault, SimConfig, Simulator, VenueChannel, run, serve
from tests import aio
from tests.loadgen.sim.kit import Json, VenueClient, as_json, client, get
from tests.loadgen.sim.test_tape_feed import BTC, ETH, FRAMES, START_NS, encoded, match_frame

ALL = ["level2", "ticker", "matches", "heartbeat"]


def quick(**fields: Any) -> SimConfig:  # noqa: ANN401 - any option by name
    """A small, fast market."""
    return SimConfig(**{"product_count": 3, "rate_msgs_s": 2000, "heartbeat_interval_s": 0.05, **fields})


async def subscribed(reader: VenueClient, products: tuple[str, ...], channels: list[str]) -> Json:
    await reader.ask(product_ids=list(products), channels=channels)
    return await reader.until("subscriptions")


async def check_truth(sim: Simulator, *readers: VenueClient) -> None:
    """The run stands still: every reader's picture is the truth, as REST tells it."""
    for product in sim.products:
        status, _, truth = await get(f"{sim.rest_url}/truth/{product}")
        assert status == 200
        assert truth == as_json(sim.truth(product))
        for reader in readers:
            reader.follower.check_book(truth)


# Subscriptions


def test_an_echo_lists_everything_subscribed_by_the_names_that_the_venue_echoes() -> None:
    async def scenario() -> None:
        async with serve(quick(start_paused=True)) as sim, client(sim.ws_url) as reader:
            await reader.ask(
                product_ids=["ETH-USD"],
                channels=["level2_batch", {"name": "ticker", "product_ids": ["BTC-USD", "SOL-USD"]}, "status"],
            )
            assert await reader.frame() == {
                "type": "subscriptions",
                "channels": [
                    {"name": "level2_50", "product_ids": ["ETH-USD"], "account_ids": None},
                    {"name": "ticker", "product_ids": ["BTC-USD", "SOL-USD"], "account_ids": None},
                    {"name": "status", "product_ids": [], "account_ids": None},
                ],
            }
            kinds = [(await reader.frame())["type"] for _ in range(4)]
            assert kinds == ["snapshot", "ticker", "ticker", "status"]
            await reader.ask("unsubscribe", product_ids=["SOL-USD"], channels=["ticker"])
            await reader.ask("unsubscribe", channels=["level2_50"])
            assert [item["product_ids"] for item in (await reader.frame())["channels"]] == [
                ["ETH-USD"],
                ["BTC-USD"],
                [],
            ]
            assert [item["name"] for item in (await reader.frame())["channels"]] == ["ticker", "status"]

    aio.run(scenario())


def test_each_channel_begins_with_its_state_and_again_after_subscribing_afresh() -> None:
    async def scenario() -> None:
        async with serve(quick(start_paused=True)) as sim, client(sim.ws_url) as reader:
            await reader.ask(product_ids=["BTC-USD"], channels=["level2", "level2_batch", "ticker", "matches"])
            kinds = [(await reader.frame())["type"] for _ in range(5)]
            assert kinds == ["subscriptions", "snapshot", "snapshot", "ticker", "last_match"]
            # Subscribing again to the same changes nothing and is echoed.
            await reader.ask(product_ids=["BTC-USD"], channels=["level2", "matches"])
            assert (await reader.frame())["type"] == "subscriptions"
            await reader.ask("unsubscribe", product_ids=["BTC-USD"], channels=["level2"])
            await reader.ask(product_ids=["BTC-USD"], channels=["level2"])
            kinds = [(await reader.frame())["type"] for _ in range(3)]
            assert kinds == ["subscriptions", "subscriptions", "snapshot"]

    aio.run(scenario())


def test_requests_with_anything_unknown_are_refused_whole_and_the_connection_stays() -> None:
    async def scenario() -> None:
        async with serve(quick(start_paused=True)) as sim, client(sim.ws_url) as reader:
            await reader.ask(product_ids=["BTC-USD", "NO-SUCH"], channels=["ticker"])
            assert await reader.frame() == {
                "type": "error",
                "message": "Failed to subscribe",
                "reason": "NO-SUCH is not a valid product",
            }
            await reader.ask(product_ids=["BTC-USD"], channels=["ticker", "level9"])
            assert (await reader.frame())["reason"] == "level9 is not a valid channel"
            await reader.connection.send("{")
            assert await reader.frame() == {"type": "error", "message": "Malformed JSON"}
            await reader.connection.send(b"\x00")
            assert (await reader.frame())["message"] == "Malformed JSON"
            echo = await subscribed(reader, ("BTC-USD",), ["ticker"])
            assert echo["channels"] == [{"name": "ticker", "product_ids": ["BTC-USD"], "account_ids": None}]

    aio.run(scenario())


def test_who_does_not_subscribe_in_time_is_disconnected_and_who_does_is_not() -> None:
    async def scenario() -> None:
        async with (
            serve(quick(subscribe_deadline_s=0.2)) as sim,
            client(sim.ws_url) as mute,
            client(sim.ws_url) as wrong,
            client(sim.ws_url) as prompt,
        ):
            await subscribed(prompt, ("BTC-USD",), ["heartbeat"])
            await wrong.ask(product_ids=["BTC-USD"], channels=["level9"])
            assert (await wrong.frame())["type"] == "error"
            for late in (mute, wrong):
                with pytest.raises(ConnectionClosed) as closed:
                    await late.frame()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1008
                assert "no subscribe within 0.2 s" in closed.value.rcvd.reason
            for _ in range(8):
                await prompt.until("heartbeat")

    aio.run(scenario())


def test_heartbeats_come_for_each_subscribed_product_also_while_nothing_plays() -> None:
    async def scenario() -> None:
        async with serve(quick(start_paused=True)) as sim, client(sim.ws_url) as reader:
            await subscribed(reader, ("BTC-USD", "ETH-USD"), ["heartbeat", "matches"])
            beats = Counter([(await reader.until("heartbeat"))["product_id"] for _ in range(6)])
            assert beats == {"BTC-USD": 3, "ETH-USD": 3}
            assert set(reader.follower.heartbeats["BTC-USD"][0]) == {
                "type",
                "last_trade_id",
                "product_id",
                "sequence",
                "time",
            }
            for product in ("BTC-USD", "ETH-USD"):
                position = reader.follower.positions[product]["trade_id"]
                assert [beat["last_trade_id"] for beat in reader.follower.heartbeats[product]] == [position] * 3

    aio.run(scenario())


def test_the_status_channel_describes_the_products_and_repeats() -> None:
    async def scenario() -> None:
        async with serve(quick(status_interval_s=0.05)) as sim, client(sim.ws_url) as reader:
            await reader.ask(channels=["status"])
            for _ in range(3):
                status = await reader.until("status")
            assert [product["id"] for product in status["products"]] == list(sim.products)
            assert {currency["id"] for currency in status["currencies"]} == {"BTC", "ETH", "SOL", "USD"}

    aio.run(scenario())


# Truth


@pytest.mark.parametrize("compressed", [False, True])
def test_readers_of_either_book_channel_hold_the_truth_when_the_count_is_sent(compressed: bool) -> None:
    async def scenario() -> None:
        config = quick(rate_msgs_s=10_000, count=6000, start_paused=True, compress=compressed)
        async with (
            serve(config) as sim,
            client(sim.ws_url, compressed=compressed) as plain,
            client(sim.ws_url) as batched,
            client(sim.ws_url) as late,
        ):
            assert bool(plain.connection.protocol.extensions) is compressed
            await subscribed(plain, sim.products, ALL)
            await subscribed(batched, sim.products, ["level2_batch", "matches"])
            sim.start()
            await plain.until("match")
            await subscribed(late, sim.products, ["level2_batch"])
            await sim.wait_finished()
            for reader in (plain, batched, late):
                await reader.catch_up()
            await check_truth(sim, plain, batched, late)
            for product in sim.products:
                for reader in (plain, batched):
                    reader.follower.check(as_json(sim.truth(product)))
            counts = plain.follower.counts
            assert counts["l2update"] + counts["match"] + counts["ticker"] - len(sim.products) == 6000
            assert batched.follower.counts["l2update"] < counts["l2update"]

    aio.run(scenario())


def test_pause_and_resume_over_http_leave_readers_with_the_truth_each_time() -> None:
    async def scenario() -> None:
        async with serve(quick()) as sim, client(sim.ws_url) as reader:
            await subscribed(reader, sim.products, ["level2_batch", "matches"])
            sent = 0
            for _ in range(3):
                await reader.until("match")
                status, _, report = await get(f"{sim.rest_url}/control/pause")
                assert (status, report["playing"]) == (200, False)
                assert report["sent"] > sent
                sent = report["sent"]
                await reader.catch_up()
                await check_truth(sim, reader)
                _, _, report = await get(f"{sim.rest_url}/control/resume")
                assert report["playing"]

    aio.run(scenario())


# REST


def test_rest_lists_products_and_books() -> None:
    async def scenario() -> None:
        async with serve(quick(start_paused=True)) as sim:
            _, headers, listed = await get(f"{sim.rest_url}/products")
            assert headers["content-type"].startswith("application/json")
            assert [product["id"] for product in listed] == ["BTC-USD", "ETH-USD", "SOL-USD"]
            assert (await get(f"{sim.rest_url}/products/BTC-USD"))[2] == listed[0]
            assert listed[0]["quote_increment"] == "0.01"
            truth = as_json(sim.truth("BTC-USD"))
            _, _, top = await get(f"{sim.rest_url}/products/BTC-USD/book")
            assert (top["bids"], top["asks"]) == ([[*truth["best_bid"], 1]], [[*truth["best_ask"], 1]])
            _, _, whole = await get(f"{sim.rest_url}/products/BTC-USD/book?level=2")
            assert [row[:2] for row in whole["bids"]] == truth["bids"]
            assert [row[:2] for row in whole["asks"]] == truth["asks"]
            _, _, orders = await get(f"{sim.rest_url}/products/BTC-USD/book?level=3")
            assert [row[:2] for row in orders["asks"]] == truth["asks"]
            assert len({row[2] for row in orders["asks"]}) == len(truth["asks"])
            assert whole["sequence"] == orders["sequence"] > 0

    aio.run(scenario())


def test_trades_page_down_to_those_before_the_run_and_agree_with_the_feed() -> None:
    async def scenario() -> None:
        config = quick(product_count=1, count=3000, rate_msgs_s=20_000, start_paused=True, rest_burst=1000)
        async with serve(config) as sim, client(sim.ws_url) as reader:
            await subscribed(reader, sim.products, ["matches"])
            sim.start()
            await sim.wait_finished()
            await reader.catch_up()
            rows: list[Json] = []
            url = f"{sim.rest_url}/products/BTC-USD/trades?limit=50"
            _, headers, page = await get(url)
            while page:
                assert headers["cb-before"] == str(page[0]["trade_id"])
                assert headers["cb-after"] == str(page[-1]["trade_id"])
                rows += page
                _, headers, page = await get(f"{url}&after={page[-1]['trade_id']}")
            assert "cb-after" not in headers
            fields = ("trade_id", "side", "size", "price", "time")
            matches = [reader.follower.positions["BTC-USD"], *reader.follower.trades["BTC-USD"]]
            assert rows[::-1] == [{field: match[field] for field in fields} for match in matches]
            newest = rows[0]["trade_id"]
            _, _, newer = await get(f"{url}&before={newest - 2}")
            assert [row["trade_id"] for row in newer] == [newest, newest - 1]

    aio.run(scenario())


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/products/NO-SUCH", 404, "NotFound"),
        ("/products/NO-SUCH/trades", 404, "NotFound"),
        ("/products/BTC-USD/candles", 404, "NotFound"),
        ("/nowhere", 404, "NotFound"),
        ("/truth/NO-SUCH", 404, "NotFound"),
        ("/control/explode", 404, "NotFound"),
        ("/products/BTC-USD/book?level=4", 400, "Invalid level"),
        ("/products/BTC-USD/trades?after=x", 400, "Invalid after"),
        ("/products/BTC-USD/trades?limit=-1", 400, "Invalid limit"),
        ("/control/fault?kind=explode", 400, "kind is one of"),
        ("/control/fault?kind=lose&share=0.1&products=NO-SUCH", 400, "unknown product NO-SUCH"),
        ("/control/fault?kind=lose&share=0.1&speed=2", 400, "unknown key speed"),
        ("/control/resume?count=all", 400, "not 'all'"),
        ("/control/inject?product=NO-SUCH&kind=garbled", 400, "not 'NO-SUCH'"),
        ("/control/inject?product=BTC-USD&kind=nice", 400, "one of truncated"),
    ],
)
def test_wrong_requests_get_a_status_and_a_message(path: str, status: int, message: str) -> None:
    async def scenario() -> None:
        async with serve(quick(start_paused=True)) as sim:
            answered, _, body = await get(f"{sim.rest_url}{path}")
            assert answered == status
            assert message in body["message"]

    aio.run(scenario())


def test_the_request_limit_answers_429_and_spares_truth_and_control() -> None:
    async def scenario() -> None:
        async with serve(quick(rest_rate_per_s=0.01, rest_burst=15)) as sim:
            statuses = [(await get(f"{sim.rest_url}/products/BTC-USD"))[0] for _ in range(17)]
            assert statuses == [200] * 15 + [429] * 2
            assert (await get(f"{sim.rest_url}/products"))[2] == {"message": "Public rate limit exceeded"}
            assert (await get(f"{sim.rest_url}/truth/BTC-USD"))[0] == 200
            _, _, report = await get(f"{sim.rest_url}/control/status")
            assert (report["rest_requests"], report["rest_limited"]) == (18, 3)

    aio.run(scenario())


def test_rest_can_be_slow_and_behind_and_the_rest_is_not() -> None:
    async def scenario() -> None:
        config = quick(product_count=2, count=2000, rate_msgs_s=20_000, start_paused=True)
        async with serve(config) as sim:
            sim.start()
            await sim.wait_finished()
            newest = sim.truth("BTC-USD").last_trade_id
            assert newest is not None
            url = f"{sim.rest_url}/products/BTC-USD/trades?limit=1"
            for path in ("kind=hide&count=5&products=BTC-USD", "kind=slow&delay_s=0.05&products=BTC-USD"):
                status, _, begun = await get(f"{sim.rest_url}/control/fault?{path}")
                assert status == 200, begun
            _, _, rows = await get(url)
            assert [row["trade_id"] for row in rows] == [newest - 5]
            _, _, others = await get(url.replace("BTC-USD", "ETH-USD"))
            assert others[0]["trade_id"] == sim.truth("ETH-USD").last_trade_id
            _, _, report = await get(f"{sim.rest_url}/control/status")
            assert (report["fault_hits"]["hide"], report["fault_hits"]["slow"]) == (1, 1)
            assert sim.truth("BTC-USD").last_trade_id == newest
            sim.clear_faults()
            _, _, rows = await get(url)
            assert [row["trade_id"] for row in rows] == [newest]

    aio.run(scenario())


# Control


def test_rest_can_fail_and_the_truth_is_told_all_the_same() -> None:
    async def scenario() -> None:
        async with serve(quick(count=2000, rate_msgs_s=20_000)) as sim:
            await sim.wait_finished()
            product = sim.products[0]
            trades = f"{sim.rest_url}/products/{product}/trades"
            _, _, rows = await get(f"{trades}?limit=1000")
            sim.begin_fault(Fault(kind="limit"))
            status, headers, _ = await get(trades)
            assert (status, headers["retry-after"]) == (429, "1")
            sim.clear_faults()
            sim.begin_fault(Fault(kind="fail"))
            assert (await get(trades))[0] == 503
            _, _, truth = await get(f"{sim.rest_url}/truth/{product}/trades?after={rows[9]['trade_id']}")
            assert truth == rows[:9][::-1]
            assert len((await get(f"{sim.rest_url}/truth/{product}/trades"))[2]) == len(rows)
            assert (await get(f"{sim.rest_url}/truth/{product}/trades?after=x"))[0] == 400
            assert (await get(f"{sim.rest_url}/truth/NO-SUCH/trades"))[0] == 404

    aio.run(scenario())


def test_the_status_reports_the_run_and_who_is_there() -> None:
    async def scenario() -> None:
        async with serve(quick(start_paused=True, count=10)) as sim, client(sim.ws_url) as reader:
            await subscribed(reader, ("ETH-USD",), ["level2", "heartbeat"])
            _, _, report = await get(f"{sim.rest_url}/control/status")
            expected = {"mode": "model", "started": False, "playing": False, "finished": False, "sent": 0}
            assert {key: report[key] for key in expected} == expected
            assert report["connections"] == report["connections_total"] == 1
            assert report["subscribed"] == {
                "level2": ["ETH-USD"],
                "level2_batch": [],
                "ticker": [],
                "matches": [],
                "heartbeat": ["ETH-USD"],
            }
            await get(f"{sim.rest_url}/control/start")
            await sim.wait_finished()
            _, _, report = await get(f"{sim.rest_url}/control/resume?count=5")
            assert report["playing"]
            await sim.wait_finished()
            _, _, report = await get(f"{sim.rest_url}/control/status")
            assert (report["sent"], report["finished"], report["playing"]) == (15, True, False)
            _, _, index = await get(sim.rest_url)
            assert "/truth" in index["endpoints"]
            assert [truth["product"] for truth in (await get(f"{sim.rest_url}/truth"))[2]] == list(sim.products)

    aio.run(scenario())


def test_injected_frames_arrive_verbatim_at_the_products_subscribers_only() -> None:
    async def scenario() -> None:
        async with (
            serve(quick(start_paused=True)) as sim,
            client(sim.ws_url) as btc,
            client(sim.ws_url) as eth,
        ):
            await subscribed(btc, ("BTC-USD",), ["ticker", "matches"])
            await btc.until("last_match")
            await subscribed(eth, ("ETH-USD",), ["level2"])
            await eth.until("snapshot")
            truth = sim.truth("BTC-USD")
            text = '{"type":"oops","π":1'
            _, _, sent = await get(f"{sim.rest_url}/control/inject?product=BTC-USD&text={quote(text)}")
            assert sent == {"sent_to": 1, "bytes": len(text.encode())}
            assert await btc.connection.recv() == text
            for kind, make in BAD_FRAMES.items():
                await get(f"{sim.rest_url}/control/inject?product=BTC-USD&kind={kind}")
                assert await btc.connection.recv() == make("BTC-USD")
            assert len(BAD_FRAMES["huge"]("BTC-USD")) > 5_000_000
            await eth.catch_up()
            assert set(eth.follower.counts) == {"subscriptions", "snapshot"}
            assert sim.truth("BTC-USD") == truth

    aio.run(scenario())


# Faults


def test_lost_and_late_and_double_frames_show_on_the_wire_and_leave_the_truth_alone() -> None:
    async def scenario() -> None:
        config = quick(count=4000, rate_msgs_s=20_000, start_paused=True, seed=5)
        async with serve(config) as sim, client(sim.ws_url) as hit, client(sim.ws_url) as witness:
            await subscribed(hit, sim.products, ["matches"])
            await subscribed(witness, sim.products, ["matches", "level2"])
            for kind in ("lose", "duplicate", "reorder"):
                status, _, fault = await get(f"{sim.rest_url}/control/fault?kind={kind}&share=0.1&channels=matches")
                assert (status, fault["kind"], fault["channels"]) == (200, kind, ["matches"])
            sim.start()
            await sim.wait_finished()
            _, _, cleared = await get(f"{sim.rest_url}/control/faults/clear")
            assert cleared == {"cleared": 3}
            for reader in (hit, witness):
                await reader.catch_up()
            await check_truth(sim, witness)
            _, _, report = await get(f"{sim.rest_url}/control/status")
            assert set(report["fault_hits"]) == {"lose", "duplicate", "reorder"}
            for product in sim.products:
                truth = sim.truth(product)
                assert truth.last_trade_id is not None
                ids = [trade["trade_id"] for trade in hit.follower.trades[product]]
                first = hit.follower.positions[product]["trade_id"] + 1
                assert set(ids) < set(range(first, truth.last_trade_id + 1))
                assert max(Counter(ids).values()) == 2
                assert ids != sorted(ids)

    aio.run(scenario())


def test_garbled_frames_arrive_as_text_that_is_no_valid_frame_of_other_content() -> None:
    async def scenario() -> None:
        config = quick(count=500, start_paused=True, faults=(Fault.parse("garble:share=1,channels=level2"),))
        async with serve(config) as sim, client(sim.ws_url) as reader:
            await subscribed(reader, sim.products, ["level2"])
            sim.start()
            await sim.wait_finished()
            sim.clear_faults()
            await reader.ask("unsubscribe", channels=["level2"])
            unreadable = 0
            while True:
                raw = await reader.connection.recv()
                assert isinstance(raw, str)
                try:
                    frame = json.loads(raw)
                except ValueError:
                    unreadable += 1
                    continue
                if frame.get("type") == "subscriptions":
                    break
                assert "#" in raw
            assert unreadable > 100

    aio.run(scenario())


def test_a_stall_is_silence_and_then_everything_in_order() -> None:
    async def scenario() -> None:
        async with serve(quick()) as sim, client(sim.ws_url) as reader:
            await subscribed(reader, sim.products, ["level2", "matches"])
            await reader.until("match")
            sim.begin_fault(Fault(kind="stall", for_s=0.3))
            await get(f"{sim.rest_url}/control/pause")
            assert (await get(f"{sim.rest_url}/control/faults"))[2][0]["kind"] == "stall"
            await reader.catch_up()  # answered only once the stall has ended by itself
            assert sim.active_faults() == {}
            await check_truth(sim, reader)

    aio.run(scenario())


def test_a_drop_breaks_connections_without_a_handshake_and_can_keep_newcomers_out() -> None:
    async def scenario() -> None:
        async with serve(quick()) as sim, client(sim.ws_url) as btc, client(sim.ws_url) as eth:
            await subscribed(btc, ("BTC-USD",), ["ticker"])
            await subscribed(eth, ("ETH-USD",), ["ticker"])
            await get(f"{sim.rest_url}/control/fault?kind=drop&products=ETH-USD")
            with pytest.raises(ConnectionClosed) as closed:
                await eth.until("none")
            assert closed.value.rcvd is None
            await btc.until("ticker")
            _, _, fault = await get(f"{sim.rest_url}/control/fault?kind=drop&for_s=60")
            with pytest.raises(ConnectionClosed):
                await btc.until("none")
            with pytest.raises(InvalidStatus, match="503"):
                async with client(sim.ws_url):
                    pass
            await get(f"{sim.rest_url}/control/faults/clear")
            async with client(sim.ws_url) as again:
                await subscribed(again, ("BTC-USD",), ["ticker"])
            assert fault["for_s"] == 60

    aio.run(scenario())


def test_a_drop_by_share_strikes_while_frames_flow() -> None:
    async def scenario() -> None:
        config = quick(faults=(Fault.parse("drop:share=0.01"),))
        async with serve(config) as sim, client(sim.ws_url) as reader:
            await reader.ask(product_ids=list(sim.products), channels=["level2"])
            with pytest.raises(ConnectionClosed):
                await reader.until("none")
            assert sim.status()["fault_hits"] == {"drop": 1}

    aio.run(scenario())


def test_a_refused_subscription_gets_an_error_an_empty_echo_and_silence() -> None:
    async def scenario() -> None:
        config = quick(subscribe_deadline_s=0.2, faults=(Fault(kind="refuse"),))
        async with serve(config) as sim, client(sim.ws_url) as reader:
            await reader.ask(product_ids=["BTC-USD"], channels=ALL)
            error = await reader.frame()
            assert (error["type"], error["message"]) == ("error", "Failed to subscribe")
            assert error["reason"]
            assert await reader.frame() == {"type": "subscriptions", "channels": []}
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await reader.frame()
            await get(f"{sim.rest_url}/control/faults/clear")
            await subscribed(reader, ("BTC-USD",), ALL)
            await reader.until("snapshot")

    aio.run(scenario())


def test_a_fault_on_an_unknown_product_is_refused_at_the_start() -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError, match="unknown product NO-SUCH"):
            async with serve(quick(faults=(Fault.parse("lose:share=0.1,products=NO-SUCH"),))):
                pass

    aio.run(scenario())


# Slow readers


def test_a_reader_that_does_not_read_is_dropped_and_the_others_notice_nothing() -> None:
    async def scenario() -> None:
        config = quick(rate_msgs_s=20_000, buffer_limit_bytes=50_000)
        async with serve(config) as sim, client(sim.ws_url) as reader:
            stuck = socket.create_connection(("127.0.0.1", sim.port))
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            upgrade = (
                "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            request = json.dumps({"type": "subscribe", "product_ids": list(sim.products), "channels": ["level2"]})
            body = struct.pack("!BBH4x", 0x81, 0x80 | 126, len(request)) + request.encode()  # masked with zeros
            await asyncio.to_thread(stuck.sendall, upgrade.encode() + body)
            await subscribed(reader, sim.products, ["matches"])
            while not sim.status()["slow_consumers_dropped"]:
                await reader.until("match")
            for product in sim.products:
                await reader.until("match", product)
                trades = reader.follower.trades[product]
                first = reader.follower.positions[product]["trade_id"] + 1
                assert [trade["trade_id"] for trade in trades] == list(range(first, first + len(trades)))
            stuck.close()

    aio.run(scenario(), timeout=60)


# Tape


@pytest.fixture
def small_tape(tmp_path: Path) -> Path:
    path = tmp_path / "small.tape"
    with tape.Writer(path) as writer:
        for second, frame in FRAMES:
            writer.write(START_NS + round(second * 1e9), encoded(frame))
    return path


def test_a_tape_begins_on_a_control_call_plays_verbatim_and_stays_up(small_tape: Path) -> None:
    async def scenario() -> None:
        config = SimConfig(tape=small_tape, tape_speed="max", tape_start="control", heartbeat_interval_s=0.05)
        async with serve(config) as sim, client(sim.ws_url) as reader, client(sim.ws_url) as late:
            assert sim.products == (BTC, ETH)
            await subscribed(reader, (BTC,), ["level2_batch", "ticker", "matches"])
            _, _, report = await get(f"{sim.rest_url}/control/start")
            assert report["mode"] == "tape"
            await sim.wait_finished()
            wanted = [frame for _, frame in FRAMES if frame.get("product_id") == BTC and frame["type"] != "received"]
            assert [await reader.connection.recv() for _ in wanted] == [encoded(frame).decode() for frame in wanted]
            await subscribed(late, (BTC, ETH), ["level2", "matches", "heartbeat"])
            frames = [await late.until(kind) for kind in ("snapshot", "snapshot", "last_match", "last_match")]
            assert frames[2] == match_frame(BTC, 102, "last_match")
            beat = await late.until("heartbeat", BTC)
            assert (beat["last_trade_id"], beat["time"][:19]) == (102, "2021-04-17T16:43:41")
            late.follower.check_book(as_json(sim.truth(BTC)))
            assert (await get(f"{sim.rest_url}/control/status"))[2]["finished"]
            _, _, trades = await get(f"{sim.rest_url}/products/{BTC}/trades")
            assert [row["trade_id"] for row in trades] == [102, 101, 100]
            _, _, book = await get(f"{sim.rest_url}/products/{BTC}/book?level=2")
            assert book["asks"] == [["102.5", "1.00", 1], ["103.0", "1.0", 1]]

    aio.run(scenario())


def test_a_tape_can_wait_until_everything_on_it_is_subscribed(small_tape: Path) -> None:
    async def scenario() -> None:
        config = SimConfig(tape=small_tape, tape_speed=100.0, tape_start="subscribe")
        async with serve(config) as sim, client(sim.ws_url) as first, client(sim.ws_url) as second:
            await subscribed(first, (BTC,), ["level2", "ticker", "matches"])
            assert sim.status()["started"] is False
            await subscribed(second, (ETH,), ["level2", "ticker", "matches"])
            await sim.wait_finished()
            await first.catch_up()
            await second.catch_up()
            assert [trade["trade_id"] for trade in first.follower.trades[BTC]] == [101, 102]
            assert [trade["trade_id"] for trade in second.follower.trades[ETH]] == [7]

    aio.run(scenario())


def test_a_tape_at_full_speed_waits_for_a_slow_reader(tmp_path: Path) -> None:
    path = tmp_path / "long.tape"
    with tape.Writer(path) as writer:
        for trade_id in range(1, 20_001):
            writer.write(START_NS, encoded(match_frame(BTC, trade_id)))

    async def scenario() -> None:
        # All frames together would exceed the buffer bound several times.
        config = SimConfig(tape=path, tape_speed="max", tape_start="control", buffer_limit_bytes=2_000_000)
        async with serve(config) as sim, client(sim.ws_url) as reader:
            await subscribed(reader, (BTC,), ["matches"])
            sim.start()
            while len(reader.follower.trades.get(BTC, [])) < 20_000:
                await reader.frame()
            assert reader.follower.trades_hash(BTC) == sim.truth(BTC).trades_hash
            assert sim.status()["slow_consumers_dropped"] == 0

    aio.run(scenario())


def test_a_file_that_is_no_tape_stops_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "notes.txt"
        path.write_text("milk\nbread\n")
        with pytest.raises(BadTape, match="line 1"):
            async with serve(SimConfig(tape=path)):
                pass

    aio.run(scenario())


# Life


def test_a_port_in_use_and_an_address_that_is_not_ours_say_so_in_one_line() -> None:
    async def scenario() -> None:
        async with serve(quick()) as sim:
            with pytest.raises(PortInUse, match=f"port {sim.port} on 127.0.0.1 is in use") as refused:
                async with serve(quick(port=sim.port)):
                    pass
            assert "\n" not in str(refused.value)
        with pytest.raises(LfmeshError, match=r"cannot listen on 192\.0\.2\.1"):
            async with serve(quick(host="192.0.2.1")):
                pass

    aio.run(scenario())


def test_leaving_the_block_closes_connections_in_order_and_frees_the_port() -> None:
    async def scenario() -> None:
        async with serve(quick()) as sim:
            port = sim.port
            reader_context = client(sim.ws_url)
            reader = await reader_context.__aenter__()
            await subscribed(reader, sim.products, ALL)
        with pytest.raises(ConnectionClosed) as closed:
            await reader.until("none")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        await reader_context.__aexit__(None, None, None)
        async with serve(quick(port=port)) as again:
            assert again.port == port

    aio.run(scenario())


def test_an_error_inside_the_block_comes_out_as_itself() -> None:
    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="mine"):
            async with serve(quick()):
                raise RuntimeError("mine")

    aio.run(scenario())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_announces_its_addresses_and_ends_on_a_signal(number: signal.Signals) -> None:
    announced: list[tuple[str, str]] = []

    def announce(ws_url: str, rest_url: str) -> None:
        announced.append((ws_url, rest_url))
        os.kill(os.getpid(), number)

    aio.run(run(quick(), announce))
    ((ws_url, rest_url),) = announced
    assert ws_url.removeprefix("ws://") == rest_url.removeprefix("http://")


def test_every_channel_of_the_venue_can_be_subscribed_by_its_name() -> None:
    async def scenario() -> None:
        async with serve(quick(start_paused=True)) as sim, client(sim.ws_url) as reader:
            echo = await subscribed(reader, ("BTC-USD",), [channel.value for channel in VenueChannel])
            assert len(echo["channels"]) == len(VenueChannel)

    aio.run(scenario())
