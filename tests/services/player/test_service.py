"""The player and its audience: how far ahead it goes, what it waits for, what it says."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from lfmesh.archive.asof import StateAt
from lfmesh.errors import BadArchive, PortInUse, StoreUnavailable
from lfmesh.messages import SnapshotReply, SnapshotRequest, decode_reply, encode
from lfmesh.ports import ReplayState
from lfmesh.services.player import PlayerService, PlayOptions
from lfmesh.services.player.lead import LEAD_TURNS
from lfmesh.services.player.options import TURN_LINES
from lfmesh.transport import Requester, Transport
from lfmesh.types import Channel, StreamKey
from tests.aio import eventually, run
from tests.services.player.kit import START, STEP, MemoryTape, Recording, configured
from tests.services.snapshotter.world import supervised

HOUR = 3_600_000_000_000


class Listener:
    """An audience that takes what it is told to take."""

    def __init__(self) -> None:
        self.taken: int | None = None
        self.behind = False
        self.states: list[ReplayState] = []
        self.begun: list[set[StreamKey]] = []

    def heard(self) -> int | None:
        return self.taken

    def is_behind(self) -> bool:
        return self.behind

    def changed(self, state: ReplayState) -> None:
        self.states.append(state)

    def rewound(self, state: ReplayState, begun: Collection[StreamKey]) -> None:
        self.states.append(state)
        self.begun.append(set(begun))


@asynccontextmanager
async def playing(tape: MemoryTape, options: PlayOptions) -> AsyncIterator[tuple[PlayerService, Listener]]:
    listener = Listener()
    config = configured(list(dict.fromkeys(key.product for key in tape.streams)))
    async with supervised() as supervisor:
        player = PlayerService(config, supervisor.context(), tape, options)
        player.listen(listener)
        await player.start()
        try:
            yield player, listener
        finally:
            await player.stop()
        assert supervisor.failures == []


def played(player: PlayerService) -> int:
    return player.statistics().messages_total


def test_it_is_never_more_than_a_few_turns_ahead() -> None:
    recording = Recording(products=3, rounds=2000)

    async def scenario() -> None:
        async with playing(MemoryTape(recording.lines), PlayOptions(speed=None, waits=False)) as (player, listener):
            await eventually(lambda: player.statistics().held_total)
            assert played(player) == 0, "nobody hears it yet"
            listener.taken = 0
            player.room()
            await eventually(lambda: player.statistics().held_total > 1)
            assert played(player) <= (LEAD_TURNS + 1) * TURN_LINES
            before = played(player)
            listener.taken, listener.behind = 1 << 40, True
            player.room()
            await eventually(lambda: player.statistics().held_total > 2)
            assert played(player) == before, "a client is behind"
            listener.behind = False
            player.room()
            await eventually(lambda: player.state().state == "ended")
            assert played(player) == len(recording.lines)

    run(scenario())


def test_an_answer_never_overtakes_what_was_played_before_it() -> None:
    recording = Recording(products=1, rounds=3000)

    async def scenario() -> None:
        async with playing(MemoryTape(recording.lines), PlayOptions(speed=None, waits=False)) as (player, listener):
            listener.taken = 0
            player.room()
            await eventually(lambda: player.statistics().held_total > 1)
            with Transport() as transport:
                requester = Requester(transport, player.endpoints()["requests"])
                asked = encode(SnapshotRequest("P0-USD", Channel.TRADES))
                asking = asyncio.ensure_future(requester.request(asked, 5))
                await eventually(lambda: player.statistics().asked_total)
                at = played(player)
                assert not asking.done()
                listener.taken = 1 << 40
                player.room()
                header = decode_reply((await asking)[0])
            assert isinstance(header, SnapshotReply)
            assert abs(header.seq - at / 3) < 10  # the book's snapshot has parts

    run(scenario())


def test_long_pauses_in_the_data_are_skipped_if_that_is_wanted() -> None:
    recording = Recording(products=1, rounds=20)
    lines = [told._replace(line=told.line._replace(time=START + told.line.seq * HOUR)) for told in recording.lines]

    async def scenario() -> None:
        options = PlayOptions(speed=1.0, waits=False, skip_gaps_ns=STEP // 10)
        async with playing(MemoryTape(lines), options) as (player, listener):
            listener.taken = 1 << 40
            player.room()
            await eventually(lambda: player.state().state == "ended")
            assert played(player) == len(lines)

    run(scenario())


def test_what_is_said_when() -> None:
    recording = Recording(products=1, rounds=20)

    async def scenario() -> None:
        async with playing(MemoryTape(recording.lines), PlayOptions(speed=1e-3)) as (player, listener):
            listener.taken = 1 << 40
            player.pause()
            player.subscribed()
            player.subscribed()
            player.pause()
            player.set_speed(2e-3)
            player.seek(START + 5 * STEP)
            player.seek(START + 8 * STEP)
            await eventually(lambda: listener.begun)
            player.resume()
            told = [(one.state, one.speed) for one in listener.states]
            assert told == [
                ("paused", 1e-3), ("paused", 2e-3), ("seeking", 2e-3), ("paused", 2e-3), ("playing", 2e-3),
            ]  # fmt: skip
            assert listener.states[3].at == START + 8 * STEP
            assert listener.begun == [set(recording.streams)]
            assert player.statistics().seeks_total == 1
            runs = [one.run for one in listener.states]
            assert runs[0] == runs[1] == runs[2] < runs[3] == runs[4]

    run(scenario())


class Damaged(MemoryTape):
    """`state` raises as of this moment, as if the object that has it were damaged or away."""

    at = 0
    error: Exception = BadArchive("damaged")

    def state(self, stream: StreamKey, at: int) -> StateAt | None:
        if at == self.at:
            raise self.error
        return super().state(stream, at)


@pytest.mark.parametrize("error", [BadArchive("damaged"), StoreUnavailable("away")])
def test_a_moment_that_cannot_be_read_is_not_gone_to(error: Exception) -> None:
    recording = Recording(products=1, rounds=20)
    tape = Damaged(recording.lines)
    tape.at, tape.error = START + 5 * STEP, error

    async def scenario() -> None:
        async with playing(tape, PlayOptions(speed=1e-3)) as (player, listener):
            listener.taken = 1 << 40
            player.subscribed()
            at, run_ = player.state().at, player.state().run
            player.seek(START + 5 * STEP)
            await eventually(lambda: [one.state for one in listener.states] == ["playing", "seeking", "paused"])
            assert (listener.begun, player.state().run) == ([], run_)
            assert at <= player.state().at < START + STEP
            assert player.statistics().reading_errors_total == 1
            player.seek(START + 8 * STEP)
            await eventually(lambda: listener.begun)
            player.set_speed(None)
            player.resume()
            await eventually(lambda: player.state().state == "ended")

    run(scenario())


def test_before_damage_it_pauses_and_tries_again_when_it_is_told_to() -> None:
    recording = Recording(products=1, rounds=1200)
    tape = MemoryTape(recording.lines)

    async def scenario() -> None:
        tape.failures = [(2048, BadArchive("damaged")), (0, BadArchive("still"))]
        async with playing(tape, PlayOptions(speed=None)) as (player, listener):
            await eventually(lambda: player.statistics().reading_errors_total == 1)
            player.subscribed()
            listener.taken = 1 << 40
            player.room()
            await eventually(lambda: player.state().state == "paused")
            assert played(player) == 2048, "what was read before is played"
            player.resume()
            await eventually(lambda: player.statistics().reading_errors_total == 2)
            await eventually(lambda: player.state().state == "paused")
            assert played(player) == 2048
            player.resume()
            await eventually(lambda: player.state().state == "ended")
            assert played(player) == len(recording.lines)

    run(scenario())


def test_to_the_very_beginning_is_before_everything() -> None:
    recording = Recording(products=1, rounds=20)

    async def scenario() -> None:
        async with playing(MemoryTape(recording.lines), PlayOptions(speed=None)) as (player, listener):
            listener.taken = 1 << 40
            player.seek(START)
            await eventually(lambda: listener.begun)
            assert listener.begun == [set()]
            player.subscribed()
            await eventually(lambda: player.state().state == "ended")
            assert played(player) == len(recording.lines)

    run(scenario())


def test_an_address_that_is_taken_is_told() -> None:
    recording = Recording(products=1, rounds=1)

    async def scenario() -> None:
        tape = MemoryTape(recording.lines)
        async with playing(tape, PlayOptions()) as (player, _), supervised() as supervisor:
            taken = player.endpoints()["requests"]
            config = configured(["P0-USD"]).override({"normalizer": {"bind_requests": taken}})
            second = PlayerService(config, supervisor.context(), tape, PlayOptions())
            with pytest.raises(PortInUse):
                await second.start()
            assert second.readiness() == ["not started"]
            await second.stop()

    run(scenario())
