"""What clients go on from that our own ring has not got (any more): asked of the stream's publisher, a piece at a time.

    join waits ──► WantOlder ──► its answer, linked to where the client is ──► queue ──► own ring, or the next piece
                                  └── it has not got that: the archives (hub_archive) ──► theirs, likewise

One request a stream at a time serves all who wait for it, from the one that is furthest behind; the frames are shared.
A client has at most `_CLIENT_PIECES` answers in its queues, and all clients together a bounded number of bytes.

Where nobody has all of it any more, a stream begins with a snapshot. Of trades that is the first one that can be made
of what is still to be had, and all later trades follow it: no more is lost than must be.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from lfmesh.core import hub_history
from lfmesh.core.hub_archive import Archive, WantArchive
from lfmesh.core.hub_clients import Awaited, Join, Piece, Room
from lfmesh.core.hub_history import Ring, Run, Unit
from lfmesh.core.hub_snapshots import Cached, State
from lfmesh.core.hub_streams import Stream
from lfmesh.types import Position, StreamKey

_CLIENT_PIECES = 2
_RETRY_NS = 100_000_000
_PATIENCE_NS = 3_000_000_000
"""A publisher that does not answer may be about to be replaced: so long it is asked again."""
_ROOM_NS = 10_000_000_000
"""Where others' answers leave no room for so long, a snapshot has to do."""


class WantOlder(NamedTuple):
    """Ask the stream's publisher for what follows on a position; of trades, for the oldest that it has, if need be."""

    key: StreamKey
    after: Position


class Joining(Protocol):
    """What is needed of `hub_joins.Joins`."""

    def want(self, want: WantOlder | WantArchive) -> None:
        """A request to be sent."""

    def wait(self, join: Join, awaited: Awaited) -> None:
        """The join waits for this."""

    def send(self, join: Join, frames: Iterable[bytes], cursor: Position) -> None:
        """The client gets these, then what came after `cursor`."""

    def fail(self, join: Join, now: int) -> None:
        """It can't be gone on from there: the stream begins anew with the state of now."""

    def count(self, join: Join, rung: str) -> None:
        """This serves it."""

    def own(self, join: Join, position: Position) -> Run | None:
        """What our own ring has for it after a position; None: it has not got all of that."""


class OlderLimits(NamedTuple):
    """Bytes of answers that may be in clients' queues: of rings, and of archives. `resume_bytes`: what one subscription
    may get of archives. `trades`: how many trades a trades snapshot lists."""

    ring_bytes: int
    archive_bytes: int
    resume_bytes: int
    trades: int


