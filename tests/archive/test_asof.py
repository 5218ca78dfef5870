"""The state as of any moment is the one that follows straight from the messages, wherever they are kept."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.archive.asof import Lack
from lfmesh.archive.places import journal_folders, spool_folders
from lfmesh.archive.reader import Archive
from lfmesh.archive.segments import NEW, Mark
from lfmesh.types import CHANNELS, Channel, Position
from tests.archive.market import MS, Market, Step
from tests.archive.shelf import VENUE, Shelf, journal, snapshot, spool, upload

STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["inc"] * 8 + ["epoch", "lose"]),
        st.sampled_from([0, 1, 2, 40, 700, 90_000, -3, -500]),
        st.integers(0, 999),
    ),
    min_size=1,
    max_size=40,
)


def marks(market: Market) -> list[Mark]:
    """Where the stream stands before each entry, as a writer would know it."""
    timed = iter(market.records)
    found = [NEW]
    for entry in market.entries:
        snapshot_ = bool(entry.header.flags)
        for _ in entry.messages[:1] if snapshot_ else entry.messages:
            record = next(timed)
        found.append(Mark(record.time, record.position))
    return found


@st.composite
def kept(draw: st.DrawFn) -> tuple[Market, list[tuple[int, int, str]], list[int]]:
    """A stream; which entries are where (two writers cut differently, the end is in a journal); which snapshots."""
    market = Market(draw(st.sampled_from(CHANNELS)))
    market.play(draw(STEPS))
    count = len(market.entries)
    uncut = draw(st.integers(0, count))
    places = [(uncut, count, "journal")]
    for _ in range(2):
        cuts = sorted({0, uncut, *draw(st.lists(st.integers(0, uncut), max_size=4))})
        places += [(a, b, draw(st.sampled_from(["store", "spool"]))) for a, b in pairwise(cuts)]
    # What the first writer has lost, the second one has; and a journal is deleted later than its cut.
    if draw(st.booleans()):
        places.append((draw(st.integers(0, uncut)), count, "journal-b"))
    return market, places, draw(st.lists(st.integers(0, len(market.records) - 1), max_size=2))


def build(data_dir: Path, market: Market, places: list[tuple[int, int, str]], snapshots: list[int]) -> Archive:
    shelf, known = Shelf(), marks(market)
    for first, end, place in places:
        entries = market.entries[first:end]
        if place.startswith("journal"):
            journal(data_dir, entries, place)
        elif place == "store":
            upload(shelf, market.stream, entries, known[first])
        else:
            spool(data_dir, market.stream, entries, known[first])
    for number in snapshots:
        snapshot(shelf, [market.state_line(number)])
    return Archive(shelf, VENUE, [*journal_folders(data_dir), *spool_folders(data_dir)])


@settings(max_examples=100, deadline=None)
@given(kept(), st.lists(st.integers(-2000, 200_000), max_size=3))
def test_the_state_at_a_moment_is_that_of_the_messages_up_to_it(
    found: tuple[Market, list[tuple[int, int, str]], list[int]], offsets: list[int]
) -> None:
    market, places, snapshots = found
    with tempfile.TemporaryDirectory() as folder:
        archive = build(Path(folder), market, places, snapshots)
        first = market.records[0].time
        moments = {record.time + shift for record in market.records[::3] for shift in (-1, 0)}
        last = market.records[-1]
        moments |= {first - 1, first, last.time, *(first + offset * MS for offset in offsets)}
        opened = [entry.header for entry in market.entries if entry.header.flags]
        healed = {Position(header.epoch, header.first_seq) for header in opened if header.first_seq}
        for at in sorted(moments):
            state, expected = archive.state_at(market.stream, at), market.state_at(at)
            if expected is None:
                assert state is None
                continue
            assert state is not None, at
            assert (state.position, state.time) == (expected.position, expected.time)
            data = json.loads(state.data(), parse_float=str, parse_int=str)
            assert data["state"] == market.text_of(expected)
            assert (data["epoch"], data["seq"]) == tuple(map(str, state.position))
            if state.position in healed and state.position != last.position:
                assert state.lack == Lack(state.time, hole=True), "what it stands for can be later than its time"
            else:
                assert state.lack == (None if at <= last.time else Lack(last.time, hole=False))


SECOND = 1000 * MS


def a_minute(shelf: Shelf, kept_: list[tuple[int, int]], *, epoch_at: int = 0) -> tuple[Market, int]:
    """A stream with a message a second, of which these entries are in the store; and when it began."""
    market = Market(Channel.BOOK)
    steps = [Step("inc", 1000, 2 * number) for number in range(60)]
    if epoch_at:
        steps.insert(epoch_at, Step("epoch", 0, 0))
    market.play(steps)
    known = marks(market)
    for first, end in kept_:
        upload(shelf, market.stream, market.entries[first:end], known[first])
    return market, market.records[0].time


def test_where_the_tape_does_not_reach_a_later_snapshot_is_not_passed_off_as_the_state() -> None:
    shelf = Shelf()
    market, start = a_minute(shelf, [(0, 6)])
    snapshot(shelf, [market.state_line(10)])
    archive = Archive(shelf, VENUE)

    def at(seconds: int) -> tuple[int, Lack | None]:
        state = archive.state_at(market.stream, start + seconds * SECOND)
        assert state is not None
        return state.position.seq, state.lack

    reaches = Lack(start + 10 * SECOND, hole=False)
    assert [at(seconds) for seconds in (3, 4)] == [(3, None), (4, None)]
    assert [at(seconds) for seconds in (6, 9)] == [(5, Lack(start + 5 * SECOND, hole=True))] * 2
    assert at(10) == (10, None)
    assert [at(seconds) for seconds in (11, 65, 86_400)] == [(10, reaches)] * 3


@pytest.mark.parametrize("epoch_at", [0, 20])
def test_where_the_tape_goes_on_behind_a_hole_the_state_in_it_is_not_whole(epoch_at: int) -> None:
    shelf = Shelf()
    market, start = a_minute(shelf, [(0, 6), (40, 61)], epoch_at=epoch_at)
    snapshot(shelf, [market.state_line(10)])
    archive = Archive(shelf, VENUE)
    for seconds in (10, 11, 30):
        state = archive.state_at(market.stream, start + seconds * SECOND)
        assert state is not None
        assert (state.position, state.lack) == (market.records[10].position, Lack(start + 10 * SECOND, hole=True))
    upload(shelf, market.stream, market.entries[6:40], marks(market)[6])
    for seconds in (10, 11, 30, 59):
        moment = start + seconds * SECOND
        state, expected = archive.state_at(market.stream, moment), market.state_at(moment)
        assert state is not None
        assert expected is not None
        assert (state.position, state.lack) == (expected.position, None)


@pytest.mark.parametrize("lost", [0, 1, 5])
def test_what_an_epoch_lost_of_its_end_is_a_hole_that_the_next_one_tells_of(lost: int) -> None:
    shelf = Shelf()
    market, start = a_minute(shelf, [(0, 21 - lost), (21, 62)], epoch_at=20)
    state = Archive(shelf, VENUE).state_at(market.stream, start + 19 * SECOND)
    assert state is not None
    assert state.lack == (Lack(state.time, hole=True) if lost else None)
    assert state.position.seq == min(19, 20 - lost)


def test_a_quiet_stream_is_whole_as_far_as_snapshots_of_its_shard_tell() -> None:
    shelf = Shelf()
    market, start = a_minute(shelf, [(0, 61)])
    quiet = Market(Channel.TRADES, start=start)
    quiet.play([Step("inc", 1000, 1)])
    upload(shelf, quiet.stream, quiet.entries)
    snapshot(shelf, [market.state_line(50), quiet.state_line(1)])
    archive = Archive(shelf, VENUE)
    found = [archive.state_at(quiet.stream, start + seconds * SECOND) for seconds in (1, 30, 50, 51)]
    lacks = [state.lack for state in found if state is not None]
    assert lacks == [None, None, None, Lack(start + 50 * SECOND, hole=False)]


@settings(max_examples=40, deadline=None)
@given(kept())
def test_every_message_comes_once_in_order_with_its_time(
    found: tuple[Market, list[tuple[int, int, str]], list[int]],
) -> None:
    market, places, snapshots = found
    with tempfile.TemporaryDirectory() as folder:
        archive = build(Path(folder), market, places, snapshots)
        lines = list(archive.lines(market.stream))
        expected = [(record, message) for record in market.records for message in record.messages]
        assert [line.message for line in lines] == [message for _, message in expected]
        assert [(line.time, (line.epoch, line.seq)) for line in lines] == [
            (record.time, record.position) for record, _ in expected
        ]
        middle = lines[len(lines) // 2]
        window = list(archive.lines(market.stream, start_ts=middle.time, end_ts=middle.time + 100 * MS))
        assert window == [line for line in lines if middle.time <= line.time <= middle.time + 100 * MS]
        later = archive.lines(market.stream, after=Position(middle.epoch, middle.seq))
        rest = [line for line in lines if (line.epoch, line.seq) > (middle.epoch, middle.seq)]
        assert [line.message for line in later] == [line.message for line in rest]
        assert archive.bounds(market.stream) == (lines[0].time, lines[-1].time)


def test_a_hole_that_nothing_bridges_leaves_the_state_unknown_until_the_next_snapshot() -> None:
    market = Market(Channel.BOOK)
    singly = [Step("inc", 1000, 2 * number) for number in range(12)]
    market.play([*singly, Step("lose", 0, 0), Step("inc", 1000, 6)])
    assert all(len(entry.messages) == 1 for entry in market.entries if not entry.header.flags)
    known, shelf = marks(market), Shelf()
    upload(shelf, market.stream, market.entries[:4], known[0])
    upload(shelf, market.stream, market.entries[8:], known[8])
    archive = Archive(shelf, VENUE)

    def seq_at(record: int) -> int | None:
        state = archive.state_at(market.stream, market.records[record].time)
        return None if state is None else state.position.seq

    assert [seq_at(record) for record in range(15)] == [0, 1, 2, 3, 3, 3, 3, 3, None, None, None, None, 13, 13, 14]


def test_the_newest_shard_snapshot_spares_the_tape_before_it() -> None:
    market = Market(Channel.TICKER)
    market.play([Step("inc", 60_000, pick) for pick in range(100)])
    known, shelf = marks(market), Shelf()
    for first in range(0, len(market.entries), 10):
        upload(shelf, market.stream, market.entries[first : first + 10], known[first])
    snapshot(shelf, [market.state_line(75)])
    time = market.records[80].time
    state = Archive(shelf, VENUE).state_at(market.stream, time)
    assert state is not None
    assert state.position == market.records[80].position
    assert sum(key.startswith("tape/") for key in shelf.taken) <= 2


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_snapshots_of_any_number_of_shards_are_found(shards: int) -> None:
    from lfmesh.core.sharding import shard_of

    market = Market(Channel.TRADES)
    market.play([Step("inc", 1000, pick) for pick in range(5)])
    shelf = Shelf()
    shard = shard_of(market.stream.product, shards)
    snapshot(shelf, [market.state_line(3)], shards, shard)
    if shards > 1:  # another shard's knows nothing of it
        other = Market(Channel.TRADES, "ETH-USD")
        other.play([Step("inc", 9000, 1)])
        snapshot(shelf, [other.state_line(1)], shards, (shard + 1) % shards)
    time = market.records[-1].time
    state = Archive(shelf, VENUE).state_at(market.stream, time)
    assert state is not None
    assert state.position == market.records[3].position
