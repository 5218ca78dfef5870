"""The local journal: every published frame of one snapshotter, in order, until segments are cut from it.

    FOLDER/chunk-0000000001.frames …    the frames as they were published, a checked record each (`records`)

`append` only buffers, on the event loop; everything else runs in worker threads. A process that is killed loses what
`flush` had not yet written, a loss of power what `sync` had not. Only the newest chunk can end torn; whoever opens the
journal to write cuts that off, and begins a new chunk. The newest chunk is never deleted: no number is used twice.

Read with `read`: at any time, by any process, also while it is written.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lfmesh.archive import files, records
from lfmesh.core import codec, topics
from lfmesh.core.codec import Flags, Header
from lfmesh.errors import BadArchive, BadMeshFrame, StoreUnavailable
from lfmesh.types import StreamKey

CHUNK_BYTES = 64 * 1024 * 1024
PENDING_BYTES = 32 * 1024 * 1024

_PREFIX, _SUFFIX, _ASIDE = "chunk-", ".frames", ".damaged"
_DIGITS = 10
_PARTS_A_WRITE = 2048
_STATUS = int(Flags.STATUS)


class Entry(NamedTuple):
    """One published frame: its stream, header and messages; increments from header.first_seq on, or a snapshot."""

    stream: StreamKey
    header: Header
    messages: list[bytes]


class Journal:
    """The journal in `folder`, opened to write: made where it is missing. StoreUnavailable, also if it is in use.

    `flush_bytes`: with so many buffered a flush is `due`. `chunk_bytes`: a larger chunk is followed by the next one.
    `pending_bytes`: so much may wait while the disk is full or does not answer (once buffered, and as much again half
    written); past it the oldest frames are lost, and counted.
    """

    def __init__(
        self, folder: Path, flush_bytes: int = 1024 * 1024,
        *, chunk_bytes: int = CHUNK_BYTES, pending_bytes: int = PENDING_BYTES,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._flush_bytes = flush_bytes
        self._chunk_bytes = chunk_bytes
        self._pending_bytes = pending_bytes
        # Appended by the loop's thread, taken by a worker: a deque needs no lock for that, and a counter each neither.
        self._frames: deque[tuple[StreamKey, bytes]] = deque()
        self._appended = 0
        self._taken = 0
        self._overflown = 0
        # What belongs to whoever holds the lock.
        self._lock = threading.Lock()
        self._waiting: deque[tuple[StreamKey, bytes]] = deque()
        self._waiting_bytes = 0
        self._file: int | None = None
        self._torn = False  # the last write was cut short: what it left must go before the next one
        self._sizes: dict[int, int] = {}
        self._lost_streams: set[StreamKey] = set()
        self._lost_frames = 0
        self._owner = files.lock(folder)
        try:
            self._number = self._open()
        except StoreUnavailable:
            os.close(self._owner)
            raise

    # On the event loop -------------------------------------------------------------------------------------------

    def append(self, stream: StreamKey, frame: bytes) -> None:
        """Take a market-data frame as it was published; it is only buffered."""
        self._frames.append((stream, frame))
        self._appended += len(frame)
        if self._appended - self._taken - self._overflown > self._pending_bytes:
            self._overflow()

    @property
    def buffered(self) -> int:
        """Bytes that were appended and are not on their way to the disk."""
        return self._appended - self._taken - self._overflown

    @property
    def due(self) -> bool:
        """True with so much buffered that it should be flushed at once."""
        return self.buffered >= self._flush_bytes

    @property
    def lost_frames_total(self) -> int:
        """Frames that could not be journaled since this was opened."""
        return self._lost_frames

    def take_lost(self) -> set[StreamKey]:
        """Streams that have lost frames since the last call: a snapshot of each should be appended."""
        lost = set()
        while self._lost_streams:
            lost.add(self._lost_streams.pop())
        return lost

    # In worker threads -------------------------------------------------------------------------------------------

    def flush(self) -> int:
        """Write what was appended before this call: bytes written.

        StoreUnavailable: the disk is full or broken. What could not be written waits for the next call, up to a bound.
        """
        with self._lock:
            return self._flush()

    def sync(self) -> None:
        """Flush, and bring it onto the disk itself. StoreUnavailable."""
        with self._lock:
            self._flush()
            if self._file is not None:
                with files.explained(self.folder):
                    os.fsync(self._file)

    def rotate(self) -> int:
        """Flush, close the newest chunk and begin the next one: the number of the newest closed chunk, 0 for none.

        Everything appended before this call is in chunks up to that number. StoreUnavailable: nothing was closed.
        """
        with self._lock:
            self._flush()
            self._next_chunk()
            return self._number - 1

    def delete(self, up_to: int) -> None:
        """Delete closed chunks up to and with this number. StoreUnavailable."""
        with self._lock, files.explained(self.folder):
            for number in [n for n in self._sizes if n <= up_to and n != self._number]:
                chunk_path(self.folder, number).unlink(missing_ok=True)
                del self._sizes[number]
            files.sync_folder(self.folder)

    def set_aside(self, number: int) -> Path:
        """Rename a closed chunk that is damaged, so that somebody can look at it: its new path. StoreUnavailable."""
        path = chunk_path(self.folder, number)
        aside = path.with_suffix(_ASIDE)
        with self._lock, files.explained(self.folder):
            path.replace(aside)
            files.sync_folder(self.folder)
            self._sizes.pop(number, None)
        return aside

    def close(self) -> None:
        """Write what is buffered and give the folder free; idempotent. StoreUnavailable: some of it is lost."""
        with self._lock:
            if self._owner < 0:
                return
            try:
                self._flush()
                if self._file is not None:
                    with files.explained(self.folder):
                        os.fsync(self._file)
            finally:
                if self._file is not None:
                    os.close(self._file)
                    self._file = None
                os.close(self._owner)
                self._owner = -1

    # From any thread ---------------------------------------------------------------------------------------------

    def chunks(self) -> list[int]:
        """Numbers of the closed chunks, in order."""
        return sorted(number for number in list(self._sizes) if number != self._number)

    @property
    def bytes(self) -> int:
        """Bytes of all chunks."""
        return sum(list(self._sizes.values()))

    # Inside ------------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        """Cut off a torn tail and begin a chunk; its number."""
        numbers = chunk_numbers(self.folder)
        with files.explained(self.folder):
            for number in numbers:
                path = chunk_path(self.folder, number)
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    try:
                        next(records.walk(file, size, path.name), None)  # the version is known
                        if number == numbers[-1]:
                            size = _whole(file, size, path)
                    except BadArchive as error:
                        raise StoreUnavailable(f"{error}: let that program cut it, or move it away") from error
                self._sizes[number] = size
        last = numbers[-1] if numbers else 0
        if last and self._sizes[last] <= len(records.HEAD):
            last -= 1
            del self._sizes[last + 1]
        self._begin(last + 1)
        return last + 1

    def _begin(self, number: int) -> None:
        path = chunk_path(self.folder, number)
        with files.explained(self.folder):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                os.write(descriptor, records.HEAD)
                files.sync_folder(self.folder)
            except OSError:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
        self._file = descriptor
        self._sizes[number] = len(records.HEAD)
        self._number = number

    def _next_chunk(self) -> None:
        """Close the newest chunk, unless it is empty, and begin the next."""
        if self._file is None or self._sizes[self._number] <= len(records.HEAD):
            return
        with files.explained(self.folder):
            os.fsync(self._file)
        closed = self._file
        self._begin(self._number + 1)
        os.close(closed)

    def _flush(self) -> int:
        self._gather()
        if self._file is None:
            raise StoreUnavailable(f"the journal {self.folder} is closed")
        written = 0
        with files.explained(self.folder):
            while self._waiting:
                if self._torn:
                    os.ftruncate(self._file, self._sizes[self._number])
                    self._torn = False
                written += self._write_some()
        if self._sizes[self._number] >= self._chunk_bytes:
            self._next_chunk()
        return written

    def _gather(self) -> None:
        """Take what is buffered, without what comes meanwhile; past the bound the oldest is lost."""
        frames, waiting, taken = self._frames, self._waiting, 0
        for _ in range(len(frames)):
            try:
                item = frames.popleft()
            except IndexError:  # it has overflown meanwhile
                break
            waiting.append(item)
            taken += len(item[1])
        self._taken += taken
        self._waiting_bytes += taken
        while self._waiting_bytes > self._pending_bytes and len(waiting) > 1 and self._torn:
            stream, frame = waiting.popleft()
            self._waiting_bytes -= len(frame)
            self._lose(stream)

    def _write_some(self) -> int:
        """Write the next frames that wait, whole; OSError leaves them waiting."""
        assert self._file is not None
        waiting, size = self._waiting, self._sizes[self._number]
        batch = [waiting[at] for at in range(min(_PARTS_A_WRITE, len(waiting)))]
        view = memoryview(b"".join(records.pack(frame for _, frame in batch)))
        written = len(view)
        self._torn = True
        at = size
        while view:
            count = os.pwrite(self._file, view, at)
            view, at = view[count:], at + count
        self._torn = False
        self._sizes[self._number] = at
        for _, frame in batch:
            waiting.popleft()
            self._waiting_bytes -= len(frame)
        return written

    def _overflow(self) -> None:
        """Too much is buffered: a write does not come back. The older half is lost."""
        while self.buffered > self._pending_bytes // 2 and self._frames:
            try:
                stream, frame = self._frames.popleft()
            except IndexError:
                return
            self._overflown += len(frame)
            self._lose(stream)

    def _lose(self, stream: StreamKey) -> None:
        self._lost_streams.add(stream)
        self._lost_frames += 1


def _whole(file: BinaryIO, size: int, path: Path) -> int:
    """Cut the torn tail off a chunk: its size then."""
    torn = None
    for start, end, frame in records.walk(file, size, path.name):
        if frame is None and end == size:
            torn = start
    if torn is None:
        return size
    os.truncate(path, torn)
    return torn


def chunk_path(folder: Path, number: int) -> Path:
    """The file of a chunk."""
    return folder / f"{_PREFIX}{number:0{_DIGITS}d}{_SUFFIX}"


def chunk_numbers(folder: Path) -> list[int]:
    """Numbers of all chunks of a journal, in order; none where there is no such folder. StoreUnavailable."""
    with files.explained(folder):
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = [name[len(_PREFIX) : -len(_SUFFIX)] for name in names if _is_chunk(name)]
    return sorted(int(number) for number in numbers if number.isdecimal())


def _is_chunk(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def read(folder: Path, chunks: Iterable[int] | None = None) -> Iterator[Entry]:
    """What a journal holds, in order, while it may be written: of these chunks, or of all.

    Status frames are left out. Chunks that are deleted meanwhile are read to their end; those that are gone already are
    skipped: whoever wants no hole opens the journal (takes the first entry) before it looks what is in the spool, and
    the spool before the object store. A torn tail of the newest chunk ends it. BadArchive for damage;
    StoreUnavailable.
    """
    numbers = chunk_numbers(folder)
    last = numbers[-1] if numbers else 0
    wanted = numbers if chunks is None else sorted(set(chunks) & set(numbers))
    opened: list[tuple[int, BinaryIO, int]] = []
    try:
        with files.explained(folder):
            for number in wanted:
                with suppress(FileNotFoundError):
                    chunk = chunk_path(folder, number).open("rb")
                    opened.append((number, chunk, os.fstat(chunk.fileno()).st_size))
        streams: dict[bytes, StreamKey] = {}
        for number, file, size in opened:
            yield from _entries(folder, number, file, size, streams, torn=number == last)
    finally:
        for _, file, _ in opened:
            file.close()


def _entries(
    folder: Path, number: int, file: BinaryIO, size: int, streams: dict[bytes, StreamKey], *, torn: bool
) -> Iterator[Entry]:
    path = chunk_path(folder, number)
    with files.explained(path):
        for start, end, frame in records.walk(file, size, path.name):
            if frame is None:
                if torn and end == size:
                    return
                raise BadArchive(f"{path}: bytes {start} to {end} are damaged")
            try:
                entry = entry_of(frame, streams)
            except BadMeshFrame as error:
                raise BadArchive(f"{path} holds what is no market-data frame: {error}") from error
            if entry is not None:
                yield entry


def entry_of(frame: bytes, streams: dict[bytes, StreamKey]) -> Entry | None:
    """The entry of a journaled frame; None for a status. BadMeshFrame. `streams` remembers those of known topics."""
    topic, header, messages = codec.unpack(frame)
    if header.flags & _STATUS:
        return None
    stream = streams.get(topic)
    if stream is None:
        stream = streams[topic] = topics.parse_market_data(topic)[1]
    return Entry(stream, header, messages)
