"""An archive played through a gateway: what clients get is what was archived, however they move about in it."""

import asyncio
import random
from collections.abc import Callable

import httpx
import pytest

from lfmesh.archive.history import Told
from lfmesh.archive.segments import Line
from lfmesh.client import (
    Event,
    Feed,
    Missing,
    ReplayStatus,
    RequestRefused,
    Snapshot,
    StatusChanged,
    TradeEvent,
    TradesSnapshot,
)
from lfmesh.client.events import Increment
from lfmesh.core import encode
from lfmesh.core.times import format_time
from lfmesh.errors import StoreUnavailable
from lfmesh.services.player import PlayOptions
from lfmesh.types import CHANNELS, Channel, Position, StreamKey
from tests.aio import run
from tests.services.player.kit import EPOCH, START, STEP, MemoryTape, Recording, book_of, served


async def until(feed: Feed, wanted: Callable[[Event], object]) -> list[Event]:
    """Events up to the first for which `wanted` holds, that one included."""
    events = []
    async for event in feed:
        events.append(event)
        if wanted(event):
            return events
    raise AssertionError("the feed has ended")


def is_state(state: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, ReplayStatus) and event.state == state


def texts(events: list[Event], key: StreamKey) -> list[bytes]:
    return [
        event.text.encode()
        for event in events
        if isinstance(event, Increment) and (event.product, event.channel) == key
    ]


def book_held(feed: Feed, product: str) -> dict[str, str]:
    book = feed.book(product)
    return {level.px_text: level.qty_text for level in (*book.best_bids(1000), *book.best_asks(1000))}


def test_it_waits_for_the_first_client_and_plays_every_byte() -> None:
    recording = Recording()

    async def scenario() -> None:
        async with served(MemoryTape(recording.lines)) as world:
            async with world.feed(subscribe=False) as idle:
                (first,) = (await until(idle, is_state("waiting")))[-1:]
                assert isinstance(first, ReplayStatus)
                assert (first.at, first.start, first.end, first.speed) == (START, START, recording.end, None)
            async with world.feed() as feed:
                events = await until(feed, is_state("ended"))
                ended = events[-1]
                assert isinstance(ended, ReplayStatus)
                assert ended.at == recording.end
                for key, archived in recording.increments().items():
                    assert texts(events, key) == archived
                assert book_held(feed, "P0-USD") == book_of(recording.lines, "P0-USD", recording.end)
                assert [trade.trade_id for trade in feed.trades("P1-USD")] == list(range(1, 301))
                assert all(feed.status(*key).state == "live" for key in recording.streams)
            assert world.player.statistics().holes_total == 0

    run(scenario())


def test_a_paused_replay_says_so_and_its_streams_stay_live() -> None:
    recording = Recording(products=1)

    async def scenario() -> None:
        async with served(MemoryTape(recording.lines), PlayOptions(speed=20.0)) as world, world.feed() as feed:
            await until(feed, lambda event: isinstance(event, TradeEvent))
            paused = await feed.replay("pause")
            assert (paused.state, paused.speed) == ("paused", 20.0)
            assert START < paused.at < recording.end
            heartbeats = world.checkers[-1].ops["heartbeat"]
            still = feed.position("P0-USD", "trades")
            async with asyncio.timeout(5):
                while world.checkers[-1].ops["heartbeat"] < heartbeats + 3:
                    await feed.ping()
            later = feed.position("P0-USD", "trades")
            assert later is not None
            assert still is not None
            assert later.seq - still.seq < 20  # what was on its way, no more
            assert (await feed.replay()).at == paused.at
            assert all(feed.status(*key).state == "live" for key in recording.streams)
            assert world.gateway.readiness() == []
            assert (await feed.replay("speed", speed="max")).state == "paused"
            assert (await feed.replay("resume")).state == "playing"
            events = await until(feed, is_state("ended"))
            told = [(one.state, one.speed) for one in events if isinstance(one, ReplayStatus)]
            assert told == [("paused", 20.0), ("paused", None), ("playing", None), ("ended", None)]

    run(scenario())


