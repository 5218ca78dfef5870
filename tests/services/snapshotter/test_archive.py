"""What is published is archived, whatever happens to the process, its disk and its stores."""

import asyncio
import random
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from lfmesh.archive import places
from lfmesh.archive.journal import Journal, chunk_numbers, chunk_path
from lfmesh.archive.reader import Archive
from lfmesh.archive.segments import Line
from lfmesh.archive.spool import Spool
from lfmesh.core.archive import SNAPSHOTS, TAPE, SegmentName, checksum, parse_segment
from lfmesh.errors import StoreMisconfigured, StoreUnavailable
from lfmesh.ports import ObjectStore
from lfmesh.services.snapshotter import SnapshotterService
from lfmesh.store.embedded import state_path
from lfmesh.store.folder import FolderObjectStore
from lfmesh.types import Channel, Position, StreamKey
from tests.aio import eventually
from tests.services.snapshotter.mesh import BOOK, STREAMS, TICKER, Mesh, play
from tests.services.snapshotter.objects import FakeObjects
from tests.services.snapshotter.test_keeper import FakeStore

TRADES = StreamKey("BTC-USD", Channel.TRADES)


def archive_of(folder: Path, objects: ObjectStore | None = None) -> Archive:
    store = objects or FolderObjectStore(places.objects_folder(folder))
    local = [*places.journal_folders(folder), *places.spool_folders(folder)]
    return Archive(store, "coinbase", local)


def assert_whole(made: Mesh, archive: Archive, streams: Iterable[StreamKey] = STREAMS) -> None:
    """Every message that was ever published is archived once, in order, byte for byte."""
    for key in streams:
        lines = [line for line in archive.lines(key) if not line.snapshot]
        published = {
            position: message for (stream, position), message in made.normalizer.model.history.items() if stream == key
        }
        assert [Position(line.epoch, line.seq) for line in lines] == sorted(published)
        assert [line.message for line in lines] == [published[at] for at in sorted(published)]


async def load(made: Mesh, turns: int) -> None:
    for turn in range(turns):
        for key in STREAMS:
            made.normalizer.publish(key, [turn, turn + 1])
        if turn % 20 == 0:
            await asyncio.sleep(0)
    for key in STREAMS:
        await made.follows(key)
    await made.service._flush()


def holes(lines: Iterable[Line]) -> list[Position]:
    """Where a snapshot took the place of what is missing."""
    return [Position(line.epoch, line.seq) for line in lines if line.snapshot and line.seq]


def test_everything_is_archived_and_uploaded_at_the_end(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 50)
        await eventually(lambda: made.service.readiness() == [])
        assert_whole(made, archive_of(tmp_path))
        await made.service.stop()
        assert_whole(made, archive_of(tmp_path))
        shutil.rmtree(tmp_path / "journal")
        shutil.rmtree(tmp_path / "spool")
        archive = archive_of(tmp_path)
        assert_whole(made, archive)
        for key in STREAMS:
            assert holes(archive.lines(key)) == []
            stream = made.normalizer.model.streams[key]
            found = archive.state_at(key, 1 << 62)
            assert found is not None
            assert found.position == stream.position
            assert b"".join(found.parts).decode() == stream.state(key.channel)

    play(tmp_path, scenario)


def test_segments_are_cut_by_the_clock_and_uploaded_while_it_runs(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 5)
        await eventually(lambda: (made.service.statistics().segments_cut_total or 0) >= len(STREAMS))
        await eventually(lambda: made.service.statistics().spool_objects == 0)
        statistics = made.service.statistics()
        assert (statistics.checkpoints_total or 0) >= 1
        assert (statistics.uploads_total or 0) > len(STREAMS)
        assert statistics.last_upload_age_s is not None
        assert statistics.object_store_up
        assert statistics.primary
        made.normalizer.publish(BOOK, [1])
        await made.follows(BOOK)
        await made.service._flush()
        assert_whole(made, archive_of(tmp_path))

    play(tmp_path, scenario, {"segment_max_age_s": 1.0})


