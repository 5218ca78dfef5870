"""Where a snapshotter that starts goes on, pure: states that were kept, and what the journal has after them.

    checkpoint ──┐
                 ├──► the newest of each stream ──► the journal's entries after it ──► adopted by the replica
    state store ─┘

The journal is written before the states are, so what comes out stands where the journal ends, and the publisher's ring
closes the rest: what it sends again is dropped, or journaled, as it would have been without the restart. A stream whose
journal ends elsewhere (it was lost, or another snapshotter wrote the state) is `torn`: its state enters the journal, so
that the tape shows the hole and goes on from there.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from lfmesh.archive.journal import Entry
from lfmesh.archive.segments import Mark
from lfmesh.core import encode
from lfmesh.core.archive import AHEAD_NS, StateLine, StreamClock
from lfmesh.core.codec import Flags
from lfmesh.core.facts import Accepted
from lfmesh.core.state import StreamState
from lfmesh.errors import BadMeshFrame
from lfmesh.ports import StoredState
from lfmesh.types import Position, StreamKey

_SNAPSHOT = int(Flags.SNAPSHOT)
_STATUS = int(Flags.STATUS)


class Restored(NamedTuple):
    """One stream as it goes on.

    `time` is the stream's (ns, 0: unknown), `journaled` where its tape ends (None: nothing is known of any), `written`
    whether the state store holds the state as it is.
    """

    state: StreamState
    time: int
    journaled: Position | None
    written: bool

    @property
    def torn(self) -> bool:
        """True if the tape does not end where the state is."""
        return self.journaled != self.state.position


class _Stream:
    """One stream while it is put together."""

    __slots__ = ("clock", "journaled", "state", "stored", "term")

    def __init__(self) -> None:
        self.state: StreamState | None = None
        self.clock = StreamClock()
        self.term = 0
        self.journaled: Position | None = None
        self.stored: tuple[int, Position] | None = None


class Restoration:
    """Give it what was kept, then the journal's entries in order, then take `streams`. Only these products count."""

    def __init__(self, products: Collection[str]) -> None:
        self._products = products
        self._streams: dict[StreamKey, _Stream] = {}
        self.unreadable = 0
        """States that were passed over since they can't be read."""

    def cut(self, marks: Mapping[StreamKey, Mark]) -> None:
        """How far each stream's tape has been cut from the journal."""
        for key, mark in marks.items():
            if key.product in self._products:
                stream = self._streams.setdefault(key, _Stream())
                stream.clock.see(mark.time)
                stream.journaled = mark.position if mark.position.epoch else None

    def checkpoint(self, lines: Iterable[StateLine]) -> None:
        """The shard as it was when the journal was last known to be at these positions."""
        for line in lines:
            key = StreamKey(line.product, line.channel)
            stored = StoredState(key, line.term, Position(line.epoch, line.seq), line.input, line.ts, bytes(line.state))
            stream = self._base(stored)
            if stream is not None:
                stream.clock.see(line.time)
                stream.term, stream.journaled = line.term, stored.position

    def stored(self, states: Iterable[StoredState]) -> None:
        """What the state store holds."""
        for one in states:
            stream = self._base(one)
            if stream is not None:
                stream.stored = one.term, one.position

    def entries(self, entries: Iterable[Entry]) -> None:
        """What was journaled since the checkpoint, in order; some of it may be older than the states."""
        for entry in entries:
            if entry.stream.product in self._products and not entry.header.flags & _STATUS:
                self._journaled(entry)

    def streams(self) -> list[Restored]:
        """Each stream that has a state."""
        return [
            Restored(
                stream.state,
                stream.clock.now,
                stream.journaled,
                stream.stored == (stream.state.term, stream.state.position),
            )
            for stream in self._streams.values()
            if stream.state is not None
        ]

    # Inside -----------------------------------------------------------------------------------------------------

    def _base(self, stored: StoredState) -> _Stream | None:
        """The stream, with this state if it is newer; None if the state can't be read, or is not ours."""
        key = stored.stream
        if key.product not in self._products:
            return None
        stream = self._streams.setdefault(key, _Stream())
        known = stream.state
        if known is not None and (known.term, known.position) >= (stored.term, stored.position):
            return stream
        state = StreamState(key, stored.term, stored.position, stored.input, stored.ts)
        if not self._load(state, [stored.state]):
            return None
        stream.state = state
        return stream

    def _load(self, state: StreamState, parts: list[bytes]) -> bool:
        try:
            state.content.load(parts)
        except BadMeshFrame:
            self.unreadable += 1
            return False
        return True

    def _journaled(self, entry: Entry) -> None:
        key, header, messages = entry
        stream = self._streams.setdefault(key, _Stream())
        snapshot = bool(header.flags & _SNAPSHOT)
        end = Position(header.epoch, header.first_seq if snapshot else header.first_seq + len(messages) - 1)
        if header.ts_event:
            stream.clock.see(min(header.ts_event, header.ts_publish + AHEAD_NS))
        if stream.journaled is None or _is_after(stream.term, stream.journaled, header.term, end, snapshot=snapshot):
            stream.term, stream.journaled = max(stream.term, header.term), end
        state = stream.state
        at = None if state is None else state.position
        if not _is_after(0 if state is None else state.term, at, header.term, end, snapshot=snapshot):
            return
        try:
            if snapshot:
                self._open(stream, entry, end)
            elif state is not None and header.first_seq <= state.position.seq + 1:
                first = state.position.seq + 1
                items = [(header, message) for message in messages[first - header.first_seq :]]
                state.apply(Accepted(header.epoch, first, items))
        except (BadMeshFrame, ValueError):  # what can't be read is taken anew from the publisher
            self.unreadable += 1
            stream.state = None

    def _open(self, stream: _Stream, entry: Entry, position: Position) -> None:
        key, header, messages = entry
        term = header.term if stream.state is None else max(header.term, stream.state.term)
        state = StreamState(key, term, position, header.input, header.ts_publish)
        state.content.load([encode.state_of(message) for message in messages])
        stream.state = state


def _is_after(known_term: int, at: Position | None, term: int, end: Position, *, snapshot: bool) -> bool:
    """Whether an entry goes on from a position: in its epoch by number; into another epoch only with a snapshot, of a
    newer publisher or, of the same one, in a later epoch."""
    if at is None:
        return snapshot
    if end.epoch == at.epoch:
        return end.seq > at.seq
    return snapshot and (term, end.epoch) > (known_term, at.epoch)
