"""States that were kept, and the journal's entries after them, make the state in which the journal ends."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.archive.journal import Entry
from lfmesh.core import codec
from lfmesh.core.archive import StateLine
from lfmesh.ports import StoredState
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.services.snapshotter.restore import Restoration, Restored
from lfmesh.services.snapshotter.tape import Tape
from lfmesh.types import Position, StreamKey
from tests.core.model_publisher import keys
from tests.services.snapshotter.link import BOOK, SECOND, TICKER, Link

STREAMS = keys(2)
PRODUCTS = frozenset(key.product for key in STREAMS)


class Life(Link):
    """An intake with a tape; `entries` are what the journal holds, `seen` the shard after each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.seen: list[dict[StreamKey, StateLine]] = [{}]
        self.tape = self.intake.tape = Tape(0, self._append)

    def note(self) -> None:
        """The shard as it is now, after all entries so far."""
        lines = {state.key: line_of(self.intake, self.tape, state.key) for state in self.intake.state}
        self.seen += [lines] * (len(self.entries) + 1 - len(self.seen))
        self.seen[-1] = lines

    def act(self, action: str, key: StreamKey, numbers: list[int]) -> None:
        source = self.source
        match action:
            case "publish" if key in source.streams:
                self.take(source.increment(key, numbers))
            case "publish" | "open":
                self.take(source.open(key))
            case "lose" if key not in source.streams:
                pass
            case "lose":
                source.increment(key, numbers)
                source.forget(key)
                self.recover()
            case "take over":
                self.take_over()
            case "replace":
                # A publisher that knows nothing of the last epoch begins in a lower one.
                known = {one: stream.copy() for one, stream in source.streams.items()}
                for stream in known.values():
                    stream.position = Position(max(0, stream.position.epoch - 3), 0)
                self.source = type(source)(0, source.term + 1, source.clock, known, ring_bytes=3000)
            case _:
                raise AssertionError(action)
        self.note()

    def _append(self, key: StreamKey, frame: bytes) -> None:
        _, header, messages = codec.unpack(frame)
        self.entries.append(Entry(key, header, messages))


def line_of(intake: Intake, tape: Tape, key: StreamKey) -> StateLine:
    state = intake.state.get(key)
    assert state is not None
    text = msgspec.Raw(state.content.text())
    return StateLine(*key, state.term, *state.position, tape.time(key), state.ts, state.input, text)


def stored(line: StateLine) -> StoredState:
    position = Position(line.epoch, line.seq)
    return StoredState(
        StreamKey(line.product, line.channel), line.term, position, line.input, line.ts, bytes(line.state)
    )


def restored(restoration: Restoration) -> dict[StreamKey, Restored]:
    return {one.state.key: one for one in restoration.streams()}


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["publish"] * 6 + ["open", "lose", "take over", "replace"]),
        st.sampled_from(STREAMS),
        st.lists(st.integers(0, 200), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.data())
def test_whatever_was_kept_when_the_journals_end_is_restored(
    actions: list[tuple[str, StreamKey, list[int]]], data: st.DataObject
) -> None:
    life = Life()
    for action in actions:
        life.act(*action)
    life.recover()
    life.note()
    end = len(life.entries)
    checkpoint = data.draw(st.integers(0, end), label="checkpoint at")
    begin = data.draw(st.integers(0, checkpoint), label="journal from")
    states = data.draw(st.integers(0, end), label="state store at")
    restoration = Restoration(PRODUCTS)
    restoration.stored(stored(line) for line in life.seen[states].values())
    restoration.checkpoint(life.seen[checkpoint].values())
    restoration.entries(life.entries[begin:])
    found = restored(restoration)
    assert restoration.unreadable == 0
    for state in life.intake.state:
        one = found[state.key]
        assert one.state.position == state.position
        assert one.state.content.text() == state.content.text()
        assert one.time == life.tape.time(state.key)
        assert one.journaled == state.position
        assert not one.torn
        was = life.seen[states].get(state.key)
        assert one.written == (was is not None and (was.term, was.epoch, was.seq) == (state.term, *state.position))


def kept(life: Life, *numbers: int) -> dict[StreamKey, StateLine]:
    if numbers:
        life.act("publish", BOOK, list(numbers))
    return life.seen[-1]


def test_a_state_ahead_of_the_journal_is_torn() -> None:
    life = Life()
    kept(life, 1)
    first = kept(life, 2)
    end = len(life.entries)
    last = kept(life, 3, 4)
    restoration = Restoration(PRODUCTS)
    restoration.checkpoint(first.values())
    restoration.stored([stored(last[BOOK])])
    restoration.entries(life.entries[:end])
    (one,) = restoration.streams()
    assert one.torn
    assert one.written
    assert one.state.position == Position(last[BOOK].epoch, 3)
    assert one.journaled == Position(last[BOOK].epoch, 1)


def test_a_state_of_which_no_tape_is_known_is_torn() -> None:
    life = Life()
    kept(life, 1)
    restoration = Restoration(PRODUCTS)
    restoration.stored([stored(kept(life, 2)[BOOK])])
    (one,) = restoration.streams()
    assert one.torn
    assert one.journaled is None


def test_a_journal_alone_is_enough_where_it_begins_with_a_snapshot() -> None:
    life = Life()
    kept(life, 1)
    kept(life, 2, 3)
    restoration = Restoration(PRODUCTS)
    restoration.entries(life.entries)
    (one,) = restoration.streams()
    assert (one.torn, one.written) == (False, False)
    assert one.state.content.text() == bytes(kept(life)[BOOK].state)


def test_what_cannot_be_read_is_left_to_the_publisher() -> None:
    life = Life()
    life.act("publish", TICKER, [1])
    lines = kept(life, 1)
    restoration = Restoration(PRODUCTS)
    damaged = msgspec.structs.replace(lines[BOOK], channel=STREAMS[1].channel, state=msgspec.Raw(b'{"trades":1}'))
    restoration.checkpoint([damaged, lines[TICKER]])
    broken = life.entries[-1]._replace(stream=TICKER, messages=[b"{}"])
    restoration.entries([broken])
    assert restoration.unreadable == 2
    assert restoration.streams() == []


def test_other_products_are_left_alone() -> None:
    life = Life()
    kept(life, 1)
    restoration = Restoration({"P1-USD"})
    restoration.checkpoint(kept(life, 2).values())
    restoration.entries(life.entries)
    assert restoration.streams() == []


def test_a_lost_range_shows_in_the_tape_as_a_snapshot() -> None:
    life = Life()
    kept(life, 1)
    kept(life, 2)
    life.act("lose", BOOK, [3])
    header = life.entries[-1].header
    epoch = life.entries[0].header.epoch
    assert header.flags & codec.Flags.SNAPSHOT
    assert (header.epoch, header.first_seq) == (epoch, 2)
    assert (header.prev_epoch, header.prev_seq) == (epoch, 1)
    assert b'"reason":"gap"' in life.entries[-1].messages[0]
    assert life.now > SECOND
