"""Frames of the mesh, packed and unpacked. One ZeroMQ message is one frame (parts cost several times the CPU).

Market data (normalizer → snapshotter, gateway), little-endian:

    topic NUL  version:u8 flags:u8 sent:u16 count:u32  term:u64 instance:u64
    input.ingestor:u64 input.incarnation:u64 input.number:u64
    epoch:u64 first_seq:u64 prev_epoch:u64 prev_seq:u64 ts_event:i64 ts_publish:i64
    count × ( length:u32  JSON message in the form that clients receive )

    flags  SNAPSHOT  the messages are the parts of one snapshot at (epoch, first_seq); (prev_epoch, prev_seq) is
                     where the stream stood before it, so that a consumer knows whether it had all of that
           STATUS    one status message; it consumes no seq
           TURN_END  everything that came of the records up to `input` has been published, with this frame as the last

    sent counts all frames that this publisher has sent, modulo 65536: who misses none knows that it has seen all that a
    TURN_END speaks of.

Beacon (normalizer → snapshotter, gateway):  topic NUL  msgpack of `lfmesh.messages.Beacon`

Raw (ingestor → normalizer):

    version:u8 kind:u8 line:u8 reserved:u8 shard:u32 count:u32  ingestor:u64 incarnation:u64
    first_number:u64 oldest_number:u64 ts_sent:i64
    count × ( kind:u8 reserved:3 length:u32 ts_ingest:i64 body )

    kind   BATCH     numbers first_number … first_number + count - 1
           BEACON    count is 0; first_number is the number that the next record will get

A reader that meets a version it does not know raises BadMeshFrame: it never guesses.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

from lfmesh.errors import BadMeshFrame
from lfmesh.types import InputPosition, Line

VERSION = 1

_HEADER = struct.Struct("<BBHIQQQQQQQQQqq")
_LENGTH = struct.Struct("<I")
# Of the same header only: version, flags, count, term, epoch, first_seq, ts_publish; and the first message's length.
_INCREMENTS = struct.Struct("<BBxxIQ32xQQ24xqI")
# And all but who published it, and from which input.
_GLANCE = struct.Struct("<BBxxI40xQQQQqq")
_RAW_HEADER = struct.Struct("<BBBBIIQQQQq")
_RECORD = struct.Struct("<BxxxIq")
_NO_INCREMENTS = 0xFF & ~4
_new = tuple.__new__


class Flags(IntFlag):
    """What the messages of a market-data frame are; none set: increments."""

    INCREMENTS = 0
    SNAPSHOT = 1
    STATUS = 2
    TURN_END = 4


class Header(NamedTuple):
    """Fixed header of a market-data frame; field meanings in the module's docstring."""

    flags: int
    term: int
    instance: int
    input: InputPosition
    epoch: int
    first_seq: int
    prev_epoch: int
    prev_seq: int
    ts_event: int
    ts_publish: int
    sent: int = 0


class MarketFrame(NamedTuple):
    """One unpacked market-data frame."""

    topic: bytes
    header: Header
    messages: list[bytes]


def pack(topic: bytes, header: Header, messages: Sequence[bytes]) -> bytes:
    """One market-data frame."""
    parts = [topic, b"\0", _pack_header(header, len(messages))]
    length = _LENGTH.pack
    for message in messages:
        parts.append(length(len(message)))
        parts.append(message)
    return b"".join(parts)


def _pack_header(header: Header, count: int) -> bytes:
    flags, term, instance, source, epoch, first_seq, prev_epoch, prev_seq, ts_event, ts_publish, sent = header
    return _HEADER.pack(
        VERSION, flags, sent, count, term, instance, *source,
        epoch, first_seq, prev_epoch, prev_seq, ts_event, ts_publish,
    )  # fmt: skip


def split_topic(frame: bytes) -> tuple[bytes, int]:
    """Topic of a PUB frame and the offset of what follows it; BadMeshFrame without a NUL in its first 256 bytes."""
    end = frame.find(b"\0", 0, 256)
    if end < 0:
        raise BadMeshFrame("a frame without a topic")
    return frame[:end], end + 1


def unpack(frame: bytes) -> MarketFrame:
    """A market-data frame, or BadMeshFrame."""
    topic, offset = split_topic(frame)
    header, count, offset = _unpack_header(frame, offset)
    messages = []
    size = len(frame)
    length_at = _LENGTH.unpack_from
    try:
        for _ in range(count):
            (length,) = length_at(frame, offset)
            offset += 4
            end = offset + length
            messages.append(frame[offset:end])
            offset = end
    except struct.error as error:
        raise BadMeshFrame(f"{count} messages promised, {len(messages)} there") from error
    if offset != size:
        raise BadMeshFrame(f"length {size} where the messages end at {offset}")
    return MarketFrame(topic, header, messages)


class Glance(NamedTuple):
    """What a market-data frame says of itself, in brief; see `Header`."""

    topic: bytes
    flags: int
    messages: int
    epoch: int
    first_seq: int
    prev_epoch: int
    prev_seq: int
    ts_event: int
    ts_publish: int


def glance(frame: bytes) -> Glance:
    """What an index of market-data frames needs of one, its messages not looked at; BadMeshFrame."""
    topic, offset = split_topic(frame)
    try:
        version, flags, count, *rest = _GLANCE.unpack_from(frame, offset)
    except struct.error as error:
        raise BadMeshFrame("a market-data frame shorter than its header") from error
    if version != VERSION:
        raise BadMeshFrame(f"format version {version}; this process reads {VERSION}")
    return Glance(topic, flags, count, *rest)