@pytest.mark.parametrize(("connected", "moments"), [(True, (50, 250, 120, 99, 300, 200)), (False, (50, 200))])
def test_a_seek_begins_every_stream_anew_with_what_held_then(connected: bool, moments: tuple[int, ...]) -> None:
    """Back and forth, for who is there and for who was away: a snapshot each, then the archive's own messages."""
    recording = Recording()
    tape = MemoryTape(recording.lines)

    async def scenario() -> None:
        async with served(tape) as world, world.feed() as feed:
            first = (await until(feed, is_state("ended")))[-1]
            assert isinstance(first, ReplayStatus)
            runs = {first.run}
            await feed.replay("pause")
            for number in moments:
                at = START + number * STEP
                if not connected:
                    feed.drop()
                    async with world.feed(subscribe=False) as other:
                        await other.replay("seek", at=format_time(at))
                        await until(other, is_state("paused"))
                else:
                    assert (await feed.replay("seek", at=at)).state == "seeking"
                await until(feed, is_state("paused"))
                states = {state.stream: (state.position, state.parts) for state in tape.states(at)}
                for key in recording.streams:
                    await stands_at(feed, key, states[key][0])
                for product in ("P0-USD", "P1-USD"):
                    assert book_held(feed, product) == book_of(recording.lines, product, at)
                    assert feed.trades(product)[-1].trade_id == number
                status = feed.replay_status
                assert status is not None
                assert status.at == at
                assert status.run not in runs
                runs.add(status.run)
            await feed.replay("resume")
            events = await until(feed, is_state("ended"))
            for key, archived in recording.increments().items():
                assert texts(events, key) == archived[-100:]
            assert world.gateway.statistics().gaps_total == 0
            assert world.player.statistics().seeks_total == len(moments)
            assert world.supervisor.failures == []

    run(scenario())


async def stands_at(feed: Feed, key: StreamKey, position: Position) -> None:
    async with asyncio.timeout(10):
        while feed.position(*key) != position or feed.status(*key).state != "live":
            await feed.ping()


def test_a_seek_tells_trades_again_that_were_told_before() -> None:
    recording = Recording(products=1)

    async def scenario() -> None:
        async with served(MemoryTape(recording.lines)) as world, world.feed() as feed:
            await until(feed, is_state("ended"))
            await feed.replay("seek", at=START + 200 * STEP)
            events = await until(feed, is_state("ended"))
            reset = next(event for event in events if isinstance(event, TradesSnapshot))
            assert (reset.reason, [trade.trade_id for trade in reset.new]) == ("resync", list(range(151, 201)))
            again = [event.trade_id for event in events if isinstance(event, TradeEvent)]
            assert again == list(range(201, 301))
            runs = [event.run for event in events if isinstance(event, ReplayStatus)]
            assert runs[0] != runs[-1]
            # The new run is told before anything of it.
            first = next(number for number, event in enumerate(events) if isinstance(event, Snapshot))
            assert any(isinstance(event, ReplayStatus) and event.run == runs[-1] for event in events[:first])

    run(scenario())


def test_who_was_away_goes_on_by_position_where_the_replay_is_beyond_it() -> None:
    recording = Recording(products=1, rounds=400)

    async def scenario() -> None:
        async with served(MemoryTape(recording.lines), PlayOptions(speed=30.0)) as world, world.feed() as feed:
            await until(feed, lambda event: isinstance(event, TradeEvent) and event.trade_id == 150)
            feed.drop()
            events = await until(feed, lambda event: isinstance(event, TradeEvent) and event.trade_id == 400)
            assert [event.trade_id for event in events if isinstance(event, TradeEvent)] == list(range(151, 401))
            assert not any(isinstance(event, Snapshot) for event in events)
            assert sum(world.gateway.statistics().resumes_total.values()) == 3
            assert world.gateway.statistics().resumes_total["snapshot"] == 0

    run(scenario())


