"""The ingestor between a fake venue and real PULL sockets."""

import asyncio
import json

import pytest
from structlog.testing import LogCapture

from lfmesh.core.sharding import products_of, shard_of, stable_id
from lfmesh.errors import PortInUse
from lfmesh.messages import (
    AnnounceRequest,
    BackfillRequest,
    LookupRequest,
    Rejected,
    ReplayRequest,
    Reply,
    ResyncRequest,
    Unavailable,
)
from lfmesh.services.ingestor import IngestorService
from lfmesh.services.runtime import running as life
from lfmesh.transport import Pusher, Requester, Transport
from lfmesh.types import Role
from tests.aio import eventually, run
from tests.services.ingestor.ends import (
    Normalizer,
    Venue,
    ask,
    config,
    context,
    contiguous,
    ingestor,
    replayed,
    service_record,
    update,
)

PRODUCTS = ("BTC-USD", "ETH-USD", "LTC-USD", "SOL-USD", "ADA-USD", "XRP-USD")


def test_frames_reach_the_normalizer_in_order_and_numbered_from_one() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:2])) as running:
            with Transport() as transport:
                normalizer = Normalizer(transport, 0)
                running.service.on_peers([normalizer.record()])
                await running.ready()
                await venue.say(*(update("BTC-USD", number) for number in range(300)))
                await eventually(lambda: len(normalizer.updates()) == 300)
                assert normalizer.updates() == list(range(300))
                header = normalizer.batches[-1][0]
                assert header.ingestor == stable_id("ingestor-A")
                assert (header.incarnation, header.line) == (1000, "A")
                assert venue.subscribes() == [
                    {"type": "subscribe", "product_ids": ["BTC-USD", "ETH-USD"], "channels": ["ticker", "level2_batch"]}
                ]
                # What came before the normalizer did is in the ring; together there is no hole.
                requester = Requester(transport, running.service.endpoints()["requests"])
                everything = await replayed(requester, 0, 1000)
                assert contiguous(everything)
                assert normalizer.numbered().items() <= everything.items()
                assert len(everything) == 1 + 2 + 300  # link up, two snapshots, the updates
                statistics = running.service.statistics()
                assert statistics.records_published_total == 303
                assert statistics.frames_received_total == 303  # the echo instead of the link record
                assert statistics.frames_unrouted_total["subscriptions"] == 1
                assert statistics.connections_up == statistics.connections == 1
                assert statistics.normalizers_attached == 1

    run(main())


def test_times_of_arrival_and_batches() -> None:
    async def main() -> None:
        settings = config("ws://x", PRODUCTS[:1], ingestor={"batch_max_frames": 16})
        async with Venue() as venue, ingestor(settings.override({"venue": {"ws_url": venue.url}})) as running:
            with Transport() as transport:
                normalizer = Normalizer(transport, 0)
                running.service.on_peers([normalizer.record()])
                await running.ready()
                began = asyncio.get_running_loop().time() * 1e9
                for connection in venue.connections:
                    for number in range(100):
                        connection.protocol.send_text(update("BTC-USD", number).encode())
                    connection.send_data()
                await eventually(lambda: len(normalizer.updates()) == 100)
                assert max(len(records) for _, records in normalizer.batches) == 16
                frames = [record for _, records in normalizer.batches for record in records if record.kind == 0]
                times = [record.ts_ingest for record in frames]
                assert times == sorted(times)
                assert times[-1] >= began
                assert all(header.ts_sent >= records[-1].ts_ingest for header, records in normalizer.batches)

    run(main())


