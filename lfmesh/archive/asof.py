"""The state of one stream as of a moment, put together from a state and the tape that follows it. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from lfmesh.archive.batches import Batch
from lfmesh.archive.merge import NOWHERE, Piece, Span, epochs_in_order
from lfmesh.core import encode
from lfmesh.core.archive import StreamClock, event_time
from lfmesh.core.contents import content_of
from lfmesh.errors import BadArchive, BadMeshFrame
from lfmesh.types import Position, StreamKey


class Lack(NamedTuple):
    """Why a state may not be that of the moment: what came after `after` (ns, the stream's time) is not archived.

    `hole`: later messages are, and do not follow on. Else nothing later of the stream is: it may have been quiet.
    """

    after: int
    hole: bool


class StateAt(NamedTuple):
    """State of a stream as of a moment: at `position`, whose message has the stream's `time` (ns).

    `parts` are JSON texts of the `state`, each an object of its own, as in `lfmesh.core.contents.Content.parts`.
    `lack` is None where the archive shows that nothing came between `time` and the moment.
    """

    stream: StreamKey
    position: Position
    time: int
    parts: list[bytes]
    lack: Lack | None = None

    def messages(self) -> list[bytes]:
        """The snapshot as clients receive it, one message a part; `ts_snapshot` is `time`, the reason `subscribe`."""
        return encode.snapshot(*self.stream, self.position, self.time, "subscribe", self.parts)

    def data(self) -> bytes:
        """The JSON of a snapshot's `data` in one piece, however many parts the state has."""
        whole = encode.whole_state(self.parts)
        return encode.snapshot_data(*self.stream, self.position, self.time, "subscribe", whole)


def newest_opening[S](
    spans: Iterable[Span[S]], looks: Callable[[Span[S]], bool], base: StateAt | None
) -> Span[S] | None:
    """The newest span that begins with a snapshot, unless that is at or before `base`; None where there is none."""
    for _, found in reversed(later_epochs(spans, base)):
        ordered = sorted(found, key=lambda span: span.first_seq, reverse=True)
        reached = {span.last_seq + 1 for span in found}
        for span in ordered:
            if base is not None and (span.epoch, span.first_seq) <= base.position and span.epoch == base.position.epoch:
                return None
            # A name that leaves it open is looked behind only where nothing leads up to the span.
            if span.opens or (span.opens is None and span.first_seq not in reached and looks(span)):
                return span
    return None


def later_epochs[S](spans: Iterable[Span[S]], base: StateAt | None) -> list[tuple[int, list[Span[S]]]]:
    """The epochs in order, from that of the base on."""
    ordered = epochs_in_order(spans)
    if base is None:
        return ordered
    for number, (epoch, _) in enumerate(ordered):
        if epoch == base.position.epoch:
            return ordered[number:]
    begun = base.time, base.position.epoch
    return [(epoch, found) for epoch, found in ordered if (min(span.first_ts for span in found), epoch) > begun]


def follows_on[S](spans: Iterable[Span[S]], state: StateAt) -> bool | None:
    """Whether what is archived next continues the stream behind a state, with nothing missing between, as far as can be
    shown; None where nothing later is archived. `spans` are those from the state on."""
    known = list(spans)
    epoch, seq = state.position
    own = [span for span in known if span.epoch == epoch]
    later = [span for span in own if span.last_seq > seq]
    if later:
        return any(span.first_seq <= seq + 1 for span in later)
    following = [found for number, found in later_epochs(known, state) if number != epoch]
    if not following:
        return None
    openings = [span for span in following[0] if span.first_seq == 0]
    before = {span.previous for span in openings} - {NOWHERE}
    if openings and not before:  # nobody can know: it is not held against a tape that reaches to the state
        return any(span.first_seq <= seq <= span.last_seq for span in own)
    return any(
        position <= state.position
        if position.epoch == epoch
        else any(span.epoch == position.epoch and span.last_seq >= position.seq for span in known)
        for position in before
    )


def stands_in_a_hole[S](spans: Iterable[Span[S]], position: Position, looks: Callable[[Span[S]], bool]) -> bool:
    """Whether a position is that of a snapshot in place of lost messages. Its time is that of what was before them, so
    it can be the state of a later moment."""
    epoch, seq = position
    own = [span for span in spans if span.epoch == epoch]
    if not seq or any(span.first_seq < seq <= span.last_seq for span in own):
        return False
    return any(looks(span) if span.opens is None else span.opens for span in own if span.first_seq == seq)


class Builder:
    """Takes what was published in order, and is the state of it. BadArchive for messages of another form."""

    def __init__(self, stream: StreamKey, base: StateAt | None = None) -> None:
        self._stream = stream
        self._content = content_of(stream.channel)
        self._position: Position | None = None
        self.time = 0
        self._opening: list[bytes] = []
        self._piece: Piece[Any] | None = None
        if base is not None:
            self._content.load(base.parts)
            self._position, self.time = base.position, base.time

    def take(self, piece: Piece[Any], batch: Batch, time: int) -> None:
        """The next batch, whose last line has this stream time; what comes without a state before it has no effect."""
        epoch = piece.span.epoch
        if piece is not self._piece:
            self._piece = piece
            if piece.gap:
                self._position = None
        if batch.snapshot:
            self._open(Position(epoch, batch.seq), batch.lines)
        elif self._position is not None:
            self._opening = []
            with self._explained():
                self._content.apply(batch.lines)
            self._position = Position(epoch, batch.seq + len(batch.lines) - 1)
        self.time = time

    def result(self) -> StateAt | None:
        """The state; None where there is none."""
        if self._position is None:
            return None
        with self._explained():
            return StateAt(self._stream, self._position, self.time, self._content.parts())

    def _open(self, position: Position, parts: list[bytes]) -> None:
        if position != self._position:
            self._opening = []
        self._opening += parts
        with self._explained():
            self._content.load([encode.state_of(part) for part in self._opening])
        self._position = position

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (BadMeshFrame, ValueError) as error:
            raise BadArchive(f"the tape of {self._stream.product} {self._stream.channel}: {error}") from error


def clipped[S](
    tape: Iterator[tuple[Piece[S], Batch]], start_ts: int | None, end_ts: int | None, now: int = 0
) -> Iterator[tuple[Piece[S], Batch, int]]:
    """Of what was read only the lines with start_ts <= time <= end_ts, and the time of the last of each batch.

    `now` is the stream's time where the tape begins in the midst of a piece. Only pieces that reach out of the window
    are looked into.
    """
    piece: Piece[S] | None = None
    clock = StreamClock(now)
    for read, batch in tape:
        span = read.span
        if read is not piece:
            if piece is not None:
                clock.see(piece.span.last_ts)
            piece = read
            clock.see(span.first_ts)
        newest = max(span.last_ts, clock.now)
        if (start_ts is None or span.first_ts >= start_ts) and (end_ts is None or newest <= end_ts):
            yield read, batch, newest
            continue
        first, end, time = _window(batch, clock, start_ts, end_ts)
        if first < end:
            yield (
                read,
                Batch(batch.seq + (0 if batch.snapshot else first), batch.snapshot, batch.lines[first:end]),
                time,
            )


def _window(batch: Batch, clock: StreamClock, start_ts: int | None, end_ts: int | None) -> tuple[int, int, int]:
    """Which lines of a batch are within the window (first, end), and the time of the last of them."""
    times = [clock.now] * len(batch.lines) if batch.snapshot else [clock.see(event_time(line)) for line in batch.lines]
    first = 0 if start_ts is None else bisect_left(times, start_ts)
    end = len(times) if end_ts is None else bisect_right(times, end_ts)
    return first, end, times[end - 1] if end else 0


def build[S](
    stream: StreamKey, base: StateAt | None, tape: Iterator[tuple[Piece[S], Batch]], at: int
) -> StateAt | None:
    """The state as of `at` (ns) from a base and what follows it."""
    builder = Builder(stream, base)
    for piece, batch, time in clipped(tape, None, at, 0 if base is None else base.time):
        builder.take(piece, batch, time)
    return builder.result()