def test_what_had_not_begun_at_the_moment_is_recovering_until_it_does() -> None:
    recording = Recording(products=2, rounds=40)
    late = [
        told._replace(line=told.line._replace(time=told.line.time + 500 * STEP))
        if told.stream.product == "P1-USD"
        else told
        for told in recording.lines
    ]
    tape = MemoryTape(sorted(late, key=lambda told: told.line.time))

    async def scenario() -> None:
        async with served(tape) as world, world.feed() as feed:
            await until(feed, is_state("ended"))
            await feed.replay("pause")
            await feed.replay("seek", at=START + 10 * STEP)
            await until(feed, is_state("paused"))
            await stands_at(feed, StreamKey("P0-USD", Channel.TRADES), Position(EPOCH, 10))
            async with asyncio.timeout(5):
                while feed.status("P1-USD", "book").reason != "not begun yet, at this moment of the replay":
                    await feed.ping()
            assert [feed.status("P1-USD", channel).state for channel in CHANNELS] == ["recovering"] * 3
            await feed.replay("resume")
            await until(feed, is_state("ended"))
            assert [feed.status("P1-USD", channel).state for channel in CHANNELS] == ["live"] * 3
            assert feed.trades("P1-USD")[-1].trade_id == 40

    run(scenario())


def test_channels_that_are_not_played_say_so() -> None:
    recording = Recording(products=1, rounds=3)
    tape = MemoryTape([told for told in recording.lines if told.stream.channel is Channel.TRADES])

    async def scenario() -> None:
        async with served(tape) as world, world.feed() as feed:
            async with asyncio.timeout(5):
                while feed.status("P0-USD", "book").reason != "nothing of it is in this replay":
                    await feed.ping()
            assert feed.status("P0-USD", "book").state == "stale"
            await until(feed, is_state("ended"))
            assert len(feed.trades("P0-USD")) == 3
            assert world.gateway.readiness() == []

    run(scenario())


def test_a_hole_in_the_archive_is_told_and_the_next_snapshot_goes_on() -> None:
    recording = Recording(products=1, rounds=200, resync_at=100)
    key = StreamKey("P0-USD", Channel.BOOK)
    lost = [
        told
        for told in recording.lines
        if told.stream != key or told.line.snapshot or not 40 <= (told.line.time - START) // STEP < 60
    ]

    async def scenario() -> None:
        async with served(MemoryTape(lost)) as world, world.feed() as feed:
            events = await until(feed, is_state("ended"))
            told = [(one.state, one.reason) for one in events if isinstance(one, StatusChanged)]
            assert ("recovering", "the archive lacks messages here; it goes on with the next snapshot") in told
            assert feed.status(*key).state == "live"
            assert len(texts(events, key)) == 39 + 100
            assert book_held(feed, "P0-USD") == book_of(recording.lines, "P0-USD", recording.end)
            statistics = world.player.statistics()
            assert (statistics.holes_total, statistics.passed_over_total) == (1, 40)

    run(scenario())


def test_an_epoch_with_a_lower_number_takes_the_place_of_what_was_published_in_vain() -> None:
    """A publisher that had been replaced without noticing went on in an epoch of its own."""
    first, second = Recording(products=1, rounds=50), Recording(products=1, rounds=50)
    base = EPOCH
    lines = []
    for recording, epoch, since in ((first, base + 10**6, 0), (second, base, 100)):
        for key, line in recording.lines:
            if key.channel is Channel.TRADES:
                continue  # their ids never go back
            message = line.message.replace(b'"epoch":%d' % line.epoch, b'"epoch":%d' % (line.epoch + epoch - base))
            time = line.time + since * STEP
            lines.append(Told(key, line._replace(time=time, epoch=line.epoch + epoch - base, message=message)))

    async def scenario() -> None:
        async with served(MemoryTape(lines)) as world, world.feed() as feed:
            await until(feed, is_state("ended"))
            assert feed.position("P0-USD", "ticker") == Position(base, 50)
            assert world.gateway.statistics().voided_total == 2

    run(scenario())


