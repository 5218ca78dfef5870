"""What a watcher knows: the latest picture of each product, built from a gateway's messages. No clock, no I/O."""

from collections import deque
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from typing import Literal

from lfmesh.client.messages import Book, Goaway, Message, Refused, Status, Ticker, Trade, Update
from lfmesh.exact import scaled
from lfmesh.types import Channel, Continuity, Level, StreamState

RECENT_TRADES = 200
_NOTES = 5
_ONE = 10**18


@dataclass(slots=True)
class BookSides:
    """One book, by price; prices that are equal as numbers are one level, however they are written."""

    bids: dict[int, Level] = field(default_factory=dict)
    asks: dict[int, Level] = field(default_factory=dict)

    def apply(self, book: Book) -> None:
        """Absolute sizes; zero removes the level."""
        for side, levels in ((self.bids, book.bids), (self.asks, book.asks)):
            for px, qty in levels:
                if scaled(qty):
                    side[scaled(px)] = (px, qty)
                else:
                    side.pop(scaled(px), None)

    def best_bids(self, count: int) -> list[Level]:
        """The highest bids first."""
        return [self.bids[px] for px in nlargest(count, self.bids)]

    def best_asks(self, count: int) -> list[Level]:
        """The lowest asks first."""
        return [self.asks[px] for px in nsmallest(count, self.asks)]


@dataclass(slots=True)
class StreamView:
    """One product's stream as a person wants it. `received_ns` is when we got its last message, 0 before the first.

    `change` compares the last price with the one before that differed: -1, 0, 1. `messages` counts updates.
    """

    product: str
    ticker: Ticker | None = None
    trades: deque[tuple[int, Trade, Continuity | None]] = field(default_factory=lambda: deque(maxlen=RECENT_TRADES))
    book: BookSides = field(default_factory=BookSides)
    change: Literal[-1, 0, 1] = 0
    continuity: Continuity | None = None
    state: StreamState = "live"
    state_reason: str = ""
    state_since: int = 0
    epoch: int = 0
    seq: int = 0
    ts_event: int = 0
    ts_publish: int = 0
    received_ns: int = 0
    messages: int = 0
    missing_trades: int = 0

    def _moved(self, before: str | None, after: str | None) -> None:
        if before is not None and after is not None and scaled(before) != scaled(after):
            self.change = 1 if scaled(after) > scaled(before) else -1

    def last_price(self) -> str | None:
        """Price of the newest trade that the stream tells of."""
        if self.ticker is not None and self.ticker.last_trade is not None:
            return self.ticker.last_trade.px
        return self.trades[-1][1].px if self.trades else None

    def apply(self, update: Update, now: int) -> None:
        """Take an update; increments that come twice or late are the gateway's fault and are shown as they come."""
        before = self.last_price()
        match update.content:
            case Ticker() as ticker:
                self.ticker = ticker
            case Book() as book:
                if update.op == "snapshot" and update.part == 1:
                    self.book = BookSides()
                self.book.apply(book)
            case trades:
                known = self.trades[-1][1].trade_id if self.trades else 0
                for trade in trades:
                    if trade.trade_id > known:
                        self.trades.append((update.ts_event, trade, update.continuity))
        if update.missing is not None:
            self.missing_trades += update.missing[1] - update.missing[0] + 1
        self._moved(before, self.last_price())
        self.continuity = update.continuity or self.continuity
        self.epoch, self.seq = update.epoch, update.seq
        self.ts_event = update.ts_event or self.ts_event
        self.ts_publish = update.ts_publish
        self.received_ns = now
        self.messages += 1


@dataclass(slots=True)
class WatchState:
    """Everything on the screen.

    `link` says how the connection is, `trouble` why there is none; `notes` are the latest things worth saying;
    `refusal` is the gateway's last error; `subscribed` tells whether the present connection has any stream.
    """

    url: str
    channel: Channel
    views: dict[str, StreamView]
    link: str = "connecting"
    connected: bool = False
    trouble: str | None = None
    connected_once: bool = False
    subscribed: bool = False
    refusal: str | None = None
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=_NOTES))

    def is_connected(self) -> None:
        """A connection is open. It is told which streams are not live: what was said on an earlier one is over."""
        self.link, self.connected, self.trouble = "connected", True, None
        self.connected_once = True
        self.subscribed, self.refusal = False, None
        for view in self.views.values():
            view.state, view.state_reason, view.state_since = "live", "", 0

    def is_lost(self, reason: str) -> bool:
        """There is no connection, for this reason; True if that is news."""
        news = self.trouble != reason
        self.link, self.connected, self.trouble = f"no connection: {reason}; trying again", False, reason
        return news

    def apply(self, message: Message, now: int) -> None:
        """Take one message of the gateway."""
        match message:
            case Update():
                self.views.setdefault(message.product, StreamView(message.product)).apply(message, now)
            case Status():
                view = self.views.setdefault(message.product, StreamView(message.product))
                view.state, view.state_reason, view.state_since = message.state, message.reason, message.since
            case Refused():
                self.refusal = f"{message.code}: {message.msg}"
                self.notes.append(self.refusal)
            case Goaway():
                self.notes.append(f"the gateway is going away ({message.reason})")
            case _:
                pass


def spread(bid: str | None, ask: str | None) -> str | None:
    """Ask minus bid, exact, with the digits of the longer one; negative when the book is crossed."""
    if bid is None or ask is None:
        return None
    difference = scaled(ask) - scaled(bid)
    digits = max(len(text.partition(".")[2]) for text in (bid, ask))
    whole, fraction = divmod(abs(difference), _ONE)
    text = str(whole) if digits == 0 else f"{whole}.{str(fraction).zfill(18)[:digits]}"
    return f"-{text}" if difference < 0 else text
