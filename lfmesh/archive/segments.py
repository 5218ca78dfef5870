"""Tape segments: from published frames to compressed lines and back. Pure; `lfmesh.core.archive` says what they are.

A segment ends where the next line is of another epoch or another UTC hour of the stream's time, does not follow the
last one, is a snapshot, or would make it larger than allowed. The same entries give the same bytes and so the same key,
however they are grouped into frames. What does not lie above the stream's position in its epoch (increments that came
twice) is left out and counted.

Bodies are zstd frames with a content checksum, compressed a mebibyte at a time: memory does not grow with the text.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import zstandard

from lfmesh.archive.batches import read_segment
from lfmesh.archive.journal import Entry
from lfmesh.core.archive import AHEAD_NS, SegmentName, StreamClock, checksum, event_time, hour_of
from lfmesh.core.codec import Flags, Increments
from lfmesh.errors import BadArchive
from lfmesh.types import Position, StreamKey

SEGMENT_BYTES = 64 * 1024 * 1024
LEVEL = 3

_PIECE_BYTES = 1024 * 1024
_HOUR_NS = 3_600_000_000_000
_SNAPSHOT = int(Flags.SNAPSHOT)
_UNKNOWN = Position(0, 0)


class Line(NamedTuple):
    """One archived message: the stream's `time` (ns) with it, its position, and its bytes as clients got them.

    `snapshot`: it is part `part` (from 1) of the `parts` of a snapshot at that position; else it is an increment.
    """

    time: int
    epoch: int
    seq: int
    message: bytes
    snapshot: bool = False
    part: int = 1
    parts: int = 1


class Segment(NamedTuple):
    """An object of the archive."""

    name: SegmentName
    body: bytes


class Mark(NamedTuple):
    """How far a stream has been cut: its time (ns; 0: unknown) and its newest position."""

    time: int = 0
    position: Position = _UNKNOWN


NEW = Mark()
"""Of a stream that was never cut."""


def compressor(level: int = LEVEL) -> zstandard.ZstdCompressor:
    """What `SegmentWriter` needs: one does for any number of writers, one after the other."""
    return zstandard.ZstdCompressor(level=level, write_checksum=True)


class SegmentWriter:
    """Entries of one stream in, in order; segments out. `mark` is where the stream stood before, and stands now.

    Lines without a time of the venue take the stream's; before its first one they take the one that comes next, or,
    where none comes, the time at which the first of them was published.
    """

    def __init__(
        self, venue: str, stream: StreamKey, zstd: zstandard.ZstdCompressor,
        *, max_bytes: int = SEGMENT_BYTES, mark: Mark = NEW,
    ) -> None:  # fmt: skip
        self._venue = venue
        self._stream = stream
        self._zstd = zstd
        self._max_bytes = max_bytes
        self._clock = StreamClock(mark.time)
        self._guessed = False
        self._held: list[Entry] = []
        self._held_bytes = 0
        self._open: _Open | None = None
        self._closed: list[Segment] = []
        self._position = mark.position
        self.messages = 0
        self.duplicates = 0

    @property
    def mark(self) -> Mark:
        """The stream's time, as far as the venue has told it, and its newest position."""
        return Mark(0 if self._guessed else self._clock.now, self._position)

    def add(self, entry: Entry) -> list[Segment]:
        """Take the next entry: the segments that it has closed. BadArchive: it is none, and nothing has changed."""
        header, messages = entry.header, entry.messages
        if header.flags & _SNAPSHOT or not self._clock.now or self._guessed:
            times = _times(entry)
            # One by one: what is done must not depend on how messages were grouped into frames.
            for one, time in _apart(entry, times):
                if self._clock.now and not self._guessed:
                    self._take(one, [time] * len(one.messages))
                else:
                    self._take_untimed(one, time)
        else:
            self._increments(header.epoch, header.first_seq, messages, _event_times(messages))
        return self._take_closed() if self._closed else []

    def add_increments(self, frame: Increments) -> list[Segment] | None:
        """`add` for a frame of increments of this stream, in less time; None: use `add`."""
        if not self._clock.now or self._guessed:
            return None
        messages = frame.messages
        self._increments(frame.epoch, frame.first_seq, messages, _event_times(messages))
        return self._take_closed() if self._closed else []

    def close(self) -> list[Segment]:
        """No more comes: the last segments."""
        if self._held:
            self._release(self._clock.now or self._held[0].header.ts_publish, guessed=True)
        self._finish()
        return self._take_closed()

    # Inside -----------------------------------------------------------------------------------------------------

    def _take_untimed(self, entry: Entry, time: int) -> None:
        self._held.append(entry)
        self._held_bytes += sum(map(len, entry.messages))
        if time:
            if self._guessed:
                self._finish()
            self._release(time, guessed=False)
        elif self._held_bytes > self._max_bytes:
            self._release(self._clock.now or self._held[0].header.ts_publish, guessed=True)

    def _release(self, time: int, *, guessed: bool) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        self._clock.now, self._guessed = time, guessed
        for entry in held:
            self._take(entry, _times(entry))

    def _take(self, entry: Entry, times: Sequence[int]) -> None:
        header, messages = entry.header, entry.messages
        if not header.flags & _SNAPSHOT:
            self._increments(header.epoch, header.first_seq, messages, times)
            return
        self._position = Position(header.epoch, header.first_seq)
        previous = Position(header.prev_epoch, header.prev_seq)
        segment = self._begin(self._clock.see(times[0]), self._position, previous)
        for message in messages:
            segment.add(message)
        self.messages += len(messages)

    def _increments(self, epoch: int, seq: int, messages: Sequence[bytes], times: Sequence[int]) -> None:
        if epoch == self._position.epoch and seq <= self._position.seq:
            known = min(self._position.seq + 1 - seq, len(messages))
            self.duplicates += known
            messages, times, seq = messages[known:], times[known:], seq + known
            if not messages:
                return
        segment = self._open
        if segment is not None and not segment.goes_on(epoch, seq):
            segment = None
        clock, max_bytes = self._clock, self._max_bytes
        for message, time in zip(messages, times, strict=True):
            now = clock.see(time)
            if segment is None or now >= segment.hour_ends or segment.size + len(message) >= max_bytes:
                segment = self._begin(now, Position(epoch, seq), _UNKNOWN)
            segment.last_ts, segment.last_seq = now, seq
            segment.add(message)
            seq += 1
        self.messages += len(messages)
        self._position = Position(epoch, seq - 1)

    def _begin(self, time: int, first: Position, previous: Position) -> "_Open":
        self._finish()
        self._open = _Open(self._zstd, time, first, previous)
        return self._open

    def _finish(self) -> None:
        if self._open is not None:
            self._closed.append(self._open.finish(self._venue, self._stream))
            self._open = None

    def _take_closed(self) -> list[Segment]:
        closed, self._closed = self._closed, []
        return closed


