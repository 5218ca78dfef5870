"""The records of a journal's chunk: how they are written, and how they are found in a file that is torn or damaged.

    chunk    head:8 = "LFMJ" version:u32   records
    record   magic:4 length:u32 crc32:u32 (of the frame, begun with its length)   frame   (little-endian)

A record that is cut off or wrong with none that is right after it is a torn tail: what a process that is killed, or a
loss of power, leaves at the end of the newest chunk. One with right ones after it is damage.
"""

import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from lfmesh.errors import BadArchive

VERSION = 1
HEAD = b"LFMJ" + VERSION.to_bytes(4, "little")
HEADER_BYTES = 12

_MAGIC = b"\xf5rc\xa7"
_HEADER = struct.Struct("<4sII")
_LENGTH = struct.Struct("<I")
_BLOCK_BYTES = 1024 * 1024


class Found(NamedTuple):
    """A span of a chunk: a record's frame and where it is, or (`frame` is None) bytes that are no record."""

    start: int
    end: int
    frame: bytes | None


def pack(frames: Iterable[bytes]) -> list[bytes]:
    """The records of these frames, two pieces each."""
    parts = []
    header, crc32 = _HEADER.pack, zlib.crc32
    for frame in frames:
        size = len(frame)
        parts.append(header(_MAGIC, size, crc32(frame, size)))
        parts.append(frame)
    return parts


def walk(file: BinaryIO, size: int, name: str, start: int = 0) -> Iterator[Found]:
    """Everything in the first `size` bytes of a chunk, in order; from `start` on, where a record ended, if that is
    given. BadArchive where another version wrote it; OSError."""
    if start:
        yield from _everything(file, start, size)
        return
    file.seek(0)
    head = file.read(min(len(HEAD), size))
    at = len(head)
    if head != HEAD:
        if len(head) == len(HEAD) and head[:4] == HEAD[:4]:
            found = int.from_bytes(head[4:], "little")
            raise BadArchive(f"{name} has format version {found}; this program reads {VERSION}")
        at = _next_record(file, 0, size)
        if at:
            yield Found(0, at, None)
    yield from _everything(file, at, size)


def _everything(file: BinaryIO, at: int, size: int) -> Iterator[Found]:
    while at < size:
        end = at
        for record in _run(file, at, size):
            yield record
            end = record.end
        if end >= size:
            return
        at = _next_record(file, end + 1, size)
        yield Found(end, at, None)


def length_at(chunk: mmap.mmap, start: int) -> int:
    """Length of the frame that begins at `start`, of a record that is known to be right."""
    length: int = _LENGTH.unpack_from(chunk, start - 8)[0]
    return length


def _run(file: BinaryIO, at: int, size: int) -> Iterator[Found]:
    """Records from `at` on, up to the first place where there is none."""
    file.seek(at)
    left, buffer, base, offset = size - at, b"", at, 0
    unpack, crc32, new = _HEADER.unpack_from, zlib.crc32, Found._make
    while left:
        wanted = _BLOCK_BYTES
        if len(buffer) - offset >= HEADER_BYTES:
            wanted = max(wanted, unpack(buffer, offset)[1])
        piece = file.read(min(wanted, left))
        if not piece:
            return
        left -= len(piece)
        base += offset
        buffer, offset = buffer[offset:] + piece, 0
        available = len(buffer)
        while offset + HEADER_BYTES <= available:
            magic, length, crc = unpack(buffer, offset)
            start = offset + HEADER_BYTES
            end = start + length
            if magic != _MAGIC or base + end > size:
                return
            if end > available:
                break
            frame = buffer[start:end]
            if crc32(frame, length) != crc:
                return
            yield new((base + start, base + end, frame))
            offset = end


def _next_record(file: BinaryIO, at: int, size: int) -> int:
    """Where the first right record at or after `at` begins; `size` if there is none."""
    tail = b""
    while at < size:
        file.seek(at)
        piece = file.read(min(_BLOCK_BYTES, size - at))
        if not piece:
            break
        text, base = tail + piece, at - len(tail)
        offset = text.find(_MAGIC)
        while offset >= 0:
            if _is_record(file, base + offset, size):
                return base + offset
            offset = text.find(_MAGIC, offset + 1)
        tail = text[-(len(_MAGIC) - 1) :]
        at += len(piece)
    return size


def _is_record(file: BinaryIO, at: int, size: int) -> bool:
    file.seek(at)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return False
    length, crc = int.from_bytes(header[4:8], "little"), int.from_bytes(header[8:], "little")
    if at + HEADER_BYTES + length > size:
        return False
    frame = file.read(length)
    return len(frame) == length and zlib.crc32(frame, length) == crc
