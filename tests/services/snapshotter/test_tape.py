"""What goes into the journal, and where it stands in each stream."""

from lfmesh.core import codec
from lfmesh.core.archive import AHEAD_NS
from lfmesh.core.codec import Flags, Header
from lfmesh.core.state import StreamState
from lfmesh.services.snapshotter.tape import Tape
from lfmesh.types import NO_INPUT, Position, StreamKey
from tests.services.snapshotter.link import BOOK, TICKER

STATE = b'{"bids":[[1.10,2]],"asks":[]}'


class Journal:
    """Keeps what is appended."""

    def __init__(self) -> None:
        self.frames: list[codec.MarketFrame] = []
        self.tape = Tape(0, self._append)

    def _append(self, _: StreamKey, frame: bytes) -> None:
        self.frames.append(codec.unpack(frame))

    def publish(self, key: StreamKey, first: int, count: int, ts_event: int = 0, *, snapshot: bool = False) -> None:
        flags = Flags.SNAPSHOT if snapshot else Flags.INCREMENTS
        header = Header(flags, 3, 4, NO_INPUT, 7, first, 0, 0, ts_event, 1000)
        self.tape.published(key, header, count, codec.pack(b"md.0.P0-USD.book.", header, [b"{}"] * count))

    def tear(self, position: Position) -> Header:
        state = StreamState(BOOK, 3, position, NO_INPUT, 1234)
        self.tape.torn(state, [STATE], 9, NO_INPUT)
        return self.frames[-1].header


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
    assert header.ts_event == 500
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