class Older:
    """See the module's docstring. `archives` tells how many archives can be asked for a stream, now."""

    def __init__(self, joins: Joining, ring: Ring, limits: OlderLimits, archives: Callable[[StreamKey], int]) -> None:
        self.room = Room(limits.ring_bytes)
        self.archive = Archive(joins, self, archives, limits.resume_bytes, Room(limits.archive_bytes))
        self._joins = joins
        self._ring = ring
        self._trades = limits.trades

    def wait(self, join: Join, now: int) -> None:
        """The client goes on from `join.target`, which our own ring can't serve."""
        join.late = None
        if join.in_archive and self.archive.may_have(join):
            self.archive.wait(join, now)
        else:
            self._wait(join, now)

    def due(self, stream: Stream, now: int) -> None:
        """Ask again, and give up, what time has come for."""
        if self.room.full:
            for join in [join for join in _waiting(stream) if now >= join.deadline]:
                self._joins.fail(join, now)
        self.ask(stream, now)
        self.archive.due(stream, now)

    def ask(self, stream: Stream, now: int) -> None:
        """Ask for those who wait, unless that is under way."""
        if stream.older_after is not None or now < stream.older_at or self.room.full:
            return
        targets = [join.target for join in _waiting(stream) if join.target is not None and self.takes(join)]
        if targets:
            stream.older_after = min(targets)
            self._joins.want(WantOlder(stream.key, stream.older_after))

    def release(self, join: Join, now: int) -> None:
        """The join's queue holds nothing of its answer any more; the client's next stream may ask."""
        piece, join.piece = join.piece, None
        if piece is None:
            return
        join.client.pieces -= 1
        piece.users -= 1
        if not piece.users:
            piece.room.bytes -= piece.size
        for other in tuple(join.client.joins.values()):
            if other.waits == "retransmission":
                self.ask(other.stream, now)
            elif other.waits == "archive":
                self.archive.ask(other.stream, now)

    # Answers ----------------------------------------------------------------------------------------------------

    def answered(self, stream: Stream, units: Sequence[Unit], more: bool, now: int) -> None:
        """What the publisher has; `more`: it goes on after the last of them."""
        at = stream.position
        if at is None:  # its publisher has been replaced meanwhile
            self.unanswered(stream, now)
            return
        stream.older_since = 0
        piece = Piece(sum(len(frame) for unit in units for frame in unit.frames), self.room)
        asked = stream.older_after
        for join in self._end(stream):
            assert join.target is not None
            run = hub_history.link(units, join.target, at)
            if run is None:
                self._lacking(join, units, now, piece)
            elif run.frames:
                self._joins.count(join, "retransmission")
                self.use(join, piece)
                self._joins.send(join, run.frames, run.end)
            elif self._joins.own(join, join.target) is not None:
                self._joins.count(join, "ring")
                self._joins.send(join, (), join.target)
            elif not more or join.target == asked:
                self._joins.fail(join, now)
        self.ask(stream, now)

    def none(self, stream: Stream, now: int) -> None:
        """The publisher has nothing of it."""
        stream.older_since = 0
        asked = stream.older_after
        for join in self._end(stream):
            if join.target == asked:  # what others want that is newer it may have
                self._lacking(join, (), now)
        self.ask(stream, now)

    def unanswered(self, stream: Stream, now: int) -> None:
        """Nobody answered, or somebody whose word does not count any more."""
        stream.older_since = stream.older_since or now
        if now - stream.older_since < _PATIENCE_NS:
            stream.older_after, stream.older_at = None, now + _RETRY_NS
            return
        stream.older_since = 0
        for join in self._end(stream):
            self._lacking(join, (), now)
        self.ask(stream, now)

    # What `Archive` calls ---------------------------------------------------------------------------------------

    def use(self, join: Join, piece: Piece) -> None:
        """Frames of this answer are in the join's queue."""
        if not piece.users:
            piece.room.bytes += piece.size
        piece.users += 1
        join.piece = piece
        join.client.pieces += 1

    @staticmethod
    def takes(join: Join) -> bool:
        """True if the client may be given another answer."""
        return not join.client.paused and join.client.pieces < _CLIENT_PIECES

    def done_without(self, join: Join, now: int) -> None:
        """No archive has what follows on its target."""
        if join.late is not None:
            self._wait(join, now)
        else:
            self._begin_with_ours(join, now)

    def begin_late(self, join: Join, units: Iterable[Unit], now: int, piece: Piece | None = None) -> None:
        """Begin with the first state that can be made of these units, if they are later than where the client is.

        `piece` is the answer that they came in; without it they are our own ring's.
        """
        state = self._first_state(join, units, archived=piece is not None and piece.room is self.archive.room)
        at = join.stream.position
        if state is None or at is None or state.position > at:
            self._joins.fail(join, now)
            return
        assert join.target is not None
        cached = Cached(join.stream.key, state)
        join.begin_anew(join.stream.holding(join.target))
        frames = cached.frames(join.reason, join.holding)
        cursor = state.position
        if piece is not None:
            trades = join.stream.trades is not None
            rest = hub_history.link_archived(units, cached.held, at, trades=trades)
            frames, cursor = (*frames, *rest.frames), rest.end
            self.use(join, piece)
        join.gives = cached.held
        self._joins.count(join, "snapshot")
        self._joins.send(join, frames, cursor)

    # Inside -----------------------------------------------------------------------------------------------------

    def _wait(self, join: Join, now: int) -> None:
        join.deadline = now + _ROOM_NS
        self._joins.wait(join, "retransmission")
        self.ask(join.stream, now)

    def _lacking(self, join: Join, units: Sequence[Unit], now: int, piece: Piece | None = None) -> None:
        """The publisher has not got what comes next; these are the oldest units that it has."""
        if self.archive.may_have(join):
            join.late = Position(units[0].epoch, units[0].first_seq) if units else None
            self.archive.wait(join, now)
        elif units:
            self.begin_late(join, units, now, piece)
        else:
            self._begin_with_ours(join, now)

    def _begin_with_ours(self, join: Join, now: int) -> None:
        assert join.target is not None
        self.begin_late(join, hub_history.retained(self._ring, join.stream.key, join.target), now)

    def _first_state(self, join: Join, units: Iterable[Unit], *, archived: bool) -> State | None:
        """Only of trades can a state be made of increments; none that the client has may come twice.

        Of an archive also the snapshot that took the place of what was lost: what comes after it is worth having.
        """
        stream, target = join.stream, join.target
        assert target is not None
        if stream.trades is None:
            return hub_history.first_snapshot(units, target) if archived else None
        state = hub_history.oldest_trades(units, target, self._trades)
        held = stream.holding(target).trade_id
        if state is None or held is None:
            return state
        last = Cached(stream.key, state).held.trade_id
        return state if last is not None and held <= last else None

    @staticmethod
    def _end(stream: Stream) -> list[Join]:
        """Those whom the answer is for; who came later and wants still older ones is asked for next."""
        asked, stream.older_after = stream.older_after, None
        return [
            join for join in _waiting(stream) if join.target is not None and asked is not None and join.target >= asked
        ]


def _waiting(stream: Stream) -> list[Join]:
    return list(stream.waiting["retransmission"])