class Increments(NamedTuple):
    """What who only passes increments on needs of their frame."""

    topic: bytes
    term: int
    epoch: int
    first_seq: int
    ts_publish: int
    messages: list[bytes]


def unpack_increments(frame: bytes) -> Increments | None:
    """A frame of increments, in less than half the time of `unpack`; None for any other frame, and for a bad one."""
    end = frame.find(b"\0", 0, 256)
    offset = end + 1 + _HEADER.size
    size = len(frame)
    if end < 0 or offset + 4 > size:
        return None
    version, flags, count, term, epoch, first_seq, ts_publish, length = _INCREMENTS.unpack_from(frame, end + 1)
    if version != VERSION or flags & _NO_INCREMENTS or not count:
        return None
    start = offset + 4
    offset = start + length
    messages = [frame[start:offset]]
    if count > 1:
        length_at = _LENGTH.unpack_from
        try:
            for _ in range(count - 1):
                start = offset + 4
                offset = start + length_at(frame, offset)[0]
                messages.append(frame[start:offset])
        except struct.error:
            return None
    # As the class's own constructor does, in half its time.
    return _new(Increments, (frame[:end], term, epoch, first_seq, ts_publish, messages)) if offset == size else None


def _unpack_header(frame: bytes, offset: int) -> tuple[Header, int, int]:
    try:
        (
            version, flags, sent, count, term, instance, ingestor, incarnation, number,
            epoch, first_seq, prev_epoch, prev_seq, ts_event, ts_publish,
        ) = _HEADER.unpack_from(frame, offset)  # fmt: skip
    except struct.error as error:
        raise BadMeshFrame("a market-data frame shorter than its header") from error
    if version != VERSION:
        raise BadMeshFrame(f"format version {version}; this process reads {VERSION}")
    source = InputPosition(ingestor, incarnation, number)
    header = Header(flags, term, instance, source, epoch, first_seq, prev_epoch, prev_seq, ts_event, ts_publish, sent)
    return header, count, offset + _HEADER.size


class RawKind(IntEnum):
    """What a frame from an ingestor is."""

    BATCH = 1
    BEACON = 2


class RecordKind(IntEnum):
    """What one numbered record is."""

    FRAME = 0
    """A venue frame, as received."""
    LINK_DOWN = 1
    """JSON of `lfmesh.messages.LinkChange`: these products' venue connection is lost."""
    LINK_UP = 2
    """JSON of `lfmesh.messages.LinkChange`: it is back, and subscribed."""
    BACKFILL = 3
    """JSON of `lfmesh.messages.BackfillPage`: trades fetched over REST."""


class RawRecord(NamedTuple):
    """One numbered record of an ingestor's stream."""

    kind: int
    ts_ingest: int
    body: bytes


class RawHeader(NamedTuple):
    """Header of a frame from an ingestor; field meanings in the module's docstring."""

    kind: int
    line: Line
    shard: int
    ingestor: int
    incarnation: int
    first_number: int
    oldest_number: int
    ts_sent: int


def pack_raw(header: RawHeader, records: Sequence[RawRecord] = ()) -> bytes:
    """One frame of an ingestor: a batch, or (without records) a beacon."""
    kind, line, shard, ingestor, incarnation, first_number, oldest_number, ts_sent = header
    parts = [
        _RAW_HEADER.pack(
            VERSION, kind, ord(line), 0, shard, len(records),
            ingestor, incarnation, first_number, oldest_number, ts_sent,
        )
    ]  # fmt: skip
    pack_record = _RECORD.pack
    for record_kind, ts_ingest, body in records:
        parts.append(pack_record(record_kind, len(body), ts_ingest))
        parts.append(body)
    return b"".join(parts)


def last_record(frame: bytes) -> InputPosition:
    """The newest record that a raw frame holds or, a beacon, announces; its records are not looked at. BadMeshFrame."""
    try:
        version, _, _, _, _, count, ingestor, incarnation, first_number, _, _ = _RAW_HEADER.unpack_from(frame)
    except struct.error as error:
        raise BadMeshFrame("a raw frame shorter than its header") from error
    if version != VERSION:
        raise BadMeshFrame(f"format version {version}; this process reads {VERSION}")
    return InputPosition(ingestor, incarnation, first_number + count - 1)


def unpack_raw(frame: bytes) -> tuple[RawHeader, list[RawRecord]]:
    """A frame of an ingestor, or BadMeshFrame."""
    try:
        (
            version, kind, line, _, shard, count, ingestor, incarnation, first_number, oldest_number, ts_sent,
        ) = _RAW_HEADER.unpack_from(frame)  # fmt: skip
    except struct.error as error:
        raise BadMeshFrame("a raw frame shorter than its header") from error
    if version != VERSION:
        raise BadMeshFrame(f"format version {version}; this process reads {VERSION}")
    records = []
    offset = _RAW_HEADER.size
    record_at, record_size = _RECORD.unpack_from, _RECORD.size
    new_record = RawRecord._make
    try:
        for _ in range(count):
            record_kind, length, ts_ingest = record_at(frame, offset)
            offset += record_size
            end = offset + length
            records.append(new_record((record_kind, ts_ingest, frame[offset:end])))
            offset = end
    except struct.error as error:
        raise BadMeshFrame(f"{count} records promised, {len(records)} there") from error
    if offset != len(frame):
        raise BadMeshFrame(f"length {len(frame)} where the records end at {offset}")
    if line not in (65, 66):
        raise BadMeshFrame(f"line {line}; A (65) or B (66) expected")
    return RawHeader(
        kind, "A" if line == 65 else "B", shard, ingestor, incarnation, first_number, oldest_number, ts_sent
    ), records
