"""What clients go on from that neither our own ring nor the publisher's has got: asked of the snapshotters' archives.

    join waits ──► WantArchive ──► its answer, linked to where the client is ──► queue ──► own ring, or the next page
                      ├── busy, or no answer: the next one is asked, after a pause
                      └── it has not got that: the next one is asked; when all have been, the archive is done with

As with a publisher's ring (hub_older) one request a stream at a time serves all who wait for it, from the one that is
furthest behind, and what answers keep alive is bounded. A client is given `resume_bytes` at most for one subscription.

An archive is a little behind what is published. Where it ends, and nobody else has what comes next, it is asked again
for a while. Where it begins too late, trades begin with the first that any archive, or the publisher, still has; other
streams with the snapshot that took the place of what was lost, if there is one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from lfmesh.core import hub_history
from lfmesh.core.hub_clients import Awaited, Join, Piece, Room
from lfmesh.core.hub_frames import payload
from lfmesh.core.hub_history import Run, Unit
from lfmesh.core.hub_streams import Stream
from lfmesh.types import Position, StreamKey

RETRY_NS = 100_000_000
_RETRY_MAX_NS = 1_000_000_000
BUSY_PATIENCE_NS = 15_000_000_000
"""Archives that have no time, or can't be read now, are asked for so long."""
SILENT_PATIENCE_NS = 10_000_000_000
"""And those that do not answer."""
LAG_NS = 2_000_000_000
"""What has been published is archived by then."""
_ROOM_NS = 10_000_000_000
"""Where others' answers leave no room for so long, the archive is done without."""


class WantArchive(NamedTuple):
    """Ask an archive for what follows on a position, or for the oldest after it that it has.

    Who can be asked take turns: `attempt` (from 1) grows with each answer that was of no use.
    """

    key: StreamKey
    after: Position
    attempt: int


@dataclass(slots=True)
class ArchiveCounters:
    """What has come of requests since the start: answers by what they were, bytes as they are sent to clients."""

    served: int = 0
    behind: int = 0
    """It ends, for now, where somebody wants to go on."""
    late: int = 0
    """It begins later."""
    none: int = 0
    busy: int = 0
    silent: int = 0
    bytes: int = 0

    @property
    def outcomes(self) -> dict[str, int]:
        """Answers by what they were."""
        return {name: getattr(self, name) for name in ("served", "behind", "late", "none", "busy", "silent")}


class Joining(Protocol):
    """What is needed of `hub_joins.Joins`."""

    def want(self, want: WantArchive) -> None:
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


class Rungs(Protocol):
    """What is needed of `hub_older.Older`."""

    def use(self, join: Join, piece: Piece) -> None:
        """Frames of this answer are in the join's queue."""

    def takes(self, join: Join) -> bool:
        """True if the client may be given another answer."""

    def begin_late(self, join: Join, units: Sequence[Unit], now: int, piece: Piece) -> None:
        """Begin with the first state that can be made of these units, if there is one."""

    def done_without(self, join: Join, now: int) -> None:
        """No archive has what follows on its target."""


@dataclass(slots=True, eq=False)
class _Search:
    """What is asked on behalf of one stream's joins.

    `after` is under way. `position` is what was asked for last; `refused`, `since` (when that was first of no use) and
    `late` (the earliest position after it that an archive has, and its attempt) are about that.
    """

    after: Position | None = None
    position: Position | None = None
    attempt: int = 1
    refused: int = 0
    fruitless: int = 0
    since: int = 0
    not_before: int = 0
    late: tuple[Position, int] | None = None
    settles: bool = False
    """True when what comes next is to be used even if it begins late."""

    def begin(self, position: Position) -> None:
        """Something else is asked for now."""
        self.position = position
        self.refused = self.fruitless = self.since = self.not_before = 0
        self.late = None
        self.settles = False


