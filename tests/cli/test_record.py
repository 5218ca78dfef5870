"""`lfmesh record` against the simulator: what it writes, and that it plays."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from lfmesh.cli.record import Recorder, TapeFile
from lfmesh.cli.root import cli
from lfmesh.config import Config, LogSection
from lfmesh.errors import LfmeshError
from lfmesh.observe.log import logger
from loadgen import tape
from loadgen.sim import Fault, SimConfig, Simulator, serve
from tests.aio import eventually, run
from tests.loadgen.sim.kit import client

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


def config(ws_url: str, **venue: Any) -> Config:  # noqa: ANN401
    return Config().override(
        {"mesh": {"products": PRODUCTS}, "venue": {"ws_url": ws_url, "products_per_connection": 2, **venue}}
    )


def market(**changes: Any) -> SimConfig:  # noqa: ANN401
    return SimConfig(
        port=0, products=PRODUCTS, rate_msgs_s=2000, count=600, start_paused=True, book_levels=20, **changes
    )


@asynccontextmanager
async def recording(config: Config, path: Path) -> AsyncIterator[Recorder]:
    """A recorder at work; it ends in order with the block."""
    stop = asyncio.Event()
    file = TapeFile(path, force=False)
    try:
        recorder = Recorder(config, file, logger(LogSection(level="error")))
        async with asyncio.TaskGroup() as group:
            group.create_task(recorder.run(stop))
            try:
                yield recorder
            finally:
                stop.set()
    finally:
        file.close()


def listened_to(simulator: Simulator) -> bool:
    subscribed = simulator.status()["subscribed"]
    assert isinstance(subscribed, dict)
    return all(len(subscribed[channel]) == len(PRODUCTS) for channel in ("ticker", "matches", "level2_batch"))


def kinds(path: Path) -> list[str]:
    return [str(json.loads(frame).get("type")) for _, frame in tape.read(path)]


def test_what_the_command_records_plays_as_the_session_was(tmp_path: Path) -> None:
    path = tmp_path / "session.tape"

    async def record_session() -> dict[str, Any]:
        async with serve(market()) as simulator:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "lfmesh.cli", "record", "--out", str(path), "--products", ",".join(PRODUCTS),
                env={
                    "LFMESH_VENUE__WS_URL": simulator.ws_url,
                    "LFMESH_VENUE__PRODUCTS_PER_CONNECTION": "2",
                },
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await eventually(lambda: listened_to(simulator))
            simulator.start()
            await simulator.wait_finished()
            simulator.pause()  # sends batched book changes
            truths = {product: simulator.truth(product) for product in PRODUCTS}
            wanted = sum(truth.trades for truth in truths.values())
            await eventually(lambda: path.exists() and path.read_bytes().count(b'"type":"match"') == wanted)
            process.send_signal(signal.SIGTERM)
            out, err = await process.communicate()
            assert process.returncode == 0, err
            assert out.decode().startswith(f"{path}: {len(list(tape.read(path))):,} frames of 3 products in ")
            assert "lost" not in out.decode()
            assert err.decode().count("venue subscribed") == 2
            return truths

    async def play() -> None:
        async with (
            serve(SimConfig(port=0, tape=path, tape_speed="max", tape_start="control")) as simulator,
            client(simulator.ws_url) as listener,
        ):
            await listener.ask(product_ids=list(PRODUCTS), channels=["level2", "matches", "ticker"])
            await listener.until("subscriptions")
            simulator.start()
            await simulator.wait_finished()
            await listener.catch_up()
            for product, truth in truths.items():
                assert listener.follower.bids(product) == [list(level) for level in truth.bids]
                assert listener.follower.asks(product) == [list(level) for level in truth.asks]
                assert listener.follower.trades_hash(product) == truth.trades_hash

    truths = run(record_session())
    assert tape.products(path)
    assert all(earlier <= later for (earlier, _), (later, _) in pairwise(tape.read(path)))
    assert kinds(path).count("subscriptions") == 2
    run(play())


def test_a_lost_connection_is_made_again_and_the_tape_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "cut.tape"

    async def session() -> str:
        async with serve(market()) as simulator, recording(config(simulator.ws_url), path) as recorder:
            await eventually(lambda: listened_to(simulator))
            simulator.begin_fault(Fault.parse("drop"))
            await eventually(lambda: simulator.status()["connections_total"] == 4 and listened_to(simulator))
            await eventually(lambda: path.read_bytes().count(b'"type":"snapshot"') == 2 * len(PRODUCTS))
        return recorder.summary()

    assert run(session()).endswith("; connections lost: 2")
    assert kinds(path).count("snapshot") == 2 * len(PRODUCTS)


def test_odd_frames_are_kept_once_and_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.tape"
    frames = [
        '{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["BTC-USD","ETH-USD"]}]}',
        '{\n"type": "ticker",\n"product_id": "BTC-USD"}',
        '{"type":"tick\ner"}',
        "",
        "neither json nor a product",
        '{"type":"ticker","product_id":"DOGE-USD"}',
        '{"type":"ticker","product_id":"ETH-USD"}',
    ]

    async def venue(connection: ServerConnection) -> None:
        await connection.recv()
        for frame in frames:
            await connection.send(frame)
        await connection.wait_closed()

    async def session() -> Recorder:
        async with serve_websocket(venue, "127.0.0.1", 0, close_timeout=0.1) as server:
            port = server.sockets[0].getsockname()[1]
            changed = config(f"ws://127.0.0.1:{port}", channels=("ticker",), products_per_connection=3)
            async with recording(changed, path) as recorder:
                await eventually(lambda: recorder.frames == 6)
        return recorder

    recorder = run(session())
    assert [frame for _, frame in tape.read(path)] == [frame.replace("\n", "\r").encode() for frame in frames if frame]
    assert "empty frames left out: 1" in recorder.summary()
    assert "SOL-USD" in recorder.summary()


def test_a_venue_that_cannot_be_reached_leaves_no_file_and_an_old_one_as_it_was(tmp_path: Path) -> None:
    old, new = tmp_path / "old.tape", tmp_path / "new.tape"
    old.write_bytes(b"1\t{}\n")
    environment = {"LFMESH_VENUE__WS_URL": "ws://127.0.0.1:1", "LFMESH_LOG__LEVEL": "error"}
    for path, more in ((old, ["--force"]), (new, [])):
        done = CliRunner().invoke(
            cli, ["record", "--out", str(path), "--duration", "0.1", *more], env=environment, standalone_mode=False
        )
        assert isinstance(done.exception, LfmeshError)
        assert str(done.exception).startswith("nothing was recorded: connection 0 to the venue is down: cannot connect")
    assert old.read_bytes() == b"1\t{}\n"
    assert not new.exists()


def test_an_existing_file_is_kept_but_with_force(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    path.write_bytes(b"1\t{}\n2\t{}\n")
    with pytest.raises(LfmeshError, match="--force overwrites it"):
        TapeFile(path, force=False)
    with pytest.raises(LfmeshError, match="cannot be written: No such file"):
        TapeFile(tmp_path / "no" / "folder.tape", force=False)
    with pytest.raises(LfmeshError, match="cannot be written: Is a directory"):
        TapeFile(tmp_path, force=True)
    file = TapeFile(path, force=True)
    file.add(b"3\t{}\n")
    file.flush()
    file.close()
    assert path.read_bytes() == b"3\t{}\n"


def test_a_full_disk_ends_it_with_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from lfmesh.cli.record import TapeFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (25, 25))\n"
        "file = TapeFile(Path(sys.argv[1]), force=False)\n"
        "file.add(b'1\\t0123456789\\n'); file.flush()\n"
        "file.add(b'2\\t0123456789\\n'); file.add(b'3\\t0123456789\\n')\n"
        "try: file.flush()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )

    async def limited() -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(path), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode()

    assert run(limited()) == f"LfmeshError {path} cannot be written: File too large\n"
    assert list(tape.read(path)) == [(1, b"0123456789")]


def test_a_channel_that_the_venue_does_not_have_is_refused() -> None:
    done = CliRunner().invoke(cli, ["record", "--out", "x", "--channels", "ticker,candles"])
    assert done.exit_code == 2
    assert "'candles' is no channel of the venue's: heartbeat, ticker" in done.output
