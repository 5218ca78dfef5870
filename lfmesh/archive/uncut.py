"""The journals of this machine, found through by stream: what was published and is not cut into segments yet.

A journal holds the frames of all streams in turn. It is read once, from where the last look ended; what is kept of each
frame is where it is. Reading disturbs no writer.
"""

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from lfmesh.archive import journal, records
from lfmesh.archive.batches import BLOCK_BYTES, Batch
from lfmesh.archive.files import explained
from lfmesh.archive.merge import Span
from lfmesh.core import codec, topics
from lfmesh.core.archive import AHEAD_NS, StreamClock, event_time
from lfmesh.core.codec import Flags, Glance
from lfmesh.errors import BadArchive, BadMeshFrame
from lfmesh.types import Position, StreamKey

_STATUS = int(Flags.STATUS)
_SNAPSHOT = int(Flags.SNAPSHOT)
_FRAMES_A_REST = 64


@dataclass(slots=True)
class Run:
    """Frames of one stream in one chunk whose positions follow each other.

    `first_ts` is 0 where the journal tells no time of the first message; then `next_ts` is that of the first one that
    has one, 0 where none has.

    `opens`: the first is a snapshot of `parts`. `starts` and `sizes` say where in the chunk the frames are.
    """

    path: Path
    epoch: int
    first_seq: int
    last_seq: int
    previous: Position
    opens: bool
    parts: int
    published: int
    first_ts: int
    last_ts: int
    next_ts: int = 0
    starts: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("I"))

    def span(self) -> "Span[Run]":
        """As it is now; it can become longer. Times are as far as the journal tells: 0 where it does not."""
        return Span(
            self.epoch, self.first_seq, self.last_seq, self.first_ts, self.last_ts, self.opens, self.previous, self
        )  # fmt: skip


@dataclass(slots=True)
class _Chunk:
    path: Path
    seen: int = 0
    """Bytes that have been looked at."""
    runs: dict[StreamKey, list[Run]] = field(default_factory=dict)


class Uncut:
    """What is in these journals (their folders), by stream. Any number of threads may use it at once.

    `rest` is called now and then while a journal is read, for whoever shares the interpreter with an event loop.
    """

    def __init__(self, folders: Sequence[Path], rest: Callable[[], None]) -> None:
        self._folders = tuple(folders)
        self._rest = rest
        self._looking = Lock()
        self._chunks: dict[Path, _Chunk] = {}
        self._streams: dict[bytes, StreamKey] = {}

    def look(self) -> None:
        """Find what has come, and forget chunks that have gone. BadArchive for damage; StoreUnavailable."""
        with self._looking:
            found: dict[Path, _Chunk] = {}
            for folder in self._folders:
                clocks: dict[StreamKey, StreamClock] = {}
                numbers = journal.chunk_numbers(folder)
                for number in numbers:
                    path = journal.chunk_path(folder, number)
                    chunk = self._chunks.get(path) or _Chunk(path)
                    for stream, runs in chunk.runs.items():
                        clocks.setdefault(stream, StreamClock()).see(runs[-1].last_ts)
                    with suppress(FileNotFoundError):  # cut and deleted since it was listed
                        self._scan(chunk, clocks, newest=number == numbers[-1])
                        found[path] = chunk
            self._chunks = found

    def streams(self) -> set[StreamKey]:
        """Streams that have any frame."""
        return {stream for chunk in self._chunks.values() for stream in list(chunk.runs)}

    def spans(self, stream: StreamKey) -> list[Span[Run]]:
        """The runs of a stream."""
        return [run.span() for chunk in self._chunks.values() for run in list(chunk.runs.get(stream, ()))]

    def _scan(self, chunk: _Chunk, clocks: dict[StreamKey, StreamClock], *, newest: bool) -> None:
        """Take in what a chunk has got since the last look. FileNotFoundError if it is gone."""
        if chunk.path.stat().st_size == chunk.seen:
            return
        with chunk.path.open("rb") as file, explained(chunk.path):
            size = os.fstat(file.fileno()).st_size
            for number, (start, end, frame) in enumerate(records.walk(file, size, chunk.path.name, chunk.seen)):
                if frame is None:
                    if newest and end == size:
                        return
                    raise BadArchive(f"{chunk.path}: bytes {start} to {end} are damaged")
                try:
                    self._take(chunk, clocks, start, frame)
                except (BadMeshFrame, ValueError) as error:
                    raise BadArchive(f"{chunk.path} holds what is no market-data frame: {error}") from error
                chunk.seen = end
                if not number % _FRAMES_A_REST:
                    self._rest()

    def _take(self, chunk: _Chunk, clocks: dict[StreamKey, StreamClock], start: int, frame: bytes) -> None:
        found = codec.glance(frame)
        if found.flags & _STATUS:
            return
        stream = self._streams.get(found.topic)
        if stream is None:
            stream = self._streams[found.topic] = topics.parse_market_data(found.topic)[1]
        clock = clocks.get(stream)
        if clock is None:
            clock = clocks[stream] = StreamClock()
        before = clock.now
        now = clock.see(_newest_time(found, frame))
        runs = chunk.runs.get(stream)
        run = runs[-1] if runs else None
        snapshot = found.flags & _SNAPSHOT
        if run is None or snapshot or found.epoch != run.epoch or found.first_seq != run.last_seq + 1:
            run = _begin(chunk.path, found, now if snapshot else max(before, _first_time(frame)))
            chunk.runs.setdefault(stream, []).append(run)
        elif not (run.first_ts or run.next_ts):
            run.next_ts = max(before, _first_time(frame))
        run.starts.append(start)
        run.sizes.append(len(frame))
        run.last_ts = now
        if not snapshot:
            run.last_seq = found.first_seq + found.messages - 1


