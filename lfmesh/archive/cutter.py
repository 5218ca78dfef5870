"""Cuts segments from the chunks of a journal and puts them into the spool. Every message goes into exactly one.

    journal/chunk-1 … chunk-N ─► index ─► stream by stream ─► spool/.cut-N.tmp/  segments; `cut.json` names them
                                                     renamed: spool/.cut-N/      from here on the chunks are cut
                                                              spool/tape/…       each segment under its key
                                                              journal/marks.json
                                                              chunks deleted, then spool/.cut-N

A crash before the rename leaves a `.tmp` that is thrown away: the chunks are cut anew. A crash after it leaves a
`.cut-N` that is completed: each of the remaining steps does no harm when it is done twice. Both happen in `recover`.

`marks.json` says how far each stream has been cut (`lfmesh.archive.segments.Mark`): its clock goes on from there.

Memory: eight bytes a frame for the index (offsets), then one stream at a time. Time: it runs in a worker thread beside
the event loop, half a millisecond at a time: `Pace`.
"""

import mmap
import shutil
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from lfmesh.archive import files, records
from lfmesh.archive.journal import Journal, chunk_path, entry_of
from lfmesh.archive.segments import LEVEL, NEW, SEGMENT_BYTES, Mark, Segment, SegmentWriter, compressor
from lfmesh.archive.spool import Spool
from lfmesh.core import codec, topics
from lfmesh.core.archive import SegmentName
from lfmesh.errors import BadArchive, BadMeshFrame, StoreUnavailable
from lfmesh.types import Channel, Position, StreamKey

MARKS = "marks.json"

_CUT, _TMP, _LIST = ".cut-", ".tmp", "cut.json"
_OFFSET_BITS = 40
_OFFSET = (1 << _OFFSET_BITS) - 1
_INDEXED_A_LOOK = 16
_RESIDENT_RECORDS = 512


class Cut(NamedTuple):
    """What a cut has brought. `damaged` counts frames, or spans of a chunk, that can't be read; `aside` has them."""

    segments: list[SegmentName]
    bytes: int = 0
    messages: int = 0
    duplicates: int = 0
    damaged: int = 0
    aside: tuple[Path, ...] = ()