class _Open:
    """The segment that is being written."""

    __slots__ = (
        "_body", "_lines", "_stream", "_text", "_text_bytes",
        "epoch", "first_seq", "first_ts", "hour_ends", "last_seq", "last_ts", "previous", "size",
    )  # fmt: skip

    def __init__(self, zstd: zstandard.ZstdCompressor, time: int, first: Position, previous: Position) -> None:
        self.first_ts = self.last_ts = time
        self.hour_ends = (hour_of(time) + 1) * _HOUR_NS
        self.epoch, self.first_seq = first
        self.last_seq = first.seq
        self.previous = previous
        self.size = 0
        self._lines = 0
        self._stream = zstd.compressobj()
        self._body: list[bytes] = []
        self._text: list[bytes] = []
        self._text_bytes = 0

    def goes_on(self, epoch: int, seq: int) -> bool:
        """True if an increment with this position is the next line."""
        return epoch == self.epoch and seq == self.last_seq + 1

    def add(self, message: bytes) -> None:
        """The next line."""
        self._text.append(message)
        self._lines += 1
        size = len(message) + 1
        self.size += size
        self._text_bytes += size
        if self._text_bytes >= _PIECE_BYTES:
            self._compress()

    def finish(self, venue: str, stream: StreamKey) -> Segment:
        """The segment: it has no more lines."""
        self._text.append(b"")
        self._body.append(self._stream.compress(b"\n".join(self._text)))
        self._body.append(self._stream.flush())
        body = b"".join(self._body)
        name = SegmentName(
            venue, stream, self.first_ts, self.last_ts, self.epoch, self.first_seq, self.last_seq, self.previous,
            self._lines, checksum(body),
        )  # fmt: skip
        return Segment(name, body)

    def _compress(self) -> None:
        """Compress what is whole, in pieces that depend on nothing but the text."""
        self._text.append(b"")
        text = b"\n".join(self._text)
        end = len(text) - len(text) % _PIECE_BYTES
        for at in range(0, end, _PIECE_BYTES):
            self._body.append(self._stream.compress(text[at : at + _PIECE_BYTES]))
        rest = text[end:]
        # What is left ends a line: the next join puts the newline back that is taken here.
        self._text = [rest[:-1]] if rest else []
        self._text_bytes = len(rest)