def _begin(path: Path, found: Glance, first_ts: int) -> Run:
    opens = bool(found.flags & _SNAPSHOT)
    previous = Position(found.prev_epoch, found.prev_seq) if opens else Position(0, 0)
    return Run(
        path, found.epoch, found.first_seq, found.first_seq - (not opens), previous, opens, found.messages,
        found.ts_publish, first_ts, first_ts,
    )  # fmt: skip


def _first_time(frame: bytes) -> int:
    """`event_time` of a frame's first increment."""
    return event_time(codec.unpack(frame).messages[0])


def _newest_time(found: Glance, frame: bytes) -> int:
    """The newest `event_time` in a frame, of which the header tells unless the venue's clock is ahead of ours."""
    if found.flags & _SNAPSHOT:
        return min(found.ts_event, found.ts_publish + AHEAD_NS)
    if found.ts_event <= found.ts_publish:
        return found.ts_event
    return max(map(event_time, codec.unpack(frame).messages))


def read_run(run: Run, file: BinaryIO, last_seq: int, after_seq: int | None) -> Iterator[Batch]:
    """The lines of a run up to `last_seq`, of those only that follow `after_seq`, from its chunk. BadArchive."""
    with file:
        descriptor = file.fileno()
        lines: list[bytes] = []
        first = size = 0
        for start, length in zip(run.starts, run.sizes, strict=False):
            seq, snapshot, messages = _frame(os.pread(descriptor, length, start), run.path)
            if seq > last_seq:
                break
            if snapshot:
                if after_seq is None or after_seq < seq:
                    yield Batch(seq, True, messages)
                continue
            if after_seq is not None and seq <= after_seq:
                messages = messages[after_seq + 1 - seq :]
                seq = after_seq + 1
            if not lines:
                first = seq
            lines += messages
            size += length
            if size >= BLOCK_BYTES:
                yield Batch(first, False, lines)
                lines, size = [], 0
        if lines:
            yield Batch(first, False, lines)


def _frame(frame: bytes, path: Path) -> tuple[int, bool, list[bytes]]:
    try:
        _, header, messages = codec.unpack(frame)
    except BadMeshFrame as error:
        raise BadArchive(f"{path} holds what is no market-data frame: {error}") from error
    return header.first_seq, bool(header.flags & _SNAPSHOT), messages
