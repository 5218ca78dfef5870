"""`lfmesh replay --serve`: what is played, in which private mesh, and the command itself over a real archive."""

import asyncio
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lfmesh.archive.history import Told
from lfmesh.archive.journal import Entry
from lfmesh.archive.reader import Archive
from lfmesh.cli.serve_replay import ReplayOptions, make_tape, private
from lfmesh.client import connect
from lfmesh.config import Config
from lfmesh.core.codec import Flags, Header
from lfmesh.errors import LfmeshError
from lfmesh.types import CHANNELS, NO_INPUT, Channel, Role, StreamKey
from loadgen.client.checker import Checker
from loadgen.client.tap import CheckerTap
from tests.aio import eventually, run
from tests.archive.shelf import Shelf, journal
from tests.services.player.kit import START, STEP, Recording


def entries(lines: Sequence[Told]) -> list[Entry]:
    """The frames in which these lines were published."""
    found: list[Entry] = []
    for stream, line in lines:
        if line.part > 1:
            found[-1].messages.append(line.message)
            continue
        flags = int(Flags.SNAPSHOT) if line.snapshot else 0
        head = Header(flags, 7, 1, NO_INPUT, line.epoch, line.seq, 0, 0, line.time, line.time + 1000)
        found.append(Entry(stream, head, [line.message]))
    return found


@pytest.fixture(name="recording", scope="module")
def recording_fixture() -> Recording:
    return Recording(products=2, rounds=100)


def archive(recording: Recording, data_dir: Path) -> Archive:
    return Archive(Shelf(), "coinbase", [journal(data_dir, entries(recording.lines))])


def test_what_is_played(recording: Recording, tmp_path: Path) -> None:
    with archive(recording, tmp_path) as kept:
        whole = make_tape(kept, ReplayOptions())
        assert list(whole.streams) == recording.streams
        assert (whole.start, whole.end) == (START, recording.end)
        part = make_tape(
            kept,
            ReplayOptions(
                products=("P1-USD",),
                channels=(Channel.BOOK, Channel.TICKER),
                start_ts=START + 10 * STEP,
                end_ts=START + 20 * STEP,
            ),
        )
        assert set(part.streams) == {StreamKey("P1-USD", Channel.BOOK), StreamKey("P1-USD", Channel.TICKER)}
        assert (part.start, part.end) == (START + 10 * STEP, START + 20 * STEP)
        lines = [told.line for told in part.lines(part.start, {})]
        assert [line.time for line in lines] == [START + number // 2 * STEP for number in range(20, 42)]
        states = [part.state(stream, part.start) for stream in part.streams]
        assert [state and state.position.seq for state in states] == [10, 10]


def test_a_stream_without_an_event_holds_from_the_beginning_to_the_end(recording: Recording, tmp_path: Path) -> None:
    """All that is known of it is what it began with, at a time of ours: years after a recorded session."""
    key = StreamKey("P0-USD", Channel.TRADES)
    years_later = START + 10**17
    lines = [
        told._replace(line=told.line._replace(time=years_later)) if told.stream == key else told
        for told in recording.lines
        if told.stream != key or told.line.snapshot
    ]
    with Archive(Shelf(), "coinbase", [journal(tmp_path, entries(lines))]) as kept:
        tape = make_tape(kept, ReplayOptions())
        assert (tape.start, tape.end) == (START, recording.end)
        played = [told for told in tape.lines(START, {}) if told.stream == key]
        assert [told.line for told in played] == [
            told.line._replace(time=START) for told in recording.lines if told.stream == key and told.line.snapshot
        ]
        assert tape.state(key, START - 1) is None
        for at in (START, START + 50 * STEP):
            state = tape.state(key, at)
            assert state is not None
            assert (state.position.seq, state.time) == (0, START)
            assert key not in {told.stream for told in tape.lines(at + 1, {key: state.position})}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (ReplayOptions(products=("P1-USD", "BTC-USD")), "the archive has nothing of BTC-USD; it has P0-USD, P1-USD"),
        (ReplayOptions(start_ts=START + 10**15), "nothing to replay: the archive is from 2021-04-17T16:30:00"),
        (ReplayOptions(end_ts=START - 1), "nothing to replay"),
    ],
)
def test_what_can_t_be_played_is_told_in_a_line(
    recording: Recording, tmp_path: Path, options: ReplayOptions, why: str
) -> None:
    with archive(recording, tmp_path) as kept, pytest.raises(LfmeshError, match=re.escape(why)) as told:
        make_tape(kept, options)
    assert "\n" not in str(told.value)


def test_an_empty_archive_is_told() -> None:
    with Archive(Shelf(), "coinbase") as kept, pytest.raises(LfmeshError, match="nothing of any product"):
        make_tape(kept, ReplayOptions())


def test_nothing_of_a_mesh_that_runs_is_touched(recording: Recording, tmp_path: Path) -> None:
    live = Config()
    with archive(recording, tmp_path) as kept:
        config = private(live, make_tape(kept, ReplayOptions()), ReplayOptions(port=8123), Path("/tmp/x"))
    assert (config.mesh.products, config.mesh.shards, config.gateway.port) == (("P0-USD", "P1-USD"), 1, 8123)
    peers = config.registry.static_peers
    assert [peer.role for peer in peers] == [Role.NORMALIZER, Role.SNAPSHOTTER]
    assert {(peer.shard, peer.instance) for peer in peers} == {(0, config.normalizer.instance)}
    assert (
        peers[0].endpoints
        == peers[1].endpoints
        == {"market_data": "ipc:///tmp/x/market_data", "requests": "ipc:///tmp/x/requests"}
    )
    bound = [config.normalizer.bind_market_data, config.normalizer.bind_requests, config.normalizer.bind_telemetry]
    assert all(address.startswith("ipc:///tmp/x/") for address in [*bound, config.gateway.bind_telemetry])
    assert (config.log.level, live.log.level) == ("warning", "info")


def test_the_command_serves_what_was_archived_until_it_is_told_to_end(recording: Recording, tmp_path: Path) -> None:
    journal(tmp_path, entries(recording.lines))
    command = (sys.executable, "-m", "lfmesh.cli", "replay", "--serve", "0", "--speed", "max")

    async def scenario() -> None:
        process = await asyncio.create_subprocess_exec(
            *command, "--data-dir", str(tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = (await process.stdout.readline()).decode()
            assert line.startswith("replay of P0-USD, P1-USD, 2021-04-17T16:30:00.000000000Z to 2021-04-17T16:30:01.")
            found = re.search(r"ws://127\.0\.0\.1:\d+/ws", line)
            assert found is not None, (line, await process.stderr.read())
            checker = Checker()
            async with connect(found[0], tap=CheckerTap(checker)) as feed:
                await feed.subscribe(["P0-USD", "P1-USD"], channels=CHANNELS)
                await eventually(lambda: (status := feed.replay_status) and status.state == "ended")
                assert [trade.trade_id for trade in feed.trades("P1-USD")] == list(range(1, 101))
                await feed.replay("pause")
                await feed.replay("seek", at="2021-04-17T16:30:00.5Z")
                await eventually(lambda: (status := feed.replay_status) and status.state == "paused")
                await eventually(lambda: [*feed.trades("P1-USD")][-1:] and feed.trades("P1-USD")[-1].trade_id == 50)
                assert checker.violations.first == []
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = await process.communicate()
        assert process.returncode == 0
        assert errors == b""

    run(scenario())
