"""What a tape has said so far: book, last trade and ticker of each product.

Pure: frames in, state out. Prices and sizes stay the tape's texts; levels are found by value, so that `0.5` and `0.50`
are one level.
"""

import re

import msgspec

from lfmesh.exact import is_decimal, scaled
from loadgen.sim.audience import VenueChannel
from loadgen.sim.feed import BookView, Level, ProductInfo, Truth, truth_of
from loadgen.sim.frames import snapshot_frame
from loadgen.sim.trades import TradeLog

_CHANNEL_OF_TYPE = {
    "snapshot": VenueChannel.LEVEL2,
    "l2update": VenueChannel.LEVEL2,
    "ticker": VenueChannel.TICKER,
    "match": VenueChannel.MATCHES,
    "last_match": VenueChannel.MATCHES,
    "heartbeat": VenueChannel.HEARTBEAT,
    "status": VenueChannel.STATUS,
}
"""The types that are played. `subscriptions` and `error` answered the recording client and are not."""

_COUNTED_TYPES = ("l2update", "match", "ticker")

_match_type = re.compile(rb'("type"\s*:\s*)"match"')


class _Head(msgspec.Struct, frozen=True):
    type: str
    product_id: str = ""


class _Body(msgspec.Struct, frozen=True):
    sequence: int = 0
    trade_id: int = 0
    last_trade_id: int = 0
    side: str = ""
    price: str = ""
    size: str = ""
    time: str = ""
    bids: list[Level] = []
    asks: list[Level] = []
    changes: list[tuple[str, str, str]] = []


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_body = msgspec.json.Decoder(_Body).decode


class Route(msgspec.Struct, frozen=True):
    """Where a frame goes. A book frame's channel is LEVEL2; it serves level2_batch as well."""

    kind: str
    channel: VenueChannel
    index: int


class TapeProduct:
    """One product's state as of the frames applied."""

    def __init__(self, product: str, history_rows: int) -> None:
        self.product = product
        self.frames = 0
        self.sequence = 0
        self.log = TradeLog(history_rows)
        self.last_ticker: bytes | None = None
        self.last_match: bytes | None = None
        self._has_book = False
        self._bids: dict[int, Level] = {}
        self._asks: dict[int, Level] = {}

    def apply(self, kind: str, frame: bytes) -> None:
        """Take over what a played frame says; one whose fields are not as they should be changes nothing."""
        self.frames += kind in _COUNTED_TYPES
        try:
            body = _decode_body(frame)
        except msgspec.MsgspecError:
            return
        self.sequence = max(self.sequence, body.sequence)
        match kind:
            case "snapshot":
                self._has_book = True
                self._bids.clear()
                self._asks.clear()
                self._set(self._bids, body.bids)
                self._set(self._asks, body.asks)
            case "l2update" if self._has_book:
                for side, px, qty in body.changes:
                    self._set(self._bids if side == "buy" else self._asks, [(px, qty)])
            case "ticker":
                self.last_ticker = frame
            case "match" | "last_match":
                self.last_match = frame
                record = self.log.add if kind == "match" else self.log.list_only
                record(body.trade_id, body.price, body.size, body.side, body.time)
            case _:
                pass

    @staticmethod
    def _set(side: dict[int, Level], levels: list[Level]) -> None:
        for px, qty in levels:
            if not is_decimal(px) or not is_decimal(qty):
                continue
            key = scaled(px)
            if scaled(qty):
                side[key] = (px, qty)
            else:
                side.pop(key, None)

    def book(self) -> BookView:
        """Best first."""
        bids = [self._bids[key] for key in sorted(self._bids, reverse=True)]
        asks = [self._asks[key] for key in sorted(self._asks)]
        return BookView(bids, asks, self.sequence)

    def snapshot(self) -> bytes | None:
        """A snapshot frame of the book so far; None before the tape's own snapshot."""
        if not self._has_book:
            return None
        book = self.book()
        return snapshot_frame(self.product, book.bids, book.asks)

    def position(self) -> bytes | None:
        """A last_match frame of the newest trade so far."""
        return self.last_match and _match_type.sub(rb'\1"last_match"', self.last_match, count=1)

    def info(self) -> ProductInfo:
        """Increments are read off the digits of the book so far, 0.00000001 before there is one."""
        base, _, quote = self.product.partition("-")
        levels = [*self._bids.values(), *self._asks.values()]
        px_digits, qty_digits = (
            max((len(level[field].partition(".")[2]) for level in levels), default=8) for field in (0, 1)
        )
        return ProductInfo(self.product, base, quote, _increment(qty_digits), _increment(px_digits))

    def truth(self) -> Truth:
        """What a client that got every frame holds."""
        return truth_of(self.product, self.book(), self.log, self.frames)


def _increment(digits: int) -> str:
    return f"0.{'0' * (digits - 1)}1" if digits else "1"


class TapeMarket:
    """The state of all products of a tape."""

    def __init__(self, products: tuple[str, ...], history_rows: int) -> None:
        self.products = tuple(TapeProduct(product, history_rows) for product in products)
        self._index = {product: index for index, product in enumerate(products)}

    def apply(self, frame: bytes) -> Route | None:
        """Apply a frame and say where it goes; None for one that is not played."""
        try:
            head = _decode_head(frame)
        except msgspec.MsgspecError:
            return None
        channel = _CHANNEL_OF_TYPE.get(head.type)
        if channel is None:
            return None
        if channel is VenueChannel.STATUS:
            return Route(head.type, channel, 0)
        index = self._index.get(head.product_id)
        if index is None:
            return None
        self.products[index].apply(head.type, frame)
        return Route(head.type, channel, index)