def test_it_goes_on_where_the_journal_ends_without_the_state_store(tmp_path: Path) -> None:
    """The state store is lost; of the checkpoint and the journal nothing is."""

    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 10)
        await eventually(lambda: made.service.statistics().checkpoints_total)
        await load(made, 10)
        await made.crash()
        state_path(tmp_path, 0).unlink()
        for key in STREAMS:
            made.normalizer.publish(key, [7, 8])
        await made.start_again()
        for key in STREAMS:
            await made.follows(key)
        assert made.service.statistics().recoveries_total.get("snapshot", 0) == 0, "the ring had the rest"
        await load(made, 5)
        archive = archive_of(tmp_path)
        assert_whole(made, archive)
        assert [holes(archive.lines(key)) for key in STREAMS] == [[]] * len(STREAMS)

    play(tmp_path, scenario, {"snapshot_interval_s": 1.0})


def test_a_restart_serves_what_the_journal_held_before_any_peer_is_there(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 10)
        await made.crash()
        state_path(tmp_path, 0).unlink()
        await made.start_again(attach=False)
        for key in STREAMS:
            stream = made.normalizer.model.streams[key]
            assert await made.snapshot(key) == (stream.position, stream.state(key.channel))
        await eventually(lambda: made.service.statistics().store_unwritten == 0)

    play(tmp_path, scenario)


def test_a_lost_journal_is_an_honest_hole(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 5)
        await eventually(lambda: made.service.statistics().store_unwritten == 0)
        at = {key: made.normalizer.model.streams[key].position for key in STREAMS}
        await made.crash()
        shutil.rmtree(tmp_path / "journal")
        await made.start_again()
        await load(made, 5)
        archive = archive_of(tmp_path)
        for key in STREAMS:
            lines = list(archive.lines(key))
            assert holes(lines) == [at[key]]
            assert [line.seq for line in lines] == list(range(at[key].seq, at[key].seq + 11))
        assert made.supervisor.events("the archive does not reach to where these streams are: it has a hole")

    play(tmp_path, scenario)


def test_what_only_a_snapshot_could_heal_is_a_hole(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 3)
        before = made.normalizer.model.streams[BOOK].position
        made.normalizer.publish(BOOK, [1, 2, 3], lost=True)
        made.normalizer.model.forget(BOOK)
        await made.follows(BOOK)
        await load(made, 3)
        lines = list(archive_of(tmp_path).lines(BOOK))
        assert holes(lines) == [Position(before.epoch, before.seq + 3)]
        assert Position(before.epoch, before.seq + 1) not in [(line.epoch, line.seq) for line in lines]

    play(tmp_path, scenario)


def test_a_damaged_journal_and_checkpoint_cost_only_what_is_damaged(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 30)
        await eventually(lambda: made.service.statistics().checkpoints_total)
        await load(made, 30)
        await made.crash()
        journal = places.journal_folder(tmp_path, "snapshotter-0")
        path = chunk_path(journal, max(chunk_numbers(journal)))
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 0xFF
        path.write_bytes(body)
        (checkpoint,) = places.checkpoint_folder(tmp_path, "snapshotter-0").glob("*.zst")
        checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
        await made.start_again()
        await load(made, 3)
        assert made.supervisor.events("the last checkpoint can't be read; going on without it")
        assert made.supervisor.events("the journal can't be read to its end; what it is about is taken anew")
        await made.service.stop()
        assert made.supervisor.events("the journal was damaged: frames are missing in the archive")
        found = sum(not line.snapshot for key in STREAMS for line in archive_of(tmp_path).lines(key))
        assert found >= len(STREAMS) * 2 * 63 - 4

    play(tmp_path, scenario, {"snapshot_interval_s": 1.0})


