"""The service over real sockets, with a normalizer whose feed is a model's."""

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from lfmesh.config import Config
from lfmesh.core import encode as texts
from lfmesh.errors import PortInUse
from lfmesh.messages import (
    RetransmitRequest,
    SnapshotRequest,
    StatesReply,
    StatesRequest,
    decode_summary,
)
from lfmesh.observe.metrics import MetricsText
from lfmesh.services.snapshotter import SnapshotterService
from lfmesh.store.embedded import SqliteStateStore, state_path
from lfmesh.transport import Server
from lfmesh.types import Channel, Position, StreamKey
from tests.aio import eventually
from tests.core.model_publisher import ModelStream
from tests.services.snapshotter.mesh import BOOK, STREAMS, TICKER, Mesh, play
from tests.services.snapshotter.world import FakeNormalizer


def test_it_follows_its_shard_and_answers(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        assert await made.snapshot(BOOK) is None, "no data yet"
        made.open_all()
        for key in STREAMS:
            await made.follows(key)
        await eventually(lambda: made.service.readiness() == [])
        reply, frames = await made.ask(StatesRequest(0))
        assert isinstance(reply, StatesReply)
        summaries = [decode_summary(frame) for frame in frames]
        assert {StreamKey(one.product, one.channel) for one in summaries} == set(STREAMS)
        assert {one.term for one in summaries} == {3}

    play(tmp_path, scenario)


def test_a_lost_frame_comes_by_retransmission_also_at_the_tail(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(STREAMS[-1])
        before = made.normalizer.model.streams[BOOK].position
        made.normalizer.publish(BOOK, [5], lost=True)
        made.normalizer.publish(BOOK, [6])
        await made.follows(BOOK)
        made.normalizer.publish(TICKER, [7], lost=True)
        await made.follows(TICKER)
        asked = [one for one in made.normalizer.asked if isinstance(one, RetransmitRequest)]
        assert asked[0] == RetransmitRequest(*BOOK, *before)
        statistics = made.service.statistics()
        assert statistics.recoveries_total == {"retransmit": 2}
        assert statistics.gaps_total == made.service.figures().gaps_total == 2
        assert len(made.supervisor.events("gap opened")) == len(made.supervisor.events("gap closed")) == 2

    play(tmp_path, scenario)


def test_who_comes_late_takes_snapshots(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        made.open_all()
        await made.start()
        for key in STREAMS:
            await made.follows(key)
        assert all(isinstance(one, SnapshotRequest) for one in made.normalizer.asked)
        made.normalizer.publish(BOOK, [9])
        await made.follows(BOOK)

    play(tmp_path, scenario)


def test_a_restarted_normalizer_is_followed_and_its_predecessor_ignored(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(STREAMS[-1])
        old = made.normalizer
        made.normalizer = FakeNormalizer(made.transport, 4, old.model.streams, incarnation=2)
        made.service.on_peers([made.normalizer.record])
        await eventually(lambda: made.normalizer.subscribed)
        for key in STREAMS:
            made.normalizer.open(key)
        made.normalizer.start_beacons()
        for key in STREAMS:
            await made.follows(key)
        assert made.service.statistics().term == 4
        old.close()

    play(tmp_path, scenario)


def test_a_normalizer_that_came_back_at_the_same_address_is_asked_again(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(STREAMS[-1])
        made.normalizer.deaf = True
        made.normalizer.publish(BOOK, [1], lost=True)
        await eventually(lambda: made.normalizer.asked)
        made.normalizer.deaf = False
        newer = msgspec.structs.replace(made.normalizer.record, incarnation=2)
        made.service.on_peers([newer])
        await made.follows(BOOK)
        assert made.service.statistics().recovery_timeouts_total == 1

    play(tmp_path, scenario)


def test_readiness_tells_the_truth(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        assert made.service.readiness() == ["not started"]
        await made.start(attach=False)
        assert made.service.readiness() == ["no normalizer of shard 0 is known"]
        made.normalizer.deaf = True
        made.open_all()
        made.service.on_peers([made.normalizer.record])
        assert made.service.readiness() == ["no beacon from normalizer-0 yet"]
        await eventually(lambda: made.normalizer.subscribed)
        made.normalizer.start_beacons()
        await eventually(lambda: made.service.readiness() == ["6 of 6 streams wait for a snapshot"])
        made.normalizer.deaf = False
        await eventually(lambda: made.service.readiness() == [])
        made.normalizer.stop_beacons()
        await eventually(lambda: made.service.readiness())
        (reason,) = made.service.readiness()
        assert reason.startswith("no beacon from normalizer-0 for ")
        await eventually(lambda: made.supervisor.events("beacons have stopped"))
        made.normalizer.start_beacons()
        await eventually(lambda: made.service.readiness() == [])

    play(tmp_path, scenario)


def test_a_peer_that_is_listed_no_more_is_kept_while_it_is_heard(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(BOOK)
        made.frozen = made.service._intake.feed.heard_at
        assert made.frozen is not None
        made.service.on_peers([])
        made.normalizer.publish(BOOK, [1])
        await made.follows(BOOK)
        assert made.supervisor.events("no longer following") == []
        made.normalizer.close()

        def left_after_another_second() -> list[object]:
            assert made.frozen is not None
            made.frozen += 1_000_000_000
            return made.supervisor.events("no longer following")

        await eventually(left_after_another_second)
        assert made.service.readiness() == ["no normalizer of shard 0 is known"]
        assert await made.snapshot(BOOK) is not None, "what it holds it still serves"

    play(tmp_path, scenario)


def test_a_publisher_below_the_restored_term_is_told(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(BOOK)
        made.normalizer.close()
        await made.restart()
        made.normalizer = FakeNormalizer(made.transport, term=2)
        await made.attach()
        below = ["normalizer-0 publishes under a term below 3, which was seen before: restart it"]
        await eventually(lambda: made.service.readiness() == below)

    play(tmp_path, scenario)


def test_state_survives_a_restart_and_goes_on(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        for key in STREAMS:
            await made.follows(key)
        await made.restart()
        for key in STREAMS:
            stream = made.normalizer.model.streams[key]
            assert await made.snapshot(key) == (stream.position, stream.state(key.channel)), "served before any peer"
        made.normalizer.asked.clear()
        for key in STREAMS:
            made.normalizer.publish(key, [3], lost=True)
        await made.attach()
        for key in STREAMS:
            await made.follows(key)
        assert all(isinstance(one, RetransmitRequest) for one in made.normalizer.asked), "the beacon told what to ask"
        assert made.service.statistics().snapshots_received_total == 0

    play(tmp_path, scenario)


def test_writes_happen_while_it_runs(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await eventually(lambda: made.service.statistics().store_states_written_total >= len(STREAMS))
        await eventually(lambda: made.service.statistics().store_unwritten == 0)
        statistics = made.service.statistics()
        assert statistics.store_writes_total >= 2, "books have moments of their own"
        assert statistics.store_bytes_written_total > 0
        assert statistics.store_up

    play(tmp_path, scenario)
    store = SqliteStateStore(state_path(tmp_path, 0), 0)
    assert {one.stream for one in store.load()} == set(STREAMS)
    store.close()


def test_without_a_usable_store_it_serves_says_so_and_mends_itself(tmp_path: Path) -> None:
    path = state_path(tmp_path, 0)
    path.write_bytes(b"this is no database" * 1000)

    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(BOOK)
        reason = made.service.readiness()[-1]
        assert reason.startswith("state store: ")
        assert "move it away" in reason
        assert not made.service.statistics().store_up
        path.rename(tmp_path / "aside")
        await eventually(lambda: made.service.readiness() == [])
        await eventually(lambda: made.service.statistics().store_states_written_total >= len(STREAMS))

    play(tmp_path, scenario)


def test_states_of_products_that_are_not_configured_are_left_alone(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.normalizer.open(StreamKey("OLD-USD", Channel.TICKER))
        await made.follows(StreamKey("OLD-USD", Channel.TICKER))
        await made.restart()
        assert await made.snapshot(StreamKey("OLD-USD", Channel.TICKER)) is None

    play(tmp_path, scenario)


def test_a_big_book_is_answered_in_parts(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        stream = made.normalizer.model.known[BOOK] = ModelStream(Position(1, 0))
        for number in range(25_000):
            px, qty = f"{30_000 + number}.25", f"{number}.00000001"
            stream.asks[Decimal(px)] = (px, qty)
            stream.bids[Decimal(number + 1)] = (str(number + 1), qty)
        made.normalizer.open(BOOK)
        await made.follows(BOOK)
        _, parts = await made.ask(SnapshotRequest(*BOOK))
        assert len(parts) > 4
        assert max(map(len, parts)) <= texts.PART_BYTES

    play(tmp_path, scenario)


def test_many_gaps_at_once_are_one_line(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(STREAMS[-1])
        made.normalizer.stop_beacons()
        for key in STREAMS:
            made.normalizer.publish(key, [1], lost=True)
        made.normalizer.beacon()
        for key in STREAMS:
            await made.follows(key)
        (opened,) = made.supervisor.events("gap opened")
        assert opened["streams"] == len(STREAMS)

    play(tmp_path, scenario)


def test_addresses_that_are_none_and_peers_of_others_are_passed_over(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start(attach=False)
        record = made.normalizer.record
        replace = msgspec.structs.replace
        made.service.on_peers(
            [
                replace(record, instance="a", shard=1),
                replace(record, instance="b", endpoints={}),
                replace(record, instance="c", endpoints={**record.endpoints, "market_data": "nowhere"}),
                replace(record, instance="d", endpoints={**record.endpoints, "requests": "nowhere"}),
            ]
        )
        assert made.service.readiness() == ["no normalizer of shard 0 is known"]
        assert len(made.supervisor.events("a normalizer's address cannot be used")) == 2
        await made.attach()

    play(tmp_path, scenario)


def test_a_port_in_use_is_told_and_the_store_is_released(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        holder = Server(made.transport, "tcp://127.0.0.1:0", lambda *_: None)
        config = Config().override({"mesh": {"data_dir": tmp_path}, "snapshotter": {"bind_requests": holder.endpoint}})
        service = SnapshotterService(config, made.supervisor.context(), 0)
        with pytest.raises(PortInUse):
            await service.start()
        await service.stop()
        await service.stop()
        SqliteStateStore(state_path(tmp_path, 0), 0).close()

    play(tmp_path, scenario)


def test_stopping_what_was_never_started(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.service.stop()

    play(tmp_path, scenario)


def test_its_figures_become_metrics(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(BOOK)
        text = MetricsText(made.service).render().decode()
        for name in ("state_updates_total", "snapshots_created_total", "store_write_ms", "requests_total"):
            assert f"\nlfmesh_snapshotter_{name}{{" in text

    play(tmp_path, scenario)
