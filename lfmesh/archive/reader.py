"""What is kept of each stream, read by time and by position: from the object store, and from what waits on this disk.

    journal ──cut──► spool ──upload──► object store

What was published moves from left to right, and is in one of the three at every moment. So they are listed from left
to right, too: then nothing is missed, and what is found twice is dropped by its position. What was listed and has moved
on before it is read makes the reader list anew and go on from where it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from lfmesh.archive import asof
from lfmesh.archive.asof import Lack, StateAt
from lfmesh.archive.batches import Batch, begins_with_snapshot, read_segment
from lfmesh.archive.listing import Listing
from lfmesh.archive.merge import Piece, Span, plan, span_of
from lfmesh.archive.places import SPOOL
from lfmesh.archive.segments import Line
from lfmesh.archive.states import read_states
from lfmesh.archive.uncut import Run, Uncut, read_run
from lfmesh.core.archive import SegmentName, SnapshotName, StreamClock, event_time
from lfmesh.errors import BadArchive, ObjectMissing
from lfmesh.ports import ObjectStore
from lfmesh.types import CHANNELS, Channel, Position, StreamKey

LIST_BYTES = 1024 * 1024
"""`Archive.after` gives about so much at a time."""
_CLOCKS_APART_NS = 60_000_000_000
_DAY_NS = 86_400_000_000_000
_NEVER = (1 << 63) - 1
_ATTEMPTS = 5
"""So often what was listed may be gone when it is to be read, with nothing read in between."""

type Source = SegmentName | Run
type Tape = Iterator[tuple[Piece[Source], Batch]]
type Kept = tuple[SnapshotName, StateAt]


def _no_rest() -> None:
    """For those who have the interpreter to themselves."""


class _Gone(Exception):
    """What was listed is not there any more: list anew."""


class Archive:
    """One venue's archive. `local` are this machine's journals and spools (`lfmesh.archive.places`): they are only
    read, and may be in use.

    Any number of threads may use it at once, each with iterators of its own: what one has found in the journals, the
    others need not read. `rest` is called after each few milliseconds of work, for whoever shares the interpreter with
    an event loop. Everything raises StoreUnavailable while the object store can't be read, BadArchive for an object
    that does not hold what its name promises.
    """

    def __init__(
        self, objects: ObjectStore, venue: str, local: Sequence[Path] = (), *, rest: Callable[[], None] = _no_rest
    ) -> None:
        self._objects = objects
        spools = [folder for folder in local if folder.parent.name == SPOOL]
        self._listing = Listing(objects, venue, spools)
        self._uncut = Uncut([folder for folder in local if folder not in spools], rest)
        self._rest = rest

    def close(self) -> None:
        """Close the object store; idempotent. Leaving a `with` block does it."""
        self._objects.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What there is ----------------------------------------------------------------------------------------------

    def streams(self) -> list[StreamKey]:
        """Streams of which there is any tape, in order."""
        self._uncut.look()
        return sorted(self._uncut.streams() | self._listing.streams())

    def products(self) -> list[str]:
        """Ids of the products of which there is any tape, in order."""
        return list(dict.fromkeys(stream.product for stream in self.streams()))

    def channels(self, product: str) -> list[Channel]:
        """Its channels of which there is any tape."""
        self._uncut.look()
        held = {stream.channel for stream in self._uncut.streams() if stream.product == product}
        held |= self._listing.channels(product)
        return [channel for channel in CHANNELS if channel in held]

    def bounds(self, stream: StreamKey) -> tuple[int, int] | None:
        """Time (ns) of the first and the last line of a stream; None where there is none."""
        self._uncut.look()
        newest = next(self._listing.days(stream), [])
        first = self._listing.first(stream)
        segments = [span_of(name) for name in (newest if first is None else [first, *newest])]
        spans = _together(self._uncut.spans(stream), segments)
        return (min(span.first_ts for span in spans), max(span.last_ts for span in spans)) if spans else None

    def size(self, stream: StreamKey, start_ts: int | None = None, end_ts: int | None = None) -> int:
        """About how many lines there are from `start_ts` to `end_ts`."""
        return sum(span.last_seq - span.first_seq + 1 for span in self._spans(stream, start_ts, end_ts))

    def segments(self, stream: StreamKey, start_ts: int | None = None, end_ts: int | None = None) -> list[SegmentName]:
        """Segments, uploaded or in a spool, with lines from `start_ts` to `end_ts` (both inclusive), in order."""
        return self._listing.segments(stream, start_ts, end_ts)

    # Reading ----------------------------------------------------------------------------------------------------

    def lines(
        self,
        stream: StreamKey,
        *,
        start_ts: int | None = None,
        end_ts: int | None = None,
        after: Position | None = None,
    ) -> Iterator[Line]:
        """Lines with start_ts <= time <= end_ts, in order, each position once, whoever archived it; only those after
        the position `after` if that is given.

        Within an epoch `seq` grows by 1; a snapshot takes the place of what was lost for good; where tape is missing
        (dropped by a full spool, deleted by retention) `seq` simply jumps. Memory: one compressed segment.
        """
        listing = partial(self._spans, stream, start_ts, end_ts)
        for line in _lines(self._tape(listing, after, whole=True)):
            if (start_ts is None or line.time >= start_ts) and (end_ts is None or line.time <= end_ts):
                yield line

    def tape(
        self,
        stream: StreamKey,
        *,
        start_ts: int | None = None,
        end_ts: int | None = None,
        after: Position | None = None,
    ) -> Tape:
        """The same in batches, which are not looked into, each with the piece that it belongs to: whole segments, of
        which the first and the last can begin before `start_ts` and end after `end_ts`."""
        return self._tape(partial(self._spans, stream, start_ts, end_ts), after)

    def after(self, stream: StreamKey, position: Position, max_bytes: int) -> Iterator[list[Line]] | None:
        """What follows a position up to the end of the archive, in lists of about 1 MB: (epoch, seq + 1), …; epochs
        that began later come in order, with their opening snapshots.

        None where it is not all there: then the only way on is a snapshot. An empty iterator: nothing follows. It ends
        after about `max_bytes` of messages; ask again from the last position for more.
        """
        listing = partial(self._spans_since, stream, position)
        if not _gapless(listing(), position):
            return None
        return _listed(_following(_lines(self._tape(listing, position, whole=True)), position), max_bytes)

    def state_at(self, stream: StreamKey, at: int) -> StateAt | None:
        """State as of a moment (ns, the venue's time): everything of time <= `at` is in it. None where none is known.

        From the shard's newest snapshot before it, or the epoch's opening, and the tape from there on. Where these do
        not show that nothing came between the state and the moment, its `lack` says so.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._state_at(stream, at)
            except _Gone as error:
                gone = error
        raise BadArchive(f"what is listed of {stream.product} {stream.channel} is never there: {gone}") from gone

    # Inside -----------------------------------------------------------------------------------------------------

    def _state_at(self, stream: StreamKey, at: int) -> StateAt | None:
        kept = self._kept(stream, at)
        base = None if kept is None else kept[1]
        # Not only from the base's time on: another snapshotter's clock may be a little behind.
        start_ts = None if base is None else max(0, base.time - _CLOCKS_APART_NS)
        spans = self._spans(stream, start_ts, at)
        opening = asof.newest_opening(spans, self._begins_with_snapshot, base)
        if opening is not None:
            listing = partial(self._spans, stream, opening.first_ts, at)
            found = asof.build(stream, None, self._tape(listing, opening.last, opening), at)
        elif base is None:
            return None
        else:

            def later() -> list[Span[Source]]:
                found = asof.later_epochs(self._spans(stream, start_ts, at), base)
                return [span for _, spans in found for span in spans]

            found = asof.build(stream, base, self._tape(later, base.position), at)
        return None if found is None else found._replace(lack=self._lack(found, at, kept))

    def _lack(self, state: StateAt, at: int, kept: Kept | None) -> Lack | None:
        """What the archive can't show of the time between a state and the moment that it is to be of."""
        follows, reach = self._follows(state, at), state.time
        newest = self._kept(state.stream, _NEVER, kept) if follows is None and at > reach else None
        if newest is not None:
            name, last = newest
            if last.position == state.position:  # a quiet stream
                reach = max(reach, name.ts)
            elif (last.time, last.position) > (state.time, state.position):
                follows = self._follows(state, at) or False  # its tape has come meanwhile, or is missing
        if follows is None:
            return Lack(reach, hole=False) if at > reach else None
        return None if follows else Lack(state.time, hole=True)

    def _follows(self, state: StateAt, at: int) -> bool | None:
        """Whether the tape goes on where a state is, which then holds until there; None where there is no more tape."""
        start_ts = max(0, state.time - _CLOCKS_APART_NS)
        for end_ts in (at + _DAY_NS, None):  # what follows is rarely far away
            spans = self._spans(state.stream, start_ts, end_ts)
            follows = asof.follows_on(spans, state)
            if follows is not None:
                return follows and not asof.stands_in_a_hole(spans, state.position, self._begins_with_snapshot)
        return None

    def _kept(self, stream: StreamKey, at: int, known: Kept | None = None) -> Kept | None:
        """The stream's state in its shard's newest snapshot up to `at`; `known` is one that has been read."""
        for name in self._listing.snapshots(stream.product, at):
            if known is not None and name == known[0]:
                return known
            try:
                body = self._listing.body(name)
            except ObjectMissing as error:
                raise _Gone(str(error)) from error
            for line in read_states(name, body):
                if (line.product, line.channel) == stream:
                    return name, StateAt(stream, Position(line.epoch, line.seq), line.time, [bytes(line.state)])
        return None

    def _spans(self, stream: StreamKey, start_ts: int | None, end_ts: int | None) -> list[Span[Source]]:
        """Spans with lines from `start_ts` to `end_ts`, both inclusive."""
        self._uncut.look()
        runs = [span for span in self._uncut.spans(stream) if end_ts is None or span.first_ts <= end_ts]
        # What is uncut goes on at the time that the segments before it have reached, so those must be known.
        begin = start_ts if all(span.first_ts for span in runs) else None
        names = self._listing.segments(stream, begin, None if runs else end_ts)
        found = _together(runs, list(map(span_of, names)))
        return [
            span
            for span in found
            if (start_ts is None or span.last_ts >= start_ts) and (end_ts is None or span.first_ts <= end_ts)
        ]

    def _spans_since(self, stream: StreamKey, position: Position) -> list[Span[Source]]:
        """Everything from the position on, and some of what is before it."""
        self._uncut.look()
        runs, found = self._uncut.spans(stream), list[Span[SegmentName]]()
        days = self._listing.days(stream)
        while not any(_reaches(span, position) for span in (*runs, *found)):
            names = next(days, None)
            if names is None:
                break
            found += map(span_of, names)
        return _together(runs, found)

    def _tape(
        self,
        listing: Callable[[], list[Span[Source]]],
        after: Position | None,
        first: Span[Source] | None = None,
        *,
        whole: bool = False,
    ) -> Tape:
        """What `listing` finds after a position, in order; `first` before it. `whole`: spans are given whole,
        with what is known already: the clock needs it."""
        if first is not None:
            piece = Piece(first, None, opens=True, gap=False)
            yield from ((piece, batch) for batch in self._open(piece))
        at, done, attempts = after, set[int](), 0
        while True:
            try:
                for piece in plan(listing(), self._begins_with_snapshot, at, done):
                    batches = self._open(piece._replace(after_seq=None) if whole else piece)
                    if at is not None and at.epoch != piece.span.epoch:
                        done.add(at.epoch)
                    for batch in batches:
                        yield piece, batch
                        self._rest()
                    at, attempts = piece.span.last, 0
            except _Gone as error:
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise BadArchive(f"what is listed is never there: {error}") from error
            else:
                return

    def _open(self, piece: Piece[Source]) -> Iterator[Batch]:
        """The batches of a piece; _Gone, at once, if it is not there any more."""
        span = piece.span
        source = span.source
        if isinstance(source, SegmentName):
            return read_segment(source, self._body(source), piece.after_seq)
        try:
            file = source.path.open("rb")
        except FileNotFoundError as error:
            raise _Gone(str(error)) from error
        return read_run(source, file, span.last_seq, piece.after_seq)

    def _body(self, name: SegmentName) -> bytes:
        try:
            return self._listing.body(name)
        except ObjectMissing as error:
            raise _Gone(str(error)) from error

    def _begins_with_snapshot(self, span: Span[Source]) -> bool:
        source = span.source
        return source.opens if isinstance(source, Run) else begins_with_snapshot(source, self._body(source))


def _reaches(span: Span[object], position: Position) -> bool:
    """Whether nothing before this span is needed to go on from the position."""
    return span.epoch == position.epoch and span.first_seq <= position.seq + 1


def _together(runs: list[Span[Run]], segments: list[Span[SegmentName]]) -> list[Span[Source]]:
    """Runs of journals and segments. The time of a run is not less than that of the segments before it.

    Where neither tells of a time it is the next one in the journal, or else when the run was published.
    """
    found: list[Span[Source]] = list[Span[Source]](segments)
    later = 0
    for run in reversed(runs):
        source = run.source
        before = [span for span in segments if span.first <= run.first]
        floor = max((span.last_ts if span.last < run.first else span.first_ts for span in before), default=0)
        first_ts = max(run.first_ts, floor) or source.next_ts or later or source.published
        found.append(replace(run, first_ts=first_ts, last_ts=max(run.last_ts, first_ts)))
        later = first_ts
    return found


def _lines(tape: Tape) -> Iterator[Line]:
    """The batches of whole spans as lines, each with its time; without what is known already."""
    piece: Piece[Source] | None = None
    clock, parts, part = StreamClock(), 1, 0
    new = Line._make
    for read, (first, snapshot, messages) in tape:
        if read is not piece:
            now = clock.now if piece is not None and piece.span.epoch == read.span.epoch else 0
            clock, parts, part = StreamClock(max(now, read.span.first_ts)), _parts(read.span), 0
            piece = read
        epoch, see = read.span.epoch, clock.see
        known = -1 if read.after_seq is None else read.after_seq
        if snapshot:
            for message in messages:
                part += 1
                if first > known:
                    yield Line(clock.now, epoch, first, message, True, part, parts)
            continue
        try:
            for seq, message in enumerate(messages, first):
                time = see(event_time(message))
                if seq > known:
                    yield new((time, epoch, seq, message, False, 1, 1))
        except ValueError as error:
            raise BadArchive(f"a line that is no increment: {error}: {read.span.source}") from error


def _parts(span: Span[Source]) -> int:
    """Of how many lines its snapshot is, if it begins with one."""
    source = span.source
    return source.parts if isinstance(source, Run) else source.lines - (source.last_seq - source.first_seq)


def _gapless(spans: list[Span[Source]], position: Position) -> bool:
    """Whether everything after a position is there, up to the end, as far as names tell."""
    at = position
    if not any(span.epoch == at.epoch and span.last_seq >= at.seq for span in spans):
        return False
    for piece in plan(spans, lambda _: False, at):
        span = piece.span
        opens_next = span.epoch != at.epoch and span.first_seq == 0 and span.previous == at
        if piece.gap or (piece.opens and not opens_next):
            return False
        at = span.last
    return True


def _following(lines: Iterator[Line], position: Position) -> Iterator[Line]:
    """Lines as long as each follows on the one before: a text can tell of a hole where the names did not."""
    at = position
    for line in lines:
        here = Position(line.epoch, line.seq)
        if line.snapshot:
            if line.epoch == at.epoch and line.part == 1:
                return
        elif here != (at.epoch, at.seq + 1):
            return
        at = here
        yield line


def _listed(lines: Iterator[Line], max_bytes: int) -> Iterator[list[Line]]:
    """Lines in lists of about LIST_BYTES, up to about `max_bytes` in all; the parts of a snapshot stay together."""
    found: list[Line] = []
    size = total = 0
    for line in lines:
        if size >= LIST_BYTES and line.part == 1:
            yield found
            found, size = [], 0
        if total >= max_bytes and line.part == 1:
            break
        found.append(line)
        size += len(line.message)
        total += len(line.message)
    if found:
        yield found
