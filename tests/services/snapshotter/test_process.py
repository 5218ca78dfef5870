"""The service in a process of its own, ended under load."""

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from lfmesh.config import Config
from lfmesh.core import encode as texts
from lfmesh.ports import StoredState
from lfmesh.store.embedded import SqliteStateStore, state_path
from lfmesh.transport import Requester
from lfmesh.types import Channel, StreamKey
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
async def child_of(made: Mesh) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service in a process of its own, attached to the normalizer; `made.asker` asks it."""
    source, requests = made.normalizer, f"ipc://{made.folder}/requests"
    endpoints = {name: source.record.endpoints[name] for name in ("market_data", "requests")}
    peer = {"role": "normalizer", "instance": "normalizer-0", "shard": 0, "endpoints": endpoints}
    config = Config().override(
        {
            "mesh": {"products": PRODUCTS, "shards": 1, "data_dir": made.folder},
            "snapshotter": {"bind_requests": requests, "write_interval_ms": 10, "book_write_interval_s": 1000.0},
            "registry": {"static_peers": [peer]},
            "log": {"level": "error"},
        }
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, config.model_dump_json(), cwd=Path(__file__).parents[3]
    )
    try:
        made.asker = Requester(made.transport, requests)
        await eventually(lambda: source.subscribed)
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
