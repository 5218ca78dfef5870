"""A segment's text, cut into batches of lines without parsing them, in bounded memory.

Where a line stands follows from the segment's name: its lines are one snapshot at most, in front, and then increments
whose `seq` grow by one (`lfmesh.core.archive`). Checked are the checksum, the count of lines, and what the first and
the last line say of themselves; `lfmesh store verify` looks at every line.
"""

import io
from collections.abc import Iterator
from typing import NamedTuple

import zstandard

from lfmesh.core.archive import SegmentName, checksum, is_snapshot
from lfmesh.errors import BadArchive

BLOCK_BYTES = 64 * 1024
_HEAD_BYTES = 400


class Batch(NamedTuple):
    """Lines of one stream and epoch, as clients got them: the increments `seq`, `seq` + 1, …; or, `snapshot`, parts of
    one snapshot at `seq`, in order: a snapshot of many parts can come in several batches."""

    seq: int
    snapshot: bool
    lines: list[bytes]


def read_segment(name: SegmentName, body: bytes, after_seq: int | None = None) -> Iterator[Batch]:
    """The batches of a segment, of those lines only that follow `after_seq`. BadArchive if the bytes are not those that
    the name promises."""
    if checksum(body) != name.checksum:
        raise BadArchive(f"{name.key} is damaged: its bytes do not have the checksum of its name")
    parts = number = 0
    last = b""
    for lines in _blocks(name, body):
        if not number:
            parts = _parts(name, lines[0])
            _check(name, lines[0], name.first_seq)
        last = lines[-1]
        end = number + len(lines)
        heads = max(0, min(parts, end) - number)
        if heads and (after_seq is None or after_seq < name.first_seq):
            yield Batch(name.first_seq, True, lines[:heads])
        if len(lines) > heads:
            seq = name.first_seq + (number + heads - parts) + (1 if parts else 0)
            skip = heads if after_seq is None else heads + max(0, after_seq + 1 - seq)
            if skip < len(lines):
                yield Batch(seq + skip - heads, False, lines[skip:] if skip else lines)
        number = end
    if number != name.lines:
        raise BadArchive(f"{name.key} holds {number} lines where its name says {name.lines}")
    _check(name, last, name.last_seq)


def begins_with_snapshot(name: SegmentName, body: bytes) -> bool:
    """True if the first line is a snapshot. BadArchive."""
    return next(read_segment(name, body)).snapshot


def _blocks(name: SegmentName, body: bytes) -> Iterator[list[bytes]]:
    """The lines, about BLOCK_BYTES at a time, without their ends."""
    rest: list[bytes] = []
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            while block := reader.read(BLOCK_BYTES):
                end = block.rfind(b"\n")
                rest.append(block if end < 0 else block[:end])
                if end >= 0:
                    yield b"".join(rest).split(b"\n")
                    rest = [block[end + 1 :]]
    except zstandard.ZstdError as error:
        raise BadArchive(f"{name.key} can't be decompressed: {error}") from error
    if any(rest):
        raise BadArchive(f"{name.key} ends within a line")


def _parts(name: SegmentName, first: bytes) -> int:
    """Of how many lines the snapshot is with which the segment begins; 0: of none. BadArchive."""
    follow = name.last_seq - name.first_seq
    parts = name.lines - follow if is_snapshot(first) else 0
    if parts < 1 and name.lines != follow + 1:
        raise BadArchive(f"{name.key} says {name.lines} lines, which its positions contradict")
    return parts


def _check(name: SegmentName, line: bytes, seq: int) -> None:
    if b'"epoch":%d,"seq":%d,' % (name.epoch, seq) not in line[:_HEAD_BYTES]:
        raise BadArchive(f"{name.key} does not hold what its name says: {line[:120]!r} at {name.epoch}/{seq}")
