"""What the ingestor does when the venue is not as it should be, and how it asks it for books anew."""

import json

from lfmesh.core.codec import RecordKind
from lfmesh.core.sharding import products_of
from lfmesh.messages import (
    Rejected,
    Reply,
    ResyncRequest,
)
from lfmesh.transport import Requester, Transport
from tests.aio import eventually, run
from tests.services.ingestor.ends import (
    Normalizer,
    Venue,
    ask,
    config,
    contiguous,
    ingestor,
    replayed,
    update,
)

PRODUCTS = ("BTC-USD", "ETH-USD", "LTC-USD", "SOL-USD", "ADA-USD", "XRP-USD")


def test_a_lost_connection_is_told_and_is_back_at_once() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:2])) as running:
            with Transport() as transport:
                normalizer = Normalizer(transport, 0)
                running.service.on_peers([normalizer.record()])
                await running.ready()
                await eventually(lambda: normalizer.beacons)
                await venue.say(update("BTC-USD", 1))
                await eventually(lambda: normalizer.updates() == [1])
                venue.cut()
                await eventually(lambda: venue.connected_total == 2 and normalizer.links()[-1][0] == "up")
                await venue.say(update("BTC-USD", 2))
                await eventually(lambda: normalizer.updates() == [1, 2])
                down, up = normalizer.links()[-2:]
                assert (down[0], down[1]) == ("down", ["BTC-USD", "ETH-USD"])
                assert "no close frame" in down[2]
                assert (up[0], up[1]) == ("up", ["BTC-USD", "ETH-USD"])
                kinds = [record.kind for _, records in normalizer.batches for record in records]
                lost_at = kinds.index(RecordKind.LINK_DOWN)
                assert kinds[lost_at - 1] == RecordKind.FRAME
                assert len(venue.subscribes()) == 2
                (lost,) = running.logged("venue connection down")
                assert lost["retry_in_s"] == 0
                statistics = running.service.statistics()
                assert (statistics.links_lost_total, statistics.reconnects_total) == (1, 1)
                assert running.service.figures().gaps_total == 1
                requester = Requester(transport, running.service.endpoints()["requests"])
                assert contiguous(await replayed(requester, 0, 1000))

    run(main())


def test_a_venue_that_goes_away_and_comes_back() -> None:
    async def main() -> None:
        first = Venue()
        async with first:
            port = first.port
            settings = config(first.url, PRODUCTS[:1])
            run_of_it = ingestor(settings)
            running = await run_of_it.__aenter__()
            await eventually(lambda: running.service.statistics().connections_up == 1)
        try:
            await eventually(lambda: running.service.statistics().connect_failures_total >= 3)
            assert any("cannot connect" in reason for reason in running.service.readiness())
            assert running.service.statistics().connections_up == 0
            async with Venue(port):
                await eventually(lambda: running.service.statistics().connections_up == 1)
        finally:
            await run_of_it.__aexit__(None, None, None)

    run(main())


def test_a_refused_product_is_named_and_the_others_flow() -> None:
    async def main() -> None:
        async with Venue() as venue:
            venue.refused = {"LTC-USD"}
            async with ingestor(config(venue.url, PRODUCTS[:4])) as running:
                with Transport() as transport:
                    normalizer = Normalizer(transport, 0)
                    running.service.on_peers([normalizer.record()])
                    reason = (
                        "connection 0 to the venue: LTC-USD: refused by the venue: "
                        "Failed to subscribe: LTC-USD is not a valid product"
                    )
                    await eventually(lambda: running.service.readiness() == [reason])
                    await venue.say(update("SOL-USD", 5))
                    await eventually(lambda: normalizer.updates() == [5])
                    assert running.service.statistics().products_refused == 1
                    assert running.service.statistics().venue_errors_total >= 1
                    assert running.logged("venue error")[0]["reason"] == "LTC-USD is not a valid product"
                    venue.refused.clear()
                    await running.ready()
                    await eventually(lambda: normalizer.links()[-1] == ("up", ["LTC-USD"], "subscribed"))

    run(main())


def test_half_accepted_is_not_ready() -> None:
    async def main() -> None:
        async with Venue() as venue:
            venue.left_out = {("level2_batch", "ETH-USD")}
            async with ingestor(config(venue.url, PRODUCTS[:2])) as running:
                with Transport() as transport:
                    normalizer = Normalizer(transport, 0)
                    running.service.on_peers([normalizer.record()])
                    wanted = "ETH-USD: left out of the venue's confirmation for level2_batch"
                    await eventually(lambda: running.service.readiness() == [f"connection 0 to the venue: {wanted}"])
                    await venue.say(update("BTC-USD", 1))
                    await eventually(lambda: normalizer.updates() == [1])
                    venue.left_out.clear()
                    await running.ready()

    run(main())


def test_a_venue_that_does_not_answer_is_left() -> None:
    async def main() -> None:
        async with Venue() as venue:
            venue.mute = True
            settings = config(venue.url, PRODUCTS[:1], venue={"subscribe_timeout_s": 0.2})
            async with ingestor(settings) as running:
                await eventually(lambda: venue.connected_total >= 3)
                assert "did not answer our subscription within 0.2 s" in str(running.log.entries)
                venue.mute = False
                await eventually(lambda: running.service.statistics().connections_up == 1)

    run(main())