def test_requests_that_make_no_sense_are_refused() -> None:
    recording = Recording(products=1, rounds=10)

    async def scenario() -> None:
        async with served(MemoryTape(recording.lines)) as world, world.feed(subscribe=False) as feed:
            for at, why in (
                (START - 1, "is not in this replay: 2021-04-17T16:30:00.000000000Z to "),
                (recording.end + 1, "is not in this replay"),
                ("2021-04-17T16:30:00", "names no zone"),
                ("yesterday", "is no moment"),
            ):
                with pytest.raises(RequestRefused, match=why) as refused:
                    await feed.replay("seek", at=at)
                assert refused.value.code == "BAD_REQUEST"
            with pytest.raises(RequestRefused, match="seek needs a moment"):
                await feed.replay("seek")
            assert (await feed.replay()).state == "waiting"
            assert world.player.statistics().seeks_total == 0

    run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_whatever_clients_do_to_it_every_one_of_them_is_right(seed: int) -> None:
    """Seeks, pauses, speeds, drops and resubscriptions at random; the checkers see no broken promise."""
    recording = Recording(products=3, rounds=400, resync_at=150)
    dice = random.Random(seed)

    async def scenario() -> None:
        tape = MemoryTape(recording.lines)
        async with served(tape, PlayOptions(speed=5.0)) as world, world.feed() as one, world.feed(["P1-USD"]) as two:
            for _ in range(30):
                feed = dice.choice((one, two))
                match dice.randrange(8):
                    case 0 | 1 | 2:
                        await feed.replay("seek", at=dice.randrange(START, recording.end))
                    case 3:
                        await feed.replay("pause")
                    case 4:
                        await feed.replay("resume")
                    case 5:
                        await feed.replay("speed", speed=dice.choice((0.5, 3.0, 40.0, "max")))
                    case 6:
                        await feed.subscribe("P1-USD", channels=CHANNELS)
                    case _:
                        await asyncio.sleep(dice.random() * 0.02)
            await one.replay("seek", at=START + 390 * STEP)
            await one.replay("speed", speed="max")
            await one.replay("resume")
            for feed, products in ((one, ("P0-USD", "P1-USD", "P2-USD")), (two, ("P1-USD",))):
                async with asyncio.timeout(10):
                    while (await feed.replay()).state != "ended":
                        await asyncio.sleep(0.01)
                for product in products:
                    await stands_at(feed, StreamKey(product, Channel.TRADES), Position(EPOCH, 400))
                    await stands_at(feed, StreamKey(product, Channel.BOOK), Position(EPOCH + 150, 250))
                    assert book_held(feed, product) == book_of(recording.lines, product, recording.end)
            assert world.supervisor.failures == []

    run(scenario())


def test_in_a_loop_it_begins_again_after_the_end() -> None:
    recording = Recording(products=1, rounds=20)

    async def scenario() -> None:
        async with (
            served(MemoryTape(recording.lines), PlayOptions(speed=None, loop=True)) as world,
            world.feed() as feed,
        ):
            runs: dict[int, list[int]] = {}
            async for event in feed:
                if isinstance(event, ReplayStatus):
                    runs.setdefault(event.run, [])
                elif isinstance(event, TradeEvent):
                    runs[[*runs][-1]].append(event.trade_id)
                if len(runs) == 3:
                    break
            await feed.replay("pause")
            first, second, _ = runs.values()
            assert first == second == list(range(1, 21))
            assert world.player.statistics().seeks_total >= 2

    run(scenario())