def test_each_shard_gets_its_products_only() -> None:
    async def main() -> None:
        settings = config("ws://x", PRODUCTS, shards=2, venue={"products_per_connection": 2})
        async with Venue() as venue, ingestor(settings.override({"venue": {"ws_url": venue.url}})) as running:
            with Transport() as transport:
                normalizers = [Normalizer(transport, shard) for shard in range(2)]
                running.service.on_peers([normalizer.record() for normalizer in normalizers])
                await running.ready()
                assert venue.connected_total == 3
                assert sorted(len(request["product_ids"]) for request in venue.subscribes()) == [2, 2, 2]
                for number, product in enumerate(PRODUCTS):
                    await venue.connections[number // 2].send(update(product, number))
                for shard, normalizer in enumerate(normalizers):
                    mine = products_of(shard, PRODUCTS, 2)
                    await eventually(lambda n=normalizer, m=mine: len(n.updates()) == len(m))  # type: ignore[misc]
                    seen = {json.loads(body)["product_id"] for body in normalizer.bodies()}
                    assert seen == set(mine)

    run(main())


def test_all_connections_together_keep_the_venues_limit() -> None:
    async def main() -> None:
        limit = {"products_per_connection": 2, "ws_requests_per_s": 0.001, "ws_burst": 8, "ingestors_per_address": 2}
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS, venue=limit)) as running:
            await eventually(lambda: running.service.statistics().connections_up == 2)
            statistics = running.service.statistics()
            assert (statistics.connections, statistics.venue_requests_total) == (3, 4)  # its half: four of eight
            assert statistics.venue_requests_delayed_total == 1
            assert venue.connected_total == 2
            with Transport() as transport:
                requester = Requester(transport, running.service.endpoints()["requests"])
                assert (await ask(requester, ResyncRequest([PRODUCTS[0]])))[0] == Reply()
                await eventually(lambda: running.service.statistics().venue_requests_delayed_total == 2)
                assert len(venue.requests) == 2

    run(main())


def test_the_line_is_in_every_frame_and_may_be_told_apart() -> None:
    async def main() -> None:
        async with Venue() as venue:
            first = config(venue.url, PRODUCTS[:1])
            second = first.override({"ingestor": {"line": "B", "instance": "ingestor-B"}})
            async with ingestor(first) as one, ingestor(second) as other:
                with Transport() as transport:
                    normalizer = Normalizer(transport, 0)
                    for running in (one, other):
                        running.service.on_peers([normalizer.record()])
                    lines = {("A", stable_id("ingestor-A")), ("B", stable_id("ingestor-B"))}
                    await one.ready()
                    await other.ready()
                    await eventually(lambda: {header.line for header in normalizer.beacons} == {"A", "B"})
                    await venue.say(update("BTC-USD", 1))
                    await eventually(lambda: normalizer.updates() == [1, 1])
                    headers = [*normalizer.beacons, *(header for header, _ in normalizer.batches)]
                    assert {(header.line, header.ingestor) for header in headers} == lines

    run(main())


def test_the_line_is_announced() -> None:
    async def main() -> None:
        async with Venue() as venue:
            changes = {"line": "B", "instance": "ingestor-B", "products": PRODUCTS[1:2]}
            settings = config(venue.url, PRODUCTS[:2], ingestor=changes, registry={"endpoints": ("tcp://127.0.0.1:9",)})
            async with life(IngestorService, settings, Role.INGESTOR) as running:
                assert running.record is not None
                record = running.record
                assert (record.instance, record.line, record.products) == ("ingestor-B", "B", [PRODUCTS[1]])

    run(main())


def test_one_whose_name_another_process_has_is_not_ready() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:1])) as running:
            with Transport() as transport:
                peers = [Normalizer(transport, 0).record()]
                running.service.on_peers(peers)
                await running.ready()
                newer = service_record("ingestor-A", None, "", 2000, Role.INGESTOR)
                running.service.on_peers([*peers, newer])
                (reason,) = running.service.readiness()
                assert "give each ingestor a name of its own" in reason
                assert running.service.statistics().namesakes == 1
                running.service.on_peers(peers)
                assert running.service.readiness() == []

    run(main())


def test_several_normalizers_of_a_shard_get_the_same_numbers() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:2])) as running:
            with Transport() as transport:
                active, standby = Normalizer(transport, 0), Normalizer(transport, 0, "normalizer-0b")
                running.service.on_peers([active.record(), standby.record()])
                await eventually(lambda: active.beacons and standby.beacons)
                await running.ready()
                await venue.say(*(update("ETH-USD", number) for number in range(200)))
                await eventually(lambda: len(active.updates()) == len(standby.updates()) == 200)
                common = active.numbered().keys() & standby.numbered().keys()
                assert len(common) >= 200
                assert all(active.numbered()[number] == standby.numbered()[number] for number in common)

    run(main())