def test_watchdog() -> None:
    async def main() -> None:
        async with Venue() as venue:
            settings = config(venue.url, PRODUCTS[:1], venue={"watchdog_s": 0.5})
            async with ingestor(settings) as running:
                with Transport() as transport:
                    normalizer = Normalizer(transport, 0)
                    running.service.on_peers([normalizer.record()])
                    await eventually(lambda: "silent" in str(running.service.readiness()))
                    await eventually(lambda: venue.connected_total >= 2)
                    await eventually(
                        lambda: ("down", ["BTC-USD"], "the venue sent nothing for 0.5 s") in normalizer.links()
                    )
                    assert running.service.statistics().watchdog_trips_total >= 1

    run(main())


def test_too_large_a_frame_reconnects_and_is_counted() -> None:
    async def main() -> None:
        async with Venue() as venue:
            settings = config(venue.url, PRODUCTS[:1], venue={"max_frame_bytes": 65536})
            async with ingestor(settings) as running:
                await eventually(lambda: running.service.statistics().connections_up == 1)
                await venue.say("x" * 70_000)
                await eventually(lambda: venue.connected_total == 2)
                await eventually(lambda: running.service.statistics().connections_up == 1)
                assert running.service.statistics().frames_too_large_total == 1
                assert "more than 65536 bytes" in running.logged("venue connection down")[0]["reason"]

    run(main())


def test_frames_without_a_place_are_counted_by_reason_and_shown_once() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:1])) as running:
            with Transport() as transport:
                normalizer = Normalizer(transport, 0)
                running.service.on_peers([normalizer.record()])
                await running.ready()
                strays = (
                    update("DOGE-USD", 1),
                    "garbled {",
                    '{"type":"status"}',
                    '{"type":"error","message":"slow down"}',
                )
                await venue.say(*strays, *strays, update("BTC-USD", 7))
                await eventually(lambda: normalizer.updates() == [7])
                assert running.service.statistics().frames_unrouted_total == {
                    "subscriptions": 1,
                    "error": 2,
                    "no_product": 2,
                    "unknown_product": 2,
                    "bad_product": 0,
                    "invalid_json": 2,
                }
                shown = {
                    entry["reason"]: entry["sample"] for entry in running.logged("frame without a product of ours")
                }
                assert len(running.logged("frame without a product of ours")) == 3
                assert shown["invalid_json"] == "garbled {"
                assert [entry["message"] for entry in running.logged("venue error")] == ["slow down"]
                assert all(b"error" not in body and b"subscriptions" not in body for body in normalizer.bodies())
                assert normalizer.bodies().count(b"garbled {") == 2
                assert not [body for body in normalizer.bodies() if b"DOGE" in body or b"status" in body]

    run(main())


def test_what_cannot_be_read_goes_to_every_shard_of_its_connection() -> None:
    async def main() -> None:
        shards = 4
        settings = config("ws://x", PRODUCTS, shards=shards)
        async with Venue() as venue, ingestor(settings.override({"venue": {"ws_url": venue.url}})) as running:
            with Transport() as transport:
                normalizers = [Normalizer(transport, shard) for shard in range(shards)]
                running.service.on_peers([normalizer.record() for normalizer in normalizers])
                await running.ready()
                await eventually(lambda: all(normalizer.beacons for normalizer in normalizers))
                damaged = (update("BTC-USD", 1)[:30], update("BTC-USD", 1).replace("product_id", "prod#ct_id"))
                await venue.say(*damaged)
                for product in PRODUCTS:
                    await venue.say(update(product, 2))
                for shard, normalizer in enumerate(normalizers):
                    mine = products_of(shard, PRODUCTS, shards)
                    await eventually(lambda n=normalizer, m=mine: len(n.updates()) >= len(m))  # type: ignore[misc]
                    for frame in damaged:
                        assert normalizer.bodies().count(frame.encode()) == (1 if mine else 0)

    run(main())


def test_resync_subscribes_the_book_anew() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:2])) as running:
            with Transport() as transport:
                normalizer = Normalizer(transport, 0)
                running.service.on_peers([normalizer.record()])
                await running.ready()
                await eventually(lambda: normalizer.beacons)
                before = len(normalizer.bodies())
                requester = Requester(transport, running.service.endpoints()["requests"])
                wish = ResyncRequest(["ETH-USD", "ETH-USD", "DOGE-USD"])
                assert (await ask(requester, wish))[0] == Reply()
                assert (await ask(requester, wish))[0] == Reply()
                await eventually(lambda: len(normalizer.bodies()) == before + 1)
                assert json.loads(normalizer.bodies()[-1])["type"] == "snapshot"
                assert json.loads(normalizer.bodies()[-1])["product_id"] == "ETH-USD"
                assert [(request["type"], request["product_ids"]) for request in venue.requests[1:]] == [
                    ("unsubscribe", ["ETH-USD"]),
                    ("subscribe", ["ETH-USD"]),
                ]
                assert all(request["channels"] == ["level2_batch"] for request in venue.requests[1:])
                assert not [word for word, _, _ in normalizer.links() if word == "down"]
                assert running.service.readiness() == []
                assert running.service.statistics().resyncs_total == 1

    run(main())


def test_resync_without_a_book_channel() -> None:
    async def main() -> None:
        settings = config("ws://x", PRODUCTS[:1])
        async with Venue() as venue:
            changed = settings.override({"venue": {"ws_url": venue.url, "channels": ("ticker",)}})
            async with ingestor(changed) as running:
                with Transport() as transport:
                    requester = Requester(transport, running.service.endpoints()["requests"])
                    assert isinstance((await ask(requester, ResyncRequest(["BTC-USD"])))[0], Rejected)

    run(main())
