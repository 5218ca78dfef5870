"""Ticks for fan-out benchmarks, of one size, and mesh frames of them that cost next to nothing.

A message differs from the one before it in its number and its times alone, which have as many digits as before: they
are written over in place. So the publisher's share of a machine's time is small, and every message of a product has the
same size, so that who counts bytes counts messages.

DESIGN speaks of ticks of 230 bytes. A tick with everything in it has about 420 (times in ns have 19 digits each); for
230 it is cut to one time and one price. Nobody on the way looks into a message, so what is left out costs its bytes.
"""

import struct
from typing import NamedTuple

from lfmesh.core import encode, topics
from lfmesh.core.codec import Header, pack
from lfmesh.types import NO_INPUT, Channel, StreamKey, Trade

EPOCH = 1_700_000_000_000_000
FIRST_SEQ = 1_000_000_000
"""Ten digits, and as many for the next nine billion messages."""
TERM = 1
INSTANCE = 9
SHORT_BYTES = 230
WHOLE = "whole"
SHORT = "short"

_NS_DIGITS = 19
_SEQ_DIGITS = 10
_SEQ_AT = struct.Struct("<Q").pack_into
_TIME_AT = struct.Struct("<q").pack_into
_NOW = 1_700_000_000_000_000_000
_MARK_SEQ = FIRST_SEQ
_MARK_TIME = _NOW


def key_of(product: str) -> StreamKey:
    """The ticker of a product."""
    return StreamKey(product, Channel.TICKER)


def products(count: int) -> tuple[str, ...]:
    """Names of one length, so that all messages have one."""
    return tuple(f"P{number:03}-USD" for number in range(count))


def state() -> str:
    """The state that a snapshot of any of these streams has."""
    trade = encode.trade_fields(Trade("", 1234567890, "60123.45", "0.01000000", "buy", 1))
    bid, ask = ("60123.44", "1.50000000"), ("60123.46", "2.10000000")
    return encode.ticker_fields(trade, encode.level(bid), encode.level(ask))


def tick(product: str, seq: int = FIRST_SEQ, at: int = _NOW, kind: str = SHORT) -> bytes:
    """One tick, whole or of SHORT_BYTES."""
    prefix = encode.increment_prefix("tick", *key_of(product), EPOCH)
    if kind == WHOLE:
        return encode.increment(prefix, seq, (at, at, at), "verified", state())
    head = f'{prefix}{seq},"ts_ingest":{at},"fields":{{"best_bid":{{"px":60123.44,"qty":1.5'.encode()
    tail = b"}}}}"
    return head + b"0" * (SHORT_BYTES - len(head) - len(tail)) + tail


class _Place(NamedTuple):
    """Where in a frame a message's number and times are."""

    seq: slice
    times: tuple[slice, ...]


class Frames:
    """The mesh frames of one product, of `count` messages each, those after the number `following`."""

    __slots__ = ("_frame", "_places", "_seq_at", "_ts_at", "count", "message_bytes", "product", "seq")

    def __init__(self, product: str, kind: str = SHORT, count: int = 1, following: int = FIRST_SEQ) -> None:
        self.product = product
        self.count = count
        self.seq = following
        messages = [tick(product, kind=kind)] * count
        self.message_bytes = len(messages[0])
        header = Header(0, TERM, INSTANCE, NO_INPUT, EPOCH, _MARK_SEQ, 0, 0, 1, _MARK_TIME)
        self._frame = bytearray(pack(topics.market_data(0, key_of(product)), header, messages))
        self._seq_at = self._frame.index(struct.pack("<Q", _MARK_SEQ))
        self._ts_at = self._frame.index(struct.pack("<q", _MARK_TIME))
        self._places = _places(self._frame)

    def next(self, at: int) -> bytearray:
        """The next frame, published at a time in ns; the same memory each time, so send it before the next one."""
        frame, seq = self._frame, self.seq
        _SEQ_AT(frame, self._seq_at, seq + 1)
        _TIME_AT(frame, self._ts_at, at)
        time = b"%d" % at
        for digits, times in self._places:
            seq += 1
            frame[digits] = b"%d" % seq
            for place in times:
                frame[place] = time
        self.seq = seq
        return frame


def _places(frame: bytearray) -> list[_Place]:
    seq, time = b'"seq":%d' % _MARK_SEQ, b"%d" % _MARK_TIME
    places = []
    starts = _all(frame, seq)
    for start, end in zip(starts, [*starts[1:], len(frame)], strict=True):
        times = tuple(slice(at, at + _NS_DIGITS) for at in _all(frame, time) if start < at < end)
        places.append(_Place(slice(start + len(seq) - _SEQ_DIGITS, start + len(seq)), times))
    return places


def _all(frame: bytearray, text: bytes) -> list[int]:
    found = []
    at = frame.find(text)
    while at >= 0:
        found.append(at)
        at = frame.find(text, at + 1)
    return found