class Pace:
    """After `work_s` of work a rest of `rest_s`, in which other threads get the interpreter."""

    def __init__(
        self, work_s: float = 0.0005, rest_s: float = 0.0005,
        *, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._work_s = work_s
        self._rest_s = rest_s
        self._clock = clock
        self._sleep = sleep
        self._since = clock()

    def look(self) -> None:
        """Rest if it is time to."""
        if self._clock() - self._since >= self._work_s:
            self._sleep(self._rest_s)
            self._since = self._clock()


class _Stream(msgspec.Struct, frozen=True, array_like=True):
    product: str
    channel: Channel
    time: int
    epoch: int
    seq: int


class _List(msgspec.Struct, frozen=True):
    """`cut.json`: chunks up to `chunk` are in these segments (file and key), those in `damaged` not wholly."""

    chunk: int
    segments: list[tuple[str, str]]
    damaged: list[int]
    marks: list[_Stream]


class _Abandoned(Exception):
    pass


def _nothing(_: str) -> None:
    pass


class Cutter:
    """Cuts `journal` into `spool`; used by one thread at a time. `on_step` is told of each step before it is taken."""

    def __init__(
        self, journal: Journal, spool: Spool, venue: str,
        *, segment_max_bytes: int = SEGMENT_BYTES, level: int = LEVEL, pace: Pace | None = None,
        on_step: Callable[[str], None] = _nothing,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._spool = spool
        self._venue = venue
        self._segment_max_bytes = segment_max_bytes
        self._zstd = compressor(level)
        self._pace = pace or Pace()
        self._step = on_step
        self._hurry = False
        self._abandon = False

    def hurry(self) -> None:
        """From now on, work without rests: nothing else is to be done. From any thread."""
        self._hurry = True

    def abandon(self) -> None:
        """End a cut that is under way, and any later one, before it counts: for a shutdown. From any thread."""
        self._abandon = True

    def recover(self) -> tuple[Path, ...]:
        """Complete or throw away what a crash has left; paths of what was set aside. StoreUnavailable.

        To be called when the folders have been opened, before anything is restored from the journal.
        """
        aside: list[Path] = []
        with files.explained(self._spool.folder):
            for path in sorted(self._spool.folder.glob(f"{_CUT}*")):
                if path.name.endswith(_TMP):
                    shutil.rmtree(path)
                else:
                    aside += self._complete(path)
        return tuple(aside)

    def cut(self, up_to: int) -> Cut | None:
        """Cut the closed chunks up to and with this number, and delete them. None: it was abandoned.

        StoreUnavailable: nothing has changed, or `recover` completes it (the next call does so first).
        """
        aside = self.recover()
        numbers = [number for number in self._journal.chunks() if number <= up_to]
        if not numbers:
            return Cut([], aside=aside)
        folder = self._spool.folder / f"{_CUT}{numbers[-1]:010d}"
        new = folder.with_name(folder.name + _TMP)
        try:
            with files.explained(self._spool.folder):
                result, listed = self._write(numbers, new)
                self._write_list(new, listed)
                self._step("commit")
                new.replace(folder)
                files.sync_folder(self._spool.folder)
        except StoreUnavailable:
            shutil.rmtree(new, ignore_errors=True)  # makes room, if that is what was missing
            raise
        except _Abandoned:
            shutil.rmtree(new, ignore_errors=True)
            return None
        aside += self._complete(folder)
        return result._replace(aside=aside)

    # Before it counts --------------------------------------------------------------------------------------------

    def _write(self, numbers: list[int], new: Path) -> tuple[Cut, _List]:
        self._step("begin")
        new.mkdir()
        marks = self.marks()
        result = Cut([])
        with _Chunks(self._journal.folder, numbers) as chunks:
            self._step("index")
            index = self._index(chunks)
            listed: list[tuple[str, str]] = []
            for stream in sorted(index):
                writer = SegmentWriter(
                    self._venue, stream, self._zstd,
                    max_bytes=self._segment_max_bytes, mark=marks.get(stream, NEW),
                )  # fmt: skip
                for segment in self._segments(writer, chunks, index.pop(stream)):
                    name = f"{len(listed):06d}"
                    self._step("segment")
                    files.write_whole(new / name, segment.body)
                    listed.append((name, segment.name.key))
                    result.segments.append(segment.name)
                    result = result._replace(bytes=result.bytes + len(segment.body))
                marks[stream] = writer.mark
                result = result._replace(
                    messages=result.messages + writer.messages, duplicates=result.duplicates + writer.duplicates
                )
        kept = [_Stream(key.product, key.channel, mark.time, *mark.position) for key, mark in sorted(marks.items())]
        result = result._replace(damaged=chunks.faults)
        return result, _List(numbers[-1], listed, sorted(chunks.damaged), kept)

    def _index(self, chunks: "_Chunks") -> dict[StreamKey, "array[int]"]:
        """Where each stream's frames are, in order."""
        by_topic: dict[bytes, array[int]] = {}
        index: dict[StreamKey, array[int]] = {}
        for looked, (place, frame) in enumerate(chunks.frames()):
            if looked % _INDEXED_A_LOOK == 0:
                self._look()
            topic = frame[: frame.find(b"\0", 0, 256)]
            found = by_topic.get(topic)
            if found is None:
                try:
                    stream = topics.parse_market_data(codec.split_topic(frame)[0])[1]
                except BadMeshFrame:
                    chunks.fault(place)
                    continue
                found = by_topic[topic] = index.setdefault(stream, array("Q"))
            found.append(place)
        return index

    def _segments(self, writer: SegmentWriter, chunks: "_Chunks", places: "array[int]") -> Iterator[Segment]:
        streams: dict[bytes, StreamKey] = {}
        for place in places:
            self._look()
            try:
                closed = _add(writer, chunks.frame(place), streams)
            except (BadMeshFrame, BadArchive):
                chunks.fault(place)
                continue
            yield from closed
        yield from writer.close()

    def _write_list(self, new: Path, listed: _List) -> None:
        self._step("list")
        files.write_whole(new / _LIST, msgspec.json.encode(listed))
        files.sync_folder(new)

    def _look(self) -> None:
        if self._abandon:
            raise _Abandoned
        if not self._hurry:
            self._pace.look()

    # Once it counts ----------------------------------------------------------------------------------------------

    def _complete(self, folder: Path) -> tuple[Path, ...]:
        aside: list[Path] = []
        with files.explained(self._spool.folder):
            try:
                listed = msgspec.json.decode((folder / _LIST).read_bytes(), type=_List)
            except FileNotFoundError:  # it is taken away last
                folder.rmdir()
                return ()
            self._spool.adopt(self._told("adopt", folder, listed))
            self._step("marks")
            files.replace_whole(self._journal.folder / MARKS, msgspec.json.encode(listed.marks))
            held = self._journal.chunks()
            for number in [number for number in held if number <= listed.chunk]:
                self._step("delete")
                if number in listed.damaged:
                    aside.append(self._journal.set_aside(number))
                else:
                    self._journal.delete(number)
            self._step("end")
            (folder / _LIST).unlink()
            folder.rmdir()
            files.sync_folder(self._spool.folder)
        return tuple(aside)

    def _told(self, step: str, folder: Path, listed: _List) -> Iterator[tuple[Path, str]]:
        for name, key in listed.segments:
            self._step(step)
            yield folder / name, key

    def marks(self) -> dict[StreamKey, Mark]:
        """How far each stream has been cut. StoreUnavailable.

        A damaged file is set aside: without it the streams' times begin anew, and nothing else.
        """
        path = self._journal.folder / MARKS
        with files.explained(path):
            try:
                found = msgspec.json.decode(path.read_bytes(), type=list[_Stream])
            except FileNotFoundError:
                return {}
            except msgspec.DecodeError:
                path.replace(path.with_name(f"{MARKS}.damaged"))
                return {}
        return {StreamKey(one.product, one.channel): Mark(one.time, Position(one.epoch, one.seq)) for one in found}


def _add(writer: SegmentWriter, frame: bytes, streams: dict[bytes, StreamKey]) -> list[Segment]:
    """Give a frame to its stream's writer. BadMeshFrame; BadArchive."""
    increments = codec.unpack_increments(frame)
    closed = writer.add_increments(increments) if increments is not None else None
    if closed is None:
        entry = entry_of(frame, streams)
        closed = writer.add(entry) if entry is not None else []
    return closed


class _Chunks:
    """Closed chunks, mapped. A frame's place is its chunk and offset in one integer."""

    def __init__(self, folder: Path, numbers: list[int]) -> None:
        self._paths = [chunk_path(folder, number) for number in numbers]
        self._numbers = numbers
        self._maps: list[mmap.mmap] = []
        self._touched = 0
        self.faults = 0
        self.damaged: set[int] = set()

    def __enter__(self) -> "_Chunks":
        for path in self._paths:
            with path.open("rb") as file:
                self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._maps:
            one.close()

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Place and bytes of every frame; what is damaged is left out, and noted."""
        for at, path in enumerate(self._paths):
            base = at << _OFFSET_BITS
            with path.open("rb") as file:
                for start, _, frame in records.walk(file, len(self._maps[at]), path.name):
                    if frame is None:
                        self.fault(base)
                    else:
                        yield base | start, frame

    def frame(self, place: int) -> bytes:
        """The frame at a place."""
        chunk, start = self._maps[place >> _OFFSET_BITS], place & _OFFSET
        self._touched += 1
        if self._touched % _RESIDENT_RECORDS == 0:
            # What was looked at stays in the system's cache, but no longer counts as this process's memory.
            for one in self._maps:
                one.madvise(mmap.MADV_DONTNEED)
        return chunk[start : start + records.length_at(chunk, start)]

    def fault(self, place: int) -> None:
        """Something at this place can't be read."""
        self.faults += 1
        self.damaged.add(self._numbers[place >> _OFFSET_BITS])
