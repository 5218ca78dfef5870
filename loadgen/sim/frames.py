"""The venue's frames as bytes: texts by f-string (every field's form is known), and their WebSocket framing.

Field names and order follow Coinbase Exchange's documentation of its WebSocket channels; side is the maker's in a match
and the taker's in a ticker.
"""

from collections.abc import Iterable
from struct import pack

import msgspec

from loadgen.sim.digits import order_id, padded, trimmed
from loadgen.sim.market import BookChange, Fill, Instrument

encode_json = msgspec.json.Encoder().encode

_TEXT_FINAL = 0x81
_SHORT, _MEDIUM = 126, 65_536
_MEDIUM_MARK, _LONG_MARK = 126, 127
_CACHED_PRICES = 20_000


def _header(length: int) -> bytes:
    if length < _SHORT:
        return bytes((_TEXT_FINAL, length))
    if length < _MEDIUM:
        return pack("!BBH", _TEXT_FINAL, _MEDIUM_MARK, length)
    return pack("!BBQ", _TEXT_FINAL, _LONG_MARK, length)


_HEADERS = tuple(_header(length) for length in range(2048))


def framed(payload: bytes) -> bytes:
    """`payload` as one unmasked, final text frame (RFC 6455 section 5.2): what a server writes to its socket.

    Made once and shared by all subscribers; the library's own serializer would frame once for each.
    """
    length = len(payload)
    return (_HEADERS[length] if length < len(_HEADERS) else _header(length)) + payload


def payload_of(frame: bytes) -> bytes:
    """The payload of a frame made by `framed`."""
    mark = frame[1]
    return frame[10:] if mark == _LONG_MARK else frame[4:] if mark == _MEDIUM_MARK else frame[2:]


def subscriptions_frame(channels: Iterable[tuple[str, list[str]]]) -> bytes:
    """The echo: everything that the connection is subscribed to now, by the names that the venue echoes."""
    listed = [{"name": name, "product_ids": products, "account_ids": None} for name, products in channels]
    return encode_json({"type": "subscriptions", "channels": listed})


def error_frame(message: str, reason: str | None = None) -> bytes:
    """A refusal; the connection stays."""
    body = {"type": "error", "message": message}
    return encode_json(body if reason is None else {**body, "reason": reason})


def heartbeat_frame(product: str, sequence: int, last_trade_id: int, time: str) -> bytes:
    """`last_trade_id` is 0 where no trade is known."""
    return (
        f'{{"type":"heartbeat","last_trade_id":{last_trade_id},"product_id":"{product}",'
        f'"sequence":{sequence},"time":"{time}"}}'
    ).encode()


def snapshot_frame(product: str, bids: Iterable[tuple[str, str]], asks: Iterable[tuple[str, str]]) -> bytes:
    """The whole book, best first."""
    sides = ",".join(
        f'"{name}":[{",".join(f'["{px}","{qty}"]' for px, qty in levels)}]'
        for name, levels in (("bids", bids), ("asks", asks))
    )
    return f'{{"type":"snapshot","product_id":"{product}",{sides}}}'.encode()


class InstrumentFrames:
    """Writes one instrument's frames; keeps the texts that recur."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        spec = instrument.spec
        self._id = spec.id
        self._price_digits = spec.price_digits
        self._size_digits = spec.size_digits
        self._update_head = f'{{"type":"l2update","product_id":"{spec.id}","changes":['
        self._prices: dict[int, str] = {}
        self._opening = trimmed(instrument.open, spec.price_digits)

    def price(self, ticks: int) -> str:
        """A book price with all its digits."""
        text = self._prices.get(ticks)
        if text is None:
            if len(self._prices) >= _CACHED_PRICES:
                self._prices.clear()
            text = self._prices[ticks] = padded(ticks, self._price_digits)
        return text

    def size(self, lots: int) -> str:
        """A book size with all its digits."""
        return padded(lots, self._size_digits)

    def levels(self, levels: Iterable[tuple[int, int]]) -> list[tuple[str, str]]:
        """A ladder's levels as texts, in their order."""
        return [(self.price(ticks), self.size(lots)) for ticks, lots in levels]

    def change(self, message: BookChange, time: str) -> bytes:
        """The l2update of one change of the book."""
        return self.update(message.changes, time)

    def update(self, changes: Iterable[tuple[bool, int, int]], time: str) -> bytes:
        """An l2update of (is_bid, ticks, lots), absolute sizes."""
        price, digits = self.price, self._size_digits
        rows = ",".join(
            [
                f'["{"buy" if is_bid else "sell"}","{price(ticks)}","{padded(lots, digits)}"]'
                for is_bid, ticks, lots in changes
            ]
        )
        return f'{self._update_head}{rows}],"time":"{time}"}}'.encode()

    def trade_texts(self, fill: Fill) -> tuple[str, str]:
        """(price, size) of a trade as its match frame writes them."""
        return trimmed(fill.price, self._price_digits), trimmed(fill.lots, self._size_digits)

    def match(self, fill: Fill, time: str, kind: str = "match") -> bytes:
        """`kind` is "match", or "last_match" for the position that opens a subscription."""
        px, qty = self.trade_texts(fill)
        return (
            f'{{"type":"{kind}","trade_id":{fill.trade_id},"maker_order_id":"{order_id(fill.maker_order)}",'
            f'"taker_order_id":"{order_id(fill.taker_order)}","side":"{fill.maker_side}","size":"{qty}",'
            f'"price":"{px}","product_id":"{self._id}","sequence":{fill.sequence},"time":"{time}"}}'
        ).encode()

    def ticker(self, fill: Fill | None, time: str) -> bytes:
        """The ticker now; `fill` is the last trade. Without one it lacks trade_id, time and last_size."""
        instrument = self._instrument
        bid, ask = instrument.bids.best(), instrument.asks.best()
        assert bid is not None
        assert ask is not None
        digits = self._price_digits
        if fill is None:
            sequence, px, side, tail = instrument.sequence, self._opening, "buy", ""
        else:
            px, qty = self.trade_texts(fill)
            sequence, side = fill.sequence, fill.taker_side
            tail = f',"time":"{time}","trade_id":{fill.trade_id},"last_size":"{qty}"'
        # Volumes carry eight digits whatever the product's own are.
        whole_24h, whole_30d = (
            padded(volume * 10 ** (8 - self._size_digits), 8)
            for volume in (instrument.volume_24h, instrument.volume_30d)
        )
        return (
            f'{{"type":"ticker","sequence":{sequence},"product_id":"{self._id}","price":"{px}",'
            f'"open_24h":"{self._opening}","volume_24h":"{whole_24h}","low_24h":"{trimmed(instrument.low, digits)}",'
            f'"high_24h":"{trimmed(instrument.high, digits)}","volume_30d":"{whole_30d}",'
            f'"best_bid":"{self.price(bid[0])}","best_bid_size":"{self.size(bid[1])}",'
            f'"best_ask":"{self.price(ask[0])}","best_ask_size":"{self.size(ask[1])}","side":"{side}"{tail}}}'
        ).encode()
