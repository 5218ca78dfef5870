"""What goes into the journal, and where it stands in each stream."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lfmesh.archive import places
from lfmesh.archive.journal import Journal as JournalFiles
from lfmesh.archive.reader import Archive
from lfmesh.core import codec
from lfmesh.core.archive import AHEAD_NS
from lfmesh.core.codec import Flags, Header
from lfmesh.core.state import StreamState
from lfmesh.services.snapshotter.tape import HELD_BYTES, Tape
from lfmesh.types import NO_INPUT, Position, StreamKey
from tests.archive.published import BTC, NOW, SECOND, frame, increments, opening
from tests.archive.shelf import VENUE, Shelf
from tests.services.snapshotter.link import BOOK, TICKER

STATE = b'{"bids":[[1.10,2]],"asks":[]}'


class Journal:
    """Keeps what is appended."""

    def __init__(self) -> None:
        self.frames: list[codec.MarketFrame] = []
        self.tape = Tape(0, self._append)

    def _append(self, _: StreamKey, frame: bytes) -> None:
        self.frames.append(codec.unpack(frame))

    def publish(
        self, key: StreamKey, first: int, count: int, ts_event: int = 0, *, snapshot: bool = False, at: int = 1000
    ) -> None:
        flags = Flags.SNAPSHOT if snapshot else Flags.INCREMENTS
        header = Header(flags, 3, 4, NO_INPUT, 7, first, 0, 0, ts_event, at)
        self.tape.published(key, header, count, codec.pack(b"md.0.P0-USD.book.", header, [b"{}"] * count))

    def tear(self, position: Position) -> Header:
        self.tear_at(position, 1000)
        self.tape.settle()
        return self.frames[-1].header

    def tear_at(self, position: Position, ts: int, key: StreamKey = BOOK, parts: Sequence[bytes] = (STATE,)) -> None:
        self.tape.torn(StreamState(key, 3, position, NO_INPUT, ts), parts, 9, NO_INPUT)

    def written(self) -> list[tuple[bool, int, int]]:
        """Of each frame: whether it is a snapshot, its first number, its time."""
        headers = [found.header for found in self.frames]
        return [(bool(one.flags & Flags.SNAPSHOT), one.first_seq, one.ts_event) for one in headers]


def test_it_knows_where_each_stream_stands() -> None:
    journal = Journal()
    assert journal.tape.position(BOOK) is None
    journal.publish(BOOK, 0, 3, snapshot=True)
    assert journal.tape.position(BOOK) == Position(7, 0), "parts of a snapshot are one position"
    journal.publish(BOOK, 1, 5)
    assert journal.tape.position(BOOK) == Position(7, 5)
    assert journal.tape.position(TICKER) is None
    journal.tape.goes_on(TICKER, Position(6, 9), 77)
    assert (journal.tape.position(TICKER), journal.tape.time(TICKER)) == (Position(6, 9), 77)


def test_a_streams_time_never_goes_back_and_is_not_led_astray() -> None:
    journal = Journal()
    journal.publish(BOOK, 0, 1, snapshot=True)
    assert journal.tape.time(BOOK) == 0
    for seq, ts_event in enumerate((500, 400, 0), 1):
        journal.publish(BOOK, seq, 1, ts_event)
        assert journal.tape.time(BOOK) == 500
    journal.publish(BOOK, 4, 1, 10**18)
    assert journal.tape.time(BOOK) == 1000 + AHEAD_NS
    assert journal.tape.newest_time == journal.tape.time(BOOK)


def test_where_something_is_lost_the_state_takes_its_place() -> None:
    journal = Journal()
    header = journal.tear(Position(7, 2))
    assert (header.flags, header.prev_epoch, header.prev_seq) == (Flags.SNAPSHOT, 0, 0)
    assert b'"reason":"subscribe"' in journal.frames[-1].messages[0]
    journal.publish(BOOK, 3, 1, 500)
    header = journal.tear(Position(7, 9))
    assert (header.epoch, header.first_seq, header.prev_epoch, header.prev_seq) == (7, 9, 7, 3)
    assert header.ts_event == 500, "the venue's newest time"
    assert b'"reason":"gap"' in journal.frames[-1].messages[0]
    assert STATE in journal.frames[-1].messages[0]
    header = journal.tear(Position(6, 9))
    assert (header.prev_epoch, header.prev_seq) == (0, 0), "what was there is void"
    assert journal.tape.position(BOOK) == Position(6, 9)


def test_it_counts_what_a_cut_would_bring() -> None:
    journal = Journal()
    journal.publish(BOOK, 1, 5)
    one = journal.tape.largest_bytes
    assert one > 0
    journal.publish(BOOK, 6, 5)
    journal.publish(TICKER, 1, 5)
    assert journal.tape.largest_bytes == 2 * one
    journal.tape.cut()
    assert journal.tape.largest_bytes == 0


def test_a_state_takes_the_venues_newest_time_and_not_that_before_the_hole() -> None:
    journal = Journal()
    journal.publish(BOOK, 1, 1, 500)
    journal.publish(TICKER, 1, 1, 900)
    journal.tear_at(Position(7, 9), 1000)
    assert journal.written()[-1] == (True, 9, 900)
    assert journal.tape.time(BOOK) == 900


def test_a_state_waits_until_something_as_late_is_heard() -> None:
    journal = Journal()
    journal.tape.goes_on(BOOK, Position(7, 3), 500)
    journal.tape.goes_on(TICKER, Position(7, 3), 510)
    journal.tear_at(Position(7, 9), 2000)
    journal.publish(TICKER, 4, 1, 520, at=600)
    journal.publish(TICKER, 5, 1, 0, at=2001)
    assert [one[0] for one in journal.written()] == [False, False], "from the ring, and without a time"
    assert journal.tape.position(BOOK) == Position(7, 9)
    journal.publish(TICKER, 6, 1, 1950, at=2001)
    assert journal.written()[-1] == (True, 9, 1950)
    assert (journal.frames[-1].header.prev_epoch, journal.frames[-1].header.prev_seq) == (7, 3)
    journal.publish(BOOK, 10, 1, 1960, at=2002)
    assert journal.written()[-1] == (False, 10, 1960)
    journal.tape.settle()
    assert len(journal.frames) == 5, "once"


@pytest.mark.parametrize(("ts_event", "time"), [(1990, 1990), (0, 2000)])
def test_its_own_next_frame_never_comes_before_it(ts_event: int, time: int) -> None:
    journal = Journal()
    journal.tape.goes_on(BOOK, Position(7, 3), 500)
    journal.tear_at(Position(7, 9), 2000)
    journal.publish(BOOK, 10, 1, ts_event, at=2001)
    assert journal.written() == [(True, 9, time), (False, 10, ts_event)]


def test_a_later_state_takes_the_place_of_one_that_waits() -> None:
    journal = Journal()
    journal.tape.goes_on(BOOK, Position(7, 3), 500)
    journal.tear_at(Position(7, 9), 2000)
    journal.tear_at(Position(7, 12), 2100)
    assert journal.frames == []
    journal.publish(TICKER, 1, 1, 2090, at=2100)
    assert journal.written() == [(False, 1, 2090), (True, 12, 2090)]
    assert (journal.frames[-1].header.prev_epoch, journal.frames[-1].header.prev_seq) == (7, 3)


DAY = 86_400 * SECOND


@pytest.mark.parametrize(("before", "time"), [(NOW - 600 * SECOND, NOW), (NOW - 100 * DAY, NOW - 100 * DAY), (0, 0)])
def test_where_nothing_is_heard_it_is_written_in_the_end(before: int, time: int) -> None:
    """As of its own publication, unless the venue's time is another one: then a recording is played."""
    journal = Journal()
    if before:
        journal.tape.goes_on(BOOK, Position(7, 3), before)
    journal.tear_at(Position(7, 9), NOW)
    assert journal.frames == []
    journal.tape.settle()
    assert journal.written() == [(True, 9, time)]