def test_a_normalizer_that_does_not_read_holds_nobody_back() -> None:
    async def main() -> None:
        settings = config("ws://x", PRODUCTS[:1], ingestor={"push_hwm_messages": 1, "batch_max_frames": 1})
        async with Venue() as venue, ingestor(settings.override({"venue": {"ws_url": venue.url}})) as running:
            with Transport() as transport:
                reading, stuck = Normalizer(transport, 0), Normalizer(transport, 0, "stuck")
                stuck.puller._closed = True  # bound and connected, but it takes nothing any more
                running.service.on_peers([reading.record(), stuck.record()])
                await running.ready()
                padding = "x" * 20_000
                frame = json.dumps({"type": "l2update", "product_id": "BTC-USD", "changes": [], "pad": padding})
                async with asyncio.timeout(20):
                    while running.service.statistics().pushes_dropped_total < 50:
                        await venue.say(*[frame] * 20)
                        await asyncio.sleep(0.01)
                requester = Requester(transport, running.service.endpoints()["requests"])
                everything = await replayed(requester, 0, 1000)
                assert contiguous(everything)
                assert len(reading.numbered()) > len(stuck.numbered())
                assert running.service.statistics().pushes_total > 0
                stuck.puller._closed = False

    run(main())


def test_a_frame_that_was_not_pushed_can_be_asked_for() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:1])) as running:
            with Transport() as transport:
                await eventually(lambda: running.service.statistics().records_published_total == 2)
                requester = Requester(transport, running.service.endpoints()["requests"])
                header, frames = await ask(requester, ReplayRequest(0, 1000, 1, 0))
                assert header == Reply()
                assert frames
                assert isinstance((await ask(requester, ReplayRequest(0, 999, 1, 0)))[0], Unavailable)
                assert isinstance((await ask(requester, ReplayRequest(0, 1000, 99, 0)))[0], Unavailable)
                assert isinstance((await ask(requester, ReplayRequest(7, 1000, 1, 0)))[0], Rejected)
                statistics = running.service.statistics()
                assert statistics.replay_requests_total == 4
                assert statistics.replay_unavailable_total == 2
                assert statistics.replay_frames_total == len(frames)
                assert statistics.ring_bytes > 0

    run(main())


def test_requests_that_are_not_for_an_ingestor() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:1])) as running:
            with Transport() as transport:
                requester = Requester(transport, running.service.endpoints()["requests"])
                record = service_record("x", None, "tcp://127.0.0.1:1")
                strange = (BackfillRequest("DOGE-USD", 1, 2), BackfillRequest("BTC-USD", 2, 1))
                for request in (LookupRequest(), AnnounceRequest(record), *strange):
                    assert isinstance((await ask(requester, request))[0], Rejected)
                assert isinstance((await ask(requester, ResyncRequest(["DOGE-USD"])))[0], Rejected)
                answer = await requester.request(b"\xc1 nonsense", 5.0)
                assert b"rejected" in answer[0]

    run(main())


def test_normalizers_come_move_and_go() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:1])) as running:
            missing = "no normalizer for shard 0 is attached"
            await eventually(lambda: running.service.readiness() == [missing])
            with Transport() as transport:
                first = Normalizer(transport, 0)
                others = [
                    service_record("gateway-0", None, "tcp://127.0.0.1:1", role=Role.GATEWAY),
                    service_record("normalizer-9", 9, "tcp://127.0.0.1:1"),
                    service_record("normalizer-x", 0, "tcp://no such host:1"),
                ]
                running.service.on_peers([*others, first.record(incarnation=5)])
                await running.ready()
                assert running.logged("normalizer has a bad endpoint")
                # A stale record does not take us back, a newer one elsewhere moves us.
                running.service.on_peers([service_record("normalizer-0", 0, "tcp://127.0.0.1:1", incarnation=4)])
                await venue.say(update("BTC-USD", 1))
                await eventually(lambda: first.updates() == [1])
                second = Normalizer(transport, 0)
                running.service.on_peers([second.record(incarnation=6)])
                await eventually(lambda: second.beacons)
                await venue.say(update("BTC-USD", 2))
                await eventually(lambda: second.updates() == [2])
                assert first.updates() == [1]
                # Not listed any more, but it takes what is pushed: kept. Gone as well: left.
                running.service.on_peers([])
                await venue.say(update("BTC-USD", 3))
                await eventually(lambda: second.updates() == [2, 3])
                second.puller.close()
                await eventually(lambda: running.service.readiness() == [missing])
                await eventually(lambda: len(running.logged("normalizer left")) == 2)

    run(main())


