"""What a watcher knows: the latest picture of each product, built from a feed's events. No clock, no I/O."""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from lfmesh.client import (
    Book,
    BookSnapshot,
    BookUpdate,
    Connected,
    Disconnected,
    Event,
    Goaway,
    Increment,
    Missing,
    Position,
    Refused,
    ReplayStatus,
    Skipped,
    Snapshot,
    StatusChanged,
    Tick,
    Ticker,
    TickerSnapshot,
    Trade,
    TradeEvent,
    TradesSnapshot,
    Violation,
)
from lfmesh.core.times import format_time
from lfmesh.exact import scaled
from lfmesh.types import Channel, Continuity, StreamState

RECENT_TRADES = 200
_NOTES = 5
_ONE = 10**18


@dataclass(slots=True)
class StreamView:
    """One product's stream as a person wants it. `received_ns` is when we got its last message, 0 before the first.

    `change` compares the last price with the one before that differed: -1, 0, 1. `messages` counts updates. `book` is
    the feed's own, which is always that of the event applied last.
    """

    product: str
    book: Book
    ticker: Ticker | None = None
    trades: deque[tuple[int, Trade, Continuity | None]] = field(default_factory=lambda: deque(maxlen=RECENT_TRADES))
    change: Literal[-1, 0, 1] = 0
    continuity: Continuity | None = None
    state: StreamState = "live"
    state_reason: str = ""
    state_since: int = 0
    position: Position | None = None
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
            return self.ticker.last_trade.px_text
        return self.trades[-1][1].px_text if self.trades else None

    def apply(self, event: Snapshot | Increment) -> None:
        """Take a snapshot or increment of it."""
        before = self.last_price()
        match event:
            case Tick(ticker=ticker) | TickerSnapshot(ticker=ticker):
                self.ticker = ticker
            case TradeEvent(trade=trade):
                self.trades.append((event.ts_event, trade, event.continuity))
            case TradesSnapshot(new=new):
                self.trades.extend((0, trade, None) for trade in new)
            case _:
                pass
        self._moved(before, self.last_price())
        self.position = event.position
        if isinstance(event, Increment):
            self.continuity = event.continuity
            self.ts_event, self.ts_publish = event.ts_event or self.ts_event, event.ts_publish
        else:
            self.ts_publish = event.ts_snapshot
        self.received_ns = event.ts_received
        self.messages += 1


@dataclass(slots=True)
class WatchState:
    """Everything on the screen.

    `link` says how the connection is, `trouble` why there is none; `notes` are the latest things worth saying.
    `conflated` counts the snapshots that came in place of changes, because we took too little.
    """

    url: str
    channel: Channel
    views: dict[str, StreamView]
    link: str = "connecting"
    connected: bool = False
    trouble: str | None = None
    connected_once: bool = False
    conflated: int = 0
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=_NOTES))

    def view(self, product: str) -> StreamView:
        """A product's picture, empty at first."""
        return self.views.setdefault(product, StreamView(product, Book(product)))

    def is_lost(self, reason: str) -> bool:
        """There is no connection, for this reason; True if that is news."""
        news = self.trouble != reason
        self.link, self.connected, self.trouble = f"no connection: {reason}; trying again", False, reason
        return news

    def apply(self, event: Event) -> None:
        """Take one event of the feed."""
        match event:
            case BookSnapshot() | BookUpdate() | Tick() | TickerSnapshot() | TradeEvent() | TradesSnapshot():
                self.conflated += isinstance(event, Snapshot) and event.conflated
                self.view(event.product).apply(event)
            case StatusChanged():
                view = self.view(event.product)
                view.state, view.state_reason, view.state_since = event.state, event.reason, event.since
            case Missing():
                self.view(event.product).missing_trades += event.to_trade_id - event.from_trade_id + 1
            case Connected():
                self._is_connected(event.url)
            case Disconnected():
                self.is_lost(event.reason)
            case Refused():
                self.notes.append(f"{event.code}: {event.msg}")
            case Goaway():
                self.notes.append(f"the gateway is going away ({event.reason})")
            case Violation():
                where = f" in {event.product} {event.channel}" if event.product else ""
                self.notes.append(f"the gateway breaks its protocol{where}: {event.kind}: {event.detail}")
            case ReplayStatus():
                self.notes.append(f"a replay, {event.state} at {format_time(event.at)}")
            case Skipped():
                self.notes.append(f"{event.count} events were skipped")

    def _is_connected(self, url: str) -> None:
        """A connection is open. It is told which streams are not live: what was said on an earlier one is over."""
        self.url, self.link, self.connected, self.trouble = url, "connected", True, None
        self.connected_once = True
        for view in self.views.values():
            view.state, view.state_reason, view.state_since = "live", "", 0


def spread(bid: str | None, ask: str | None) -> str | None:
    """Ask minus bid, exact, with the digits of the longer one; negative when the book is crossed."""
    if bid is None or ask is None:
        return None
    difference = scaled(ask) - scaled(bid)
    digits = max(len(text.partition(".")[2]) for text in (bid, ask))
    whole, fraction = divmod(abs(difference), _ONE)
    text = str(whole) if digits == 0 else f"{whole}.{str(fraction).zfill(18)[:digits]}"
    return f"-{text}" if difference < 0 else text