def test_an_object_store_that_is_down_is_said_and_everything_waits_for_it(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        objects = FakeObjects()
        made.open_archive = lambda: objects
        objects.fault = StoreUnavailable("connection refused")
        made.service = made.new_service()
        await made.start()
        made.open_all()
        await load(made, 5)
        reasons = ["object store: connection refused"]
        await eventually(lambda: made.service.readiness() == reasons)
        await eventually(lambda: (made.service.statistics().segments_cut_total or 0) >= len(STREAMS))
        statistics = made.service.statistics()
        assert not statistics.object_store_up
        assert (statistics.spool_objects or 0) >= len(STREAMS)
        assert (statistics.spool_bytes or 0) > 0
        assert (statistics.upload_errors_total or 0) > 0
        assert objects.data == {}
        objects.fault = None
        await eventually(lambda: made.service.readiness() == [])
        await eventually(lambda: made.service.statistics().spool_objects == 0)
        times = [name.last_ts for key in objects.order if (name := parse_segment(key)) is not None][: len(STREAMS)]
        assert times == sorted(times)
        assert_whole(made, archive_of(tmp_path, objects))
        assert made.supervisor.events("the object store can be used again")

    play(tmp_path, scenario, {"segment_max_age_s": 1.0})


def test_a_misconfigured_object_store_is_told_at_the_start(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        objects = FakeObjects()
        objects.fault = StoreMisconfigured("no such bucket: make it with `lfmesh store init`")
        made.open_archive = lambda: objects
        made.service = made.new_service()
        with pytest.raises(StoreMisconfigured, match="no such bucket"):
            await made.service.start()
        await made.service.stop()
        assert objects.closed

    play(tmp_path, scenario)


def test_of_a_pair_on_one_store_the_first_uploads_and_the_other_takes_over(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        objects = FakeObjects()
        made.open_archive = lambda: objects
        first, second = made.new_service("snapshotter-0"), made.new_service("snapshotter-0-b")
        made.service = first
        await first.start()
        await second.start()
        records = [made.record_of(first), made.record_of(second)]
        subscribed = made.normalizer.subscribed
        for service in (first, second):
            service.on_peers([made.normalizer.record, *records])
        await eventually(lambda: made.normalizer.subscribed >= subscribed + 2)
        made.normalizer.start_beacons()
        made.open_all()
        made.normalizer.publish(BOOK, [1, 2])
        for service in (first, second):
            await eventually(partial(follows_book, made, service))
        assert (first.statistics().primary, second.statistics().primary) == (True, False)
        await eventually(lambda: (second.statistics().segments_cut_total or 0) >= len(STREAMS))
        await eventually(lambda: len([key for key in objects.order if key.startswith(TAPE)]) >= len(STREAMS))
        assert second.statistics().uploads_total == 0
        await first.stop()
        second.on_peers([made.normalizer.record, records[1]])
        made.normalizer.publish(BOOK, [3, 4])
        await eventually(lambda: follows_book(made, second))
        made.ahead_ns += 6_000_000_000
        await eventually(lambda: second.statistics().primary)
        await eventually(lambda: any(key.startswith(SNAPSHOTS) for key in objects.order[-1:]))
        await second.stop()
        assert (second.statistics().uploads_total or 0) > 0
        held = [name for key in objects.data if (name := parse_segment(key)) is not None and name.stream == BOOK]
        numbers = [seq for name in held for seq in range(name.first_seq, name.last_seq + 1)]
        assert sorted(numbers) == list(range(5 + 2)), "each number was stored once"
        assert_whole(made, archive_of(tmp_path / "nowhere", objects))

    play(tmp_path, scenario, {"segment_max_age_s": 1.0, "snapshot_interval_s": 1.0})


def follows_book(made: Mesh, service: SnapshotterService) -> bool:
    state = service._intake.state.get(BOOK)
    return state is not None and state.position == made.normalizer.model.streams[BOOK].position


def test_without_an_archive_nothing_of_it_is_there(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(TICKER)
        statistics = made.service.statistics()
        assert statistics.journal_bytes is None
        assert statistics.object_store_up is None
        await made.service.stop()

    play(tmp_path, scenario, {"enabled": False})
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_folder_that_another_process_has_is_said_and_taken_when_it_is_free(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        holder = Journal(places.journal_folder(tmp_path, "snapshotter-0"))
        await made.start()
        made.open_all()
        await made.follows(BOOK)
        (reason,) = made.service.readiness()
        assert reason.startswith("archive: ")
        assert "is in use by another process" in reason
        assert made.service.statistics().journal_bytes is None
        made.normalizer.publish(BOOK, [1])
        await made.follows(BOOK)
        holder.close()
        made.ahead_ns += 6_000_000_000
        await eventually(lambda: made.service.readiness() == [])
        at = made.normalizer.model.streams[BOOK].position
        made.normalizer.publish(BOOK, [2, 3])
        await made.follows(BOOK)
        await made.service._flush()
        lines = list(archive_of(tmp_path).lines(BOOK))
        assert holes(lines) == [at]
        assert [line.seq for line in lines] == [at.seq, at.seq + 1, at.seq + 2]

    play(tmp_path, scenario)


def test_a_full_spool_drops_the_oldest_tape_and_counts_it(tmp_path: Path) -> None:
    body = random.Random(1).randbytes(1024 * 1024 - 100)
    oldest = SegmentName("coinbase", BOOK, 1, 2, 3, 4, 5, Position(0, 0), 2, checksum(body))
    spool = Spool(places.spool_folder(tmp_path, "snapshotter-0"))
    spool.put(oldest.key, body)
    spool.close()

    async def scenario(made: Mesh) -> None:
        objects = FakeObjects()
        objects.fault = StoreUnavailable("connection refused")
        made.open_archive = lambda: objects
        made.service = made.new_service()
        await made.start()
        made.open_all()
        await load(made, 3)
        await eventually(lambda: made.service.statistics().dropped_tape_objects_total)
        statistics = made.service.statistics()
        assert statistics.dropped_tape_bytes_total == len(body)
        assert 0 < (statistics.spool_bytes or 0) <= 1024 * 1024
        objects.fault = None
        await eventually(lambda: made.service.statistics().spool_objects == 0)
        assert oldest.key not in objects.data
        assert any(key.startswith(SNAPSHOTS) for key in objects.order)
        assert_whole(made, archive_of(tmp_path, objects))

    play(tmp_path, scenario, {"segment_max_age_s": 1.0, "spool_max_bytes": 1024 * 1024})


def test_of_a_pair_on_one_state_store_the_first_writes(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        stores = {name: FakeStore() for name in ("snapshotter-0", "snapshotter-0-b")}
        services = []
        for name, store in stores.items():
            config = made.config(name).override({"store": {"state": "dynamodb"}})
            services.append(SnapshotterService(config, made.supervisor.context(made.clock), 0, store.open))
        first, second = services
        made.service = first
        for service in services:
            await service.start()
        records = [made.record_of(service) for service in services]
        subscribed = made.normalizer.subscribed
        for service in services:
            service.on_peers([made.normalizer.record, *records])
        await eventually(lambda: made.normalizer.subscribed >= subscribed + 2)
        made.normalizer.start_beacons()
        made.open_all()
        for service in services:
            await eventually(partial(follows_book, made, service))
        await eventually(lambda: len(stores["snapshotter-0"].data) == len(STREAMS))
        assert stores["snapshotter-0-b"].data == {}
        second.on_peers([made.normalizer.record, records[1]])
        made.ahead_ns += 6_000_000_000
        await eventually(lambda: len(stores["snapshotter-0-b"].data) == len(STREAMS))
        await second.stop()

    play(tmp_path, scenario)
