"""What a stream's state consists of, made of nothing but the messages that were published.

A content (one kind a channel) is loaded from the parts of a `state` and then given increments, both as texts that
`lfmesh.core.encode` made. Work is put off until somebody asks: a ticker keeps the last message as it came, trades the
last fifty, a book queues increments (bounded) and decodes them in one go. Prices and sizes stay the venue's texts;
levels are keyed by their exact value, so `1.1` and `1.10` are one level.

Texts that do not have the promised form raise BadMeshFrame, when they are looked at.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol, assert_never

import msgspec

from lfmesh.core import encode
from lfmesh.core.levels import LevelTexts
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import BackfilledTrade
from lfmesh.types import Channel, Level, Side

KEPT_TRADES = 50
"""A trades state holds the latest so many."""
QUEUED_INCREMENTS = 512
"""Book increments that may wait to be decoded."""
_LEVEL_BYTES = 24


class Content(Protocol):
    """The state of one channel of one product."""

    def load(self, parts: Sequence[bytes]) -> None:
        """Be what these parts of a `state` say, whatever was before."""

    def apply(self, messages: Iterable[bytes]) -> None:
        """Take these increments, next in order."""

    def parts(self) -> list[bytes]:
        """The `state` as JSON texts of at most about `encode.PART_BYTES`, each an object of its own."""

    def text(self) -> bytes:
        """The whole `state` as one JSON text."""


class _TradesText(msgspec.Struct):
    trades: list[msgspec.Raw]
    last_trade_id: int | None = None


class _BookText(msgspec.Struct):
    bids: list[msgspec.Raw]
    asks: list[msgspec.Raw]


class _TradeText(msgspec.Struct):
    px: msgspec.Raw
    qty: msgspec.Raw
    side: Side
    trade_id: int


class _TradeData(msgspec.Struct):
    ts_event: int
    fields: _TradeText


class _TradeMessage(msgspec.Struct):
    data: _TradeData


_trades_texts = msgspec.json.Decoder(_TradesText)
_book_texts = msgspec.json.Decoder(_BookText)
_trade_texts = msgspec.json.Decoder(_TradeText)
_trade_messages = msgspec.json.Decoder(_TradeMessage)


def _decode[T](decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    try:
        return decoder.decode(text)
    except msgspec.DecodeError as error:
        raise BadMeshFrame(f"not what a state is made of: {error}: {text[:80]!r}") from error


def _fields_of(message: bytes) -> bytes:
    try:
        return encode.fields_of(message)
    except ValueError as error:
        raise BadMeshFrame(f"an increment without fields: {message[:80]!r}") from error


class TickerContent:
    """The last tick."""

    __slots__ = ("_message", "_text")

    def __init__(self) -> None:
        self._text = b""
        self._message = b""

    def load(self, parts: Sequence[bytes]) -> None:
        """See `Content`."""
        self._text = b"".join(parts)
        self._message = b""

    def apply(self, messages: Iterable[bytes]) -> None:
        """See `Content`."""
        for message in messages:
            self._message = message

    def parts(self) -> list[bytes]:
        """See `Content`."""
        return [self.text()]

    def text(self) -> bytes:
        """See `Content`."""
        return _fields_of(self._message) if self._message else self._text


class TradesContent:
    """The latest fifty trades, oldest first, and the id up to which no more will come, where the publisher tells it."""

    __slots__ = ("_loaded", "_recent", "_told_id")

    def __init__(self) -> None:
        self._loaded: list[bytes] = []
        self._told_id: int | None = None
        self._recent: deque[bytes] = deque(maxlen=KEPT_TRADES)

    def load(self, parts: Sequence[bytes]) -> None:
        """See `Content`."""
        found = [_decode(_trades_texts, part) for part in parts]
        self._loaded = [bytes(trade) for part in found for trade in part.trades]
        self._told_id = found[-1].last_trade_id if found else None
        self._recent.clear()

    def apply(self, messages: Iterable[bytes]) -> None:
        """See `Content`."""
        self._recent.extend(messages)

    def parts(self) -> list[bytes]:
        """See `Content`."""
        return [self.text()]

    def text(self) -> bytes:
        """See `Content`."""
        trades = self._loaded[self._first_loaded() :] + [_fields_of(message) for message in self._recent]
        last = b"" if self._told_id is None else b',"last_trade_id":%d' % self.last_trade_id
        return b'{"trades":[' + b",".join(trades) + b"]" + last + b"}"

    @property
    def last_trade_id(self) -> int:
        """The id up to which nothing more will come; it can be ahead of the trades. 0 where none is known."""
        if self._recent:
            return _decode(_trade_messages, self._recent[-1]).data.fields.trade_id
        if self._told_id is not None:
            return self._told_id
        return _decode(_trade_texts, self._loaded[-1]).trade_id if self._loaded else 0

    def trades(self) -> list[BackfilledTrade]:
        """The same, decoded; `ts_event` is 0 for trades that came with a state, which does not tell it."""
        found = [_trade(0, _decode(_trade_texts, text)) for text in self._loaded[self._first_loaded() :]]
        for message in self._recent:
            data = _decode(_trade_messages, message).data
            found.append(_trade(data.ts_event, data.fields))
        return found

    def _first_loaded(self) -> int:
        return max(0, len(self._loaded) + len(self._recent) - KEPT_TRADES)


def _trade(ts_event: int, trade: _TradeText) -> BackfilledTrade:
    return BackfilledTrade(trade.trade_id, bytes(trade.px).decode(), bytes(trade.qty).decode(), trade.side, ts_event)


class BookContent:
    """An L2 book."""

    __slots__ = ("_asks", "_bids", "_queued", "_unread")

    def __init__(self) -> None:
        self._bids = LevelTexts(-1)
        self._asks = LevelTexts(1)
        self._unread: list[bytes] = []
        self._queued: list[bytes] = []

    def load(self, parts: Sequence[bytes]) -> None:
        """See `Content`."""
        self._bids.load(())
        self._asks.load(())
        self._unread = list(parts)
        self._queued = []

    def apply(self, messages: Iterable[bytes]) -> None:
        """See `Content`."""
        self._queued.extend(messages)
        if len(self._queued) >= QUEUED_INCREMENTS:
            self._settle()

    def parts(self) -> list[bytes]:
        """See `Content`."""
        bids, asks = self._sides()
        longest = max(max(map(len, bids), default=0), max(map(len, asks), default=0)) + 1
        size = max(2, (encode.PART_BYTES - len(_book_text((), ()))) // longest)
        if len(bids) + len(asks) <= size:
            return [_book_text(bids, asks)]
        half = size // 2
        return [
            _book_text(bids[start : start + half], asks[start : start + half])
            for start in range(0, max(len(bids), len(asks)), half)
        ]

    def text(self) -> bytes:
        """See `Content`."""
        return _book_text(*self._sides())

    @property
    def size(self) -> int:
        """About the length of `text()`, without the work of making it."""
        texts = sum(map(len, self._unread)) + sum(map(len, self._queued))
        return texts + _LEVEL_BYTES * (self._bids.size + self._asks.size)

    def levels(self) -> tuple[list[Level], list[Level]]:
        """Bids and asks, best first."""
        bids, asks = self._sides()
        return [_level(text) for text in bids], [_level(text) for text in asks]

    def _sides(self) -> tuple[list[bytes], list[bytes]]:
        self._settle()
        return self._bids.merged(), self._asks.merged()

    def _settle(self) -> None:
        unread, self._unread = self._unread, []
        queued, self._queued = self._queued, []
        if unread:
            parts = [_decode(_book_texts, part) for part in unread]
            self._bids.load(bytes(level) for part in parts for level in part.bids)
            self._asks.load(bytes(level) for part in parts for level in part.asks)
        for message in queued:
            change = _decode(_book_texts, _fields_of(message))
            if change.bids:
                self._bids.change(map(bytes, change.bids))
            if change.asks:
                self._asks.change(map(bytes, change.asks))


def _book_text(bids: Iterable[bytes], asks: Iterable[bytes]) -> bytes:
    return b'{"bids":[' + b",".join(bids) + b'],"asks":[' + b",".join(asks) + b"]}"


def _level(text: bytes) -> Level:
    px, _, qty = text[1:-1].decode().partition(",")
    return px, qty


def content_of(channel: Channel) -> Content:
    """An empty content for a channel."""
    match channel:
        case Channel.TICKER:
            return TickerContent()
        case Channel.TRADES:
            return TradesContent()
        case Channel.BOOK:
            return BookContent()
        case _:
            assert_never(channel)
