"""Streams as a normalizer publishes them, for tests of what archives them."""

from collections.abc import Sequence

from lfmesh.archive.journal import Entry
from lfmesh.core import codec, encode, topics
from lfmesh.core.codec import Flags, Header
from lfmesh.types import NO_INPUT, Channel, Position, StreamKey

NOW = 1_763_920_000_000_000_000
"""When everything is published, unless a test says otherwise; the venue's times are a second before."""
SECOND = 1_000_000_000
BTC = StreamKey("BTC-USD", Channel.TRADES)
UNKNOWN = Position(0, 0)
ETH = StreamKey("ETH-USD", Channel.BOOK)


def increment(stream: StreamKey, position: Position, ts_event: int, ts_publish: int = NOW, pad: str = "") -> bytes:
    prefix = encode.increment_prefix("trade", stream.product, stream.channel, position.epoch)
    fields = f'{{"px":1.10,"qty":2,"side":"buy","trade_id":{position.seq},"pad":"{pad}"}}'
    return encode.increment(prefix, position.seq, (ts_event, ts_publish, ts_publish), "verified", fields)


def snapshot(stream: StreamKey, position: Position, parts: int = 1, ts_publish: int = NOW) -> list[bytes]:
    states = [f'{{"trades":[],"part":{number}}}' for number in range(parts)]
    return encode.snapshot(stream.product, stream.channel, position, ts_publish, "epoch", states)


def header(
    first: Position, flags: int = 0, *, ts_event: int = 0, ts_publish: int = NOW, previous: Position = UNKNOWN
) -> Header:
    return Header(flags, 7, 1, NO_INPUT, first.epoch, first.seq, *previous, ts_event, ts_publish)


def increments(
    stream: StreamKey,
    first: Position,
    count: int,
    ts_event: int = NOW - SECOND,
    *,
    ts_publish: int = NOW,
    pad: str = "",
) -> Entry:
    """One frame of increments from a position on, a millisecond of the venue's apart; no times where ts_event is 0."""
    epoch, seq = first
    messages = [
        increment(stream, Position(epoch, seq + n), ts_event and ts_event + n * 1_000_000, ts_publish, pad)
        for n in range(count)
    ]
    return Entry(stream, header(first, ts_event=ts_event, ts_publish=ts_publish), messages)


def opening(
    stream: StreamKey, position: Position, *, parts: int = 1, ts_event: int = 0, ts_publish: int = NOW,
    previous: Position = UNKNOWN,
) -> Entry:  # fmt: skip
    """A snapshot's frame."""
    flags = int(Flags.SNAPSHOT)
    head = header(position, flags, ts_event=ts_event, ts_publish=ts_publish, previous=previous)
    return Entry(stream, head, snapshot(stream, position, parts, ts_publish))


def frame(entry: Entry, shard: int = 0) -> bytes:
    """An entry as it is published."""
    return codec.pack(topics.market_data(shard, entry.stream), entry.header, entry.messages)


def messages(entries: Sequence[Entry]) -> list[bytes]:
    """All messages, in order."""
    return [message for entry in entries for message in entry.messages]