def test_a_normalizer_that_starts_again_at_its_old_port_is_found_again() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, PRODUCTS[:1])) as running:
            with Transport() as transport:
                first = Normalizer(transport, 0)
                address = first.puller.endpoint
                running.service.on_peers([first.record(incarnation=1)])
                await running.ready()
                first.puller.close()
                await eventually(lambda: running.service.readiness() == ["no normalizer for shard 0 is attached"])
                second = Normalizer(transport, 0, endpoint=address)
                running.service.on_peers([second.record(incarnation=2)])
                await running.ready()
                await venue.say(update("BTC-USD", 1))
                await eventually(lambda: second.updates() == [1])

    run(main())


def test_beacons_come_without_any_data() -> None:
    async def main() -> None:
        async with ingestor(config("ws://127.0.0.1:1", PRODUCTS, shards=2)) as running:
            with Transport() as transport:
                normalizers = [Normalizer(transport, shard) for shard in range(2)]
                running.service.on_peers([normalizer.record() for normalizer in normalizers])
                await eventually(lambda: all(len(normalizer.beacons) >= 3 for normalizer in normalizers))
                for normalizer in normalizers:
                    assert {(beacon.first_number, beacon.oldest_number) for beacon in normalizer.beacons} == {(1, 1)}
                assert running.service.readiness()[0].startswith("connection 0 to the venue is down: cannot connect")

    run(main())


def test_stop_tells_that_the_link_ends() -> None:
    async def main() -> None:
        with Transport() as transport:
            normalizer = Normalizer(transport, 0)
            async with Venue() as venue:
                async with ingestor(config(venue.url, PRODUCTS[:1])) as running:
                    running.service.on_peers([normalizer.record()])
                    await running.ready()
                    await eventually(lambda: normalizer.beacons)
                await eventually(lambda: not venue.connections)
            await eventually(lambda: ("down", ["BTC-USD"], "the ingestor ends") in normalizer.links())

    run(main())


def test_stop_at_any_moment() -> None:
    async def main() -> None:
        async with Venue() as venue:
            for moment in range(5):
                async with ingestor(config(venue.url, PRODUCTS[:1])):
                    for _ in range(moment * 3):
                        await asyncio.sleep(0)
            service = IngestorService(config(venue.url, PRODUCTS[:1]), context(LogCapture(), []))
            assert service.readiness() == ["not started"]
            assert service.endpoints() == {}
            await service.stop()

    run(main())


def test_a_port_in_use_is_said_in_words() -> None:
    async def main() -> None:
        with Transport() as transport:
            taken = Normalizer(transport, 0).puller.endpoint
            with pytest.raises(PortInUse, match="in use"):
                async with ingestor(config("ws://127.0.0.1:1", PRODUCTS[:1], ingestor={"bind_requests": taken})):
                    pass

    run(main())


def test_products_of_this_ingestor_only() -> None:
    async def main() -> None:
        shards = 4
        mine = PRODUCTS[:1]
        settings = config("ws://x", PRODUCTS, shards=shards, ingestor={"products": mine})
        async with Venue() as venue, ingestor(settings.override({"venue": {"ws_url": venue.url}})) as running:
            shard = shard_of(mine[0], shards)
            await eventually(lambda: running.service.readiness() == [f"no normalizer for shard {shard} is attached"])
            assert [request["product_ids"] for request in venue.subscribes()] == [["BTC-USD"]]

    run(main())


def test_push_sockets_queue_only_towards_who_is_there() -> None:
    async def main() -> None:
        with Transport() as transport:
            pusher = Pusher(transport, "tcp://127.0.0.1:1", hwm=10)
            assert not pusher.push(b"x")

    run(main())