def test_who_keeps_the_states_time_has_the_state_in_the_journal() -> None:
    journal = Journal()
    journal.tape.goes_on(BOOK, Position(7, 3), NOW - SECOND)
    journal.tear_at(Position(7, 9), NOW)
    assert journal.tape.time(BOOK) == NOW
    assert journal.written() == [(True, 9, NOW)]


def test_what_waits_is_bounded() -> None:
    journal = Journal()
    part = b'{"bids":["' + b"x" * (HELD_BYTES // 3) + b'"],"asks":[]}'
    keys = [StreamKey(f"P{number}-USD", BOOK.channel) for number in range(4)]
    for number, key in enumerate(keys):
        journal.tear_at(Position(7, number), 2000, key, [part])
    assert [one[1] for one in journal.written()] == [0, 1]
    journal.tape.settle()
    assert [one[1] for one in journal.written()] == [0, 1, 2, 3]


def test_a_tape_that_awaits_a_state_takes_nothing_before_it() -> None:
    journal = Journal()
    journal.tape.awaits([BOOK, TICKER])
    journal.publish(BOOK, 5, 1, 500)
    journal.tear_at(Position(7, 5), 1000)
    journal.publish(BOOK, 6, 1, 510)
    assert journal.written() == [(True, 5, 500), (False, 6, 510)]
    journal.publish(TICKER, 0, 1, 520, snapshot=True)
    assert not journal.tape.is_awaited(TICKER)
    assert journal.written()[-1] == (True, 0, 520)


@pytest.mark.parametrize("restarted", [False, True])
def test_within_a_hole_the_reader_shows_what_was_before_it(tmp_path: Path, restarted: bool) -> None:
    begin = NOW - 3600 * SECOND
    other = StreamKey("ETH-USD", BTC.channel)
    folder = places.journal_folder(tmp_path, "snapshotter-0")
    journal = JournalFiles(folder)
    tape = Tape(0, journal.append)

    def publish(key: StreamKey, seq: int, time: int) -> None:
        entry = increments(key, Position(7, seq), 1, time, ts_publish=time)
        tape.published(key, entry.header, 1, frame(entry))

    first = opening(BTC, Position(7, 0), ts_event=begin, ts_publish=begin)
    tape.published(BTC, first.header, 1, frame(first))
    for seq in range(1, 11):
        publish(BTC, seq, begin + seq * SECOND)
    if restarted:
        tape = Tape(0, journal.append)
        tape.goes_on(BTC, Position(7, 10), begin + 10 * SECOND)
        tape.goes_on(other, Position(7, 10), begin + 11 * SECOND)
    else:
        publish(other, 11, begin + 610 * SECOND)
    state = StreamState(BTC, 7, Position(7, 500), NO_INPUT, begin + 610 * SECOND)
    tape.torn(state, [b'{"trades":[]}'], 9, NO_INPUT)
    publish(other, 12, begin + 611 * SECOND)
    publish(BTC, 501, begin + 612 * SECOND)
    journal.flush()
    with Archive(Shelf(), VENUE, [folder]) as archive:
        for seconds, seq in ((9, 9), (10, 10), (11, 10), (300, 10), (609, 10), (611, 500), (612, 501)):
            found = archive.state_at(BTC, begin + seconds * SECOND)
            assert found is not None
            assert found.position == Position(7, seq), f"after {seconds} s"
    journal.close()
