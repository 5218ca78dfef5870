"""The service in a process of its own, ended under load."""

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

from lfmesh.archive import places
from lfmesh.archive.reader import Archive
from lfmesh.config import Config
from lfmesh.core import encode as texts
from lfmesh.ports import StoredState
from lfmesh.store.embedded import SqliteStateStore, state_path
from lfmesh.store.folder import FolderObjectStore
from lfmesh.transport import Requester
from lfmesh.types import Channel, Position, StreamKey
from tests.aio import eventually
from tests.services.snapshotter.mesh import PRODUCTS, STREAMS, TICKER, Mesh, play

CHILD = """
import sys
from lfmesh.config import Config
from lfmesh.services.runtime import run_service
from lfmesh.services.snapshotter import SnapshotterService
from lfmesh.types import Role

config = Config.model_validate_json(sys.argv[1])
sys.exit(run_service(lambda config, context: SnapshotterService(config, context, 0), config, Role.SNAPSHOTTER, 0))
"""


@asynccontextmanager
async def child_of(
    made: Mesh, archive: Mapping[str, float] | None = None, *, opens: bool = True
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service in a process of its own, attached to the normalizer; `made.asker` asks it."""
    subscribed = made.normalizer.subscribed
    source, requests = made.normalizer, f"ipc://{made.folder}/requests"
    endpoints = {name: source.record.endpoints[name] for name in ("market_data", "requests")}
    peer = {"role": "normalizer", "instance": "normalizer-0", "shard": 0, "endpoints": endpoints}
    config = Config().override(
        {
            "mesh": {"products": PRODUCTS, "shards": 1, "data_dir": made.folder},
            "snapshotter": {"bind_requests": requests, "write_interval_ms": 10, "book_write_interval_s": 1000.0},
            "archive": dict(archive or {}),
            "registry": {"static_peers": [peer]},
            "log": {"level": "error"},
        }
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, config.model_dump_json(), cwd=Path(__file__).parents[3]
    )
    try:
        made.asker = Requester(made.transport, requests)
        await eventually(lambda: source.subscribed > subscribed)
        if opens:
            made.open_all()
            source.start_beacons()
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def load(made: Mesh, turns: int) -> None:
    for turn in range(turns):
        for key in STREAMS:
            made.normalizer.publish(key, [turn, turn + 1])
        await asyncio.sleep(0)


def stored(folder: Path) -> dict[StreamKey, StoredState]:
    store = SqliteStateStore(state_path(folder, 0), 0)
    found = {one.stream: one for one in store.load()}
    store.close()
    return found


def rows(folder: Path) -> int:
    """How many states are stored, read beside the process that writes them."""
    with closing(sqlite3.connect(f"file:{state_path(folder, 0)}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM states").fetchone()[0])


def test_a_process_that_is_told_to_end_has_written_everything(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        async with child_of(made) as child:
            await load(made, 300)
            for key in STREAMS:
                await made.follows(key)
            child.send_signal(signal.SIGTERM)
            assert await child.wait() == 0
        found = stored(tmp_path)
        for key, stream in made.normalizer.model.streams.items():
            assert found[key].position == stream.position
            assert found[key].state.decode() == stream.state(key.channel)

    play(tmp_path, scenario)


def test_a_process_that_is_killed_leaves_a_store_that_was_true_a_moment_ago(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        async with child_of(made) as child:
            await eventually(lambda: rows(tmp_path))
            await load(made, 300)
            child.kill()
            await child.wait()
        found = stored(tmp_path)
        assert TICKER in found
        for key in (TICKER, StreamKey("ETH-USD", Channel.TICKER)):
            if key in found and found[key].position.seq:
                message = made.normalizer.model.history[key, found[key].position]
                assert found[key].state == texts.fields_of(message)

    play(tmp_path, scenario)


def test_a_process_killed_again_and_again_archives_every_message_once(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        archive = {"segment_max_age_s": 1.0, "snapshot_interval_s": 1.0, "flush_interval_s": 0.02}
        for life in range(3):
            async with child_of(made, archive, opens=not life) as child:
                for _ in range(25):
                    await load(made, 6)
                    await asyncio.sleep(0.002)
                if life < 2:
                    child.kill()
                else:
                    for key in STREAMS:
                        await made.follows(key)
                    child.send_signal(signal.SIGTERM)
                await child.wait()
        objects = FolderObjectStore(places.objects_folder(tmp_path))
        for key in STREAMS:
            lines = [line for line in Archive(objects, "coinbase").lines(key) if not line.snapshot or line.seq]
            history = made.normalizer.model.history
            published = sorted(position for stream, position in history if stream == key)
            assert [Position(line.epoch, line.seq) for line in lines] == published
            assert [line.message for line in lines] == [history[key, position] for position in published]
            names = Archive(objects, "coinbase").segments(key)
            assert sum(name.last_seq - max(0, name.first_seq - 1) for name in names) == len(published), "none twice"

    play(tmp_path, scenario)