class Archive:
    """See the module's docstring. `known` tells how many archives can be asked for a stream, now."""

    def __init__(
        self, joins: Joining, rungs: Rungs, known: Callable[[StreamKey], int], resume_bytes: int, room: Room
    ) -> None:
        self.counters = ArchiveCounters()
        self.room = room
        self._joins = joins
        self._rungs = rungs
        self._known = known
        self._resume_bytes = resume_bytes
        self._searches: dict[Stream, _Search] = {}

    def may_have(self, join: Join) -> bool:
        """True if it is worth asking for what follows on the join's target."""
        return (
            join.archived_bytes < self._resume_bytes
            and join.not_archived != join.target
            and self._known(join.stream.key) > 0
        )

    def wait(self, join: Join, now: int) -> None:
        """The client goes on from `join.target`, which no ring has."""
        join.deadline = now + _ROOM_NS
        self._joins.wait(join, "archive")
        self._searches.setdefault(join.stream, _Search())
        self.ask(join.stream, now)

    def due(self, stream: Stream, now: int) -> None:
        """Ask again, and give up, what time has come for."""
        if self.room.full:
            self._leave([join for join in _waiting(stream) if now >= join.deadline], now)
        self.ask(stream, now)

    def ask(self, stream: Stream, now: int) -> None:
        """Ask for those who wait, unless that is under way."""
        search = self._searches.get(stream)
        if search is None or search.after is not None:
            return
        waiting = _waiting(stream)
        if not waiting:
            del self._searches[stream]
            return
        if not self._known(stream.key):
            self._leave(waiting, now)
            return
        targets = [join.target for join in waiting if join.target is not None and self._rungs.takes(join)]
        if not targets or self.room.full:
            return
        target = min(targets)
        if target != search.position:
            search.begin(target)
        if now >= search.not_before:
            search.after = target
            self._joins.want(WantArchive(stream.key, target, search.attempt))

    # Answers ----------------------------------------------------------------------------------------------------

    def answered(self, stream: Stream, units: Sequence[Unit], more: bool, now: int) -> None:
        """What an archive has; `more`: it goes on after the last of them."""
        at = stream.position
        if at is None:  # its publisher has been replaced meanwhile
            self.failed(stream, "silent", now)
            return
        search, asked = self._end(stream)
        if search is None or asked is None:
            return
        _learn(stream, units)
        piece = Piece(sum(len(frame) for unit in units for frame in unit.frames), self.room)
        lacking: list[Join] = []
        for join in _waiting(stream):
            assert join.target is not None
            if join.target < asked:
                continue
            if not self._serve(join, units, at, more, piece, now) and join.target == asked:
                lacking.append(join)
        if lacking:
            self._lacking(stream, search, lacking, units, more, piece, now)
        else:
            self.counters.served += 1
            search.position = None  # what comes next is another question, to the same archive
        self.ask(stream, now)

    def failed(self, stream: Stream, why: Literal["none", "busy", "silent"], now: int) -> None:
        """The archive that was asked has not got it, can't tell now, or did not answer."""
        search, asked = self._end(stream)
        if search is None or asked is None:
            return
        match why:
            case "none":
                self.counters.none += 1
                self._refused(stream, search, _at(stream, asked), now)
            case "busy":
                self.counters.busy += 1
                self._fruitless(stream, search, now, BUSY_PATIENCE_NS)
            case "silent":
                self.counters.silent += 1
                self._fruitless(stream, search, now, SILENT_PATIENCE_NS)
        self.ask(stream, now)

    # Inside -----------------------------------------------------------------------------------------------------

    def _end(self, stream: Stream) -> tuple[_Search | None, Position | None]:
        search = self._searches.get(stream)
        if search is None:
            return None, None
        asked, search.after = search.after, None
        return search, asked

    def _serve(self, join: Join, units: Sequence[Unit], at: Position, more: bool, piece: Piece, now: int) -> bool:
        """Give the client what follows on where it is; False if that is not among these units."""
        stream, target = join.stream, join.target
        assert target is not None
        if target > at:  # of a publisher whose word has become void
            self._joins.fail(join, now)
            return True
        holding = stream.holding(target)
        run = hub_history.link_archived(units, holding, at, trades=stream.trades is not None)
        if run.frames:
            size = sum(map(len, run.frames))
            join.archived_bytes += size
            self.counters.bytes += size
            join.in_archive = more
            self._joins.count(join, "archive")
            self._rungs.use(join, piece)
            self._joins.send(join, run.frames, run.end)
            return True
        if self._joins.own(join, target) is None:
            return False
        self._joins.count(join, "ring")
        self._joins.send(join, (), target)
        return True

    def _lacking(
        self, stream: Stream, search: _Search, joins: list[Join], units: Sequence[Unit], more: bool, piece: Piece,
        now: int,
    ) -> None:  # fmt: skip
        """The answer does not go on from where these clients are, which is what was asked for."""
        asked = search.position
        first = next((unit for unit in units if asked is None or _last(unit) > asked), None)
        if first is None:
            self.counters.behind += 1
            search.since = search.since or now
            if now - search.since < LAG_NS:
                search.not_before = now + RETRY_NS
                search.attempt += 1
            else:
                self._refused(stream, search, joins, now)
            return
        self.counters.late += 1
        if search.settles:
            for join in joins:
                join.archived_bytes += piece.size
                join.in_archive = more
                self.counters.bytes += piece.size
                self._rungs.begin_late(join, units, now, piece)
            return
        begins = Position(first.epoch, first.first_seq)
        of_use = first.snapshot or stream.trades is not None
        if of_use and (search.late is None or begins < search.late[0]):
            search.late = (begins, search.attempt)
        self._refused(stream, search, joins, now)

    def _refused(self, stream: Stream, search: _Search, joins: list[Join], now: int) -> None:
        search.refused += 1
        search.attempt += 1
        if search.refused < self._known(stream.key):
            return
        late = search.late
        if late is None or search.settles or any(join.late is not None and join.late <= late[0] for join in joins):
            self._leave(joins, now)
        else:
            search.settles, search.attempt, search.not_before = True, late[1], 0

    def _fruitless(self, stream: Stream, search: _Search, now: int, patience_ns: int) -> None:
        search.since = search.since or now
        search.attempt += 1
        search.fruitless += 1
        if now - search.since < patience_ns:
            search.not_before = now + min(RETRY_NS << min(search.fruitless - 1, 8), _RETRY_MAX_NS)
        else:
            self._leave(_waiting(stream), now)

    def _leave(self, joins: Iterable[Join], now: int) -> None:
        for join in joins:
            join.in_archive = False
            join.not_archived = join.target
            self._rungs.done_without(join, now)


def _learn(stream: Stream, units: Sequence[Unit]) -> None:
    """Which trades the positions of these epochs stand for."""
    if stream.trades is None:
        return
    newest = {unit.epoch: unit for unit in units if unit.frames}
    for unit in newest.values():
        stream.trades.learn(_last(unit), payload(unit.frames[-1]))


def _last(unit: Unit) -> Position:
    return Position(unit.epoch, unit.first_seq if unit.snapshot else unit.first_seq + len(unit.frames) - 1)


def _waiting(stream: Stream) -> list[Join]:
    return list(stream.waiting["archive"])


def _at(stream: Stream, position: Position) -> list[Join]:
    return [join for join in _waiting(stream) if join.target == position]