def test_an_archive_that_cannot_be_read_for_a_while_is_read_on() -> None:
    recording = Recording(products=1, rounds=50)
    tape = MemoryTape(recording.lines)
    tape.failures = [(37, StoreUnavailable("away"))]

    async def scenario() -> None:
        with pytest.raises(StoreUnavailable, match="away"):
            async with served(tape):
                raise AssertionError("it can't start")
        options = PlayOptions(speed=None, retry_s=0.01)
        async with served(tape, options) as world, world.feed(subscribe=False) as feed:
            tape.failures = [(5, StoreUnavailable("away again"))]
            await feed.replay("seek", at=START + 10 * STEP)
            await feed.subscribe("P0-USD", channels=CHANNELS)
            events = await until(feed, is_state("ended"))
            assert [event.trade_id for event in events if isinstance(event, TradeEvent)] == list(range(11, 51))
            assert world.player.statistics().reading_errors_total == 1
            (warning,) = world.supervisor.events("the archive can't be read; trying again")
            assert warning["error"] == "away again"

    run(scenario())


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_hole_that_a_kept_state_closes_costs_no_more_than_what_is_before_it(channel: Channel) -> None:
    recording = Recording(products=1, rounds=400, resync_at=0)
    key = StreamKey("P0-USD", channel)
    lost = [
        told for told in recording.lines if told.stream != key or told.line.snapshot or not 40 <= told.line.seq < 140
    ]
    tape = MemoryTape([slower(told) for told in lost])
    kept = MemoryTape([slower(told) for told in recording.lines]).state(key, START + 200 * STEP * 1000)
    assert kept is not None
    tape.kept = [kept]

    async def scenario() -> None:
        async with served(tape, PlayOptions(speed=None, turn_lines=10)) as world, world.feed() as feed:
            events = await until(feed, is_state("ended"))
            statistics = world.player.statistics()
            assert (statistics.holes_total, statistics.mended_total) == (1, 1)
            back = len(texts(events, key)) - 39
            assert 150 < back <= 200, "all that followed the state, or what of it had been looked for in vain"
            assert book_held(feed, "P0-USD") == book_of(recording.lines, "P0-USD", recording.end)
            assert feed.trades("P0-USD")[-1].trade_id == 400
            missing = [(one.from_trade_id, one.to_trade_id, one.declared) for one in events if isinstance(one, Missing)]
            assert (missing == []) is (channel is not Channel.TRADES)
            assert all(declared for _, _, declared in missing)
            assert all(feed.status(*one).state == "live" for one in recording.streams)

    run(scenario())


def slower(told: Told) -> Told:
    """A thousand times: ten seconds between two rounds."""
    return told._replace(line=told.line._replace(time=START + (told.line.time - START) * 1000))


def test_trades_lost_in_a_hole_are_declared_where_the_tape_goes_on() -> None:
    recording = Recording(products=1, rounds=100)
    key = StreamKey("P0-USD", Channel.TRADES)
    state = MemoryTape(recording.lines).state(key, START + 80 * STEP)
    assert state is not None
    lost = [told for told in recording.lines if told.stream != key or not 20 < told.line.seq <= 80]
    at = next(number for number, told in enumerate(lost) if told.stream == key and told.line.seq == 81)
    (text,) = encode.snapshot(*key, state.position, state.time, "epoch", state.parts)
    lost.insert(at, Told(key, Line(state.time, *state.position, text, snapshot=True)))

    async def scenario() -> None:
        async with served(MemoryTape(lost)) as world, world.feed() as feed:
            events = await until(feed, is_state("ended"))
            told = [one for one in events if isinstance(one, Missing)]
            assert [(one.from_trade_id, one.to_trade_id, one.declared) for one in told] == [(21, 30, True)]
            assert world.player.statistics().holes_total == 0

    run(scenario())


def test_the_state_as_of_another_moment_can_be_had_over_http() -> None:
    recording = Recording(products=1, rounds=60)

    async def scenario() -> None:
        async with served(MemoryTape(recording.lines)) as world:
            base = world.gateway.http_url() + "/v1/snapshot/P0-USD?channel=trades&at="
            async with httpx.AsyncClient() as http:
                found = await http.get(f"{base}{START + 33 * STEP}")
                assert found.status_code == 200
                assert (found.json()["seq"], found.json()["ts_snapshot"]) == (33, START + 33 * STEP)
                assert (await http.get(f"{base}{START - 1}")).status_code == 404

    run(scenario())