def _times(entry: Entry) -> list[int]:
    """Times of the venue in an entry's messages, 0 for those that have none. BadArchive for what is no message."""
    header, messages = entry.header, entry.messages
    if not header.flags & _SNAPSHOT:
        return _event_times(messages)
    if not messages or any(b"\n" in message for message in messages):
        raise BadArchive("a snapshot that can't be kept as lines")
    return [min(header.ts_event, header.ts_publish + AHEAD_NS)] * len(messages)


def _apart(entry: Entry, times: Sequence[int]) -> Iterator[tuple[Entry, int]]:
    """An entry of increments as one of each, with its time; a snapshot whole."""
    header, messages = entry.header, entry.messages
    if header.flags & _SNAPSHOT:
        yield entry, times[0]
        return
    for number, message in enumerate(messages):
        yield Entry(entry.stream, header._replace(first_seq=header.first_seq + number), [message]), times[number]


def _event_times(messages: Sequence[bytes]) -> list[int]:
    times = []
    try:
        for message in messages:
            times.append(event_time(message))
            if b"\n" in message:
                raise BadArchive(f"a message that is no line: {message[:80]!r}")
    except ValueError as error:
        raise BadArchive(f"what is no increment: {error}") from error
    if not times:
        raise BadArchive("a frame without messages")
    return times


def write(
    venue: str, stream: StreamKey, entries: Iterable[Entry],
    *, max_bytes: int = SEGMENT_BYTES, level: int = LEVEL, mark: Mark = NEW,
) -> Iterator[Segment]:  # fmt: skip
    """The segments of one stream's entries, in order. BadArchive."""
    writer = SegmentWriter(venue, stream, compressor(level), max_bytes=max_bytes, mark=mark)
    for entry in entries:
        yield from writer.add(entry)
    yield from writer.close()


def read(name: SegmentName, body: bytes) -> Iterator[Line]:
    """The lines of a segment. BadArchive if it is not what its name promises: checksum, count, positions, times."""
    clock = StreamClock(name.first_ts)
    epoch, parts, part = name.epoch, name.lines - (name.last_seq - name.first_seq), 0
    see, new = clock.see, Line._make
    try:
        for seq, snapshot, lines in read_segment(name, body):
            if snapshot:
                for line in lines:
                    part += 1
                    yield Line(name.first_ts, epoch, seq, line, True, part, parts)
                continue
            for number, line in enumerate(lines, seq):
                yield new((see(event_time(line)), epoch, number, line, False, 1, 1))
    except ValueError as error:
        raise BadArchive(f"{name.key} holds a line that is no increment: {error}") from error
    if clock.now != name.last_ts:
        raise BadArchive(f"{name.key} ends at {clock.now}, which its name contradicts")


def narrow(name: SegmentName, body: bytes, first_seq: int, last_seq: int, *, level: int = LEVEL) -> Segment | None:
    """The part of a segment from `first_seq` to `last_seq`; a snapshot only comes with its own first position.

    None where that is nothing. BadArchive.
    """
    zstd, part = compressor(level), None
    for line in read(name, body):
        if not first_seq <= line.seq <= last_seq:
            continue
        if part is None:
            previous = name.previous if line.snapshot else _UNKNOWN
            part = _Open(zstd, line.time, Position(line.epoch, line.seq), previous)
        part.last_ts, part.last_seq = line.time, line.seq
        part.add(line.message)
    return None if part is None else part.finish(name.venue, name.stream)
