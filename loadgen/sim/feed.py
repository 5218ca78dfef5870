"""The port between what plays (market model or tape) and what serves (sessions, REST, control).

A feed is told the time and never waits: `turn` does what is due and says when to call again.
"""

from typing import Literal, NamedTuple, Protocol

import msgspec

from loadgen.sim.audience import VenueChannel
from loadgen.sim.trades import TradeLog

Level = tuple[str, str]
"""(price, size) as the venue writes them."""

BOOK_CHANNELS = (VenueChannel.LEVEL2, VenueChannel.LEVEL2_BATCH)


class Instant(NamedTuple):
    """One reading of both clocks, in ns: `mono_ns` paces, `wall_ns` dates."""

    mono_ns: int
    wall_ns: int


class ProductInfo(msgspec.Struct, frozen=True):
    """What the product lists say of one product."""

    id: str
    base_currency: str
    quote_currency: str
    base_increment: str
    quote_increment: str


class BookView(msgspec.Struct, frozen=True):
    """A product's whole book now, best first, with the venue's sequence."""

    bids: list[Level]
    asks: list[Level]
    sequence: int


class Truth(msgspec.Struct, frozen=True):
    """What a client that missed nothing holds for one product.

    `trades` and `trades_hash` cover this run's match frames, `frames` counts the product's market frames (with batches:
    the l2updates before batching). `last_trade_id` is None when no trade is known.
    """

    product: str
    bids: list[Level]
    asks: list[Level]
    best_bid: Level | None
    best_ask: Level | None
    last_trade_id: int | None
    trades: int
    trades_hash: str
    frames: int


class PlayState(msgspec.Struct, frozen=True):
    """How far the feed is. `skipped_ms` is model time given up after hiccups longer than the catch-up bound."""

    mode: Literal["model", "tape"]
    started: bool
    playing: bool
    finished: bool
    sent: int
    detail: dict[str, object]


class Feed(Protocol):
    """A market that plays to an audience. Products are named by their index in `products`."""

    products: tuple[str, ...]
    waits_for_slow: bool
    """Whether the pump should hold back while a reader is slow (a tape at full speed)."""

    def turn(self, now: Instant) -> int | None:
        """Play what is due; the ns until the next call is useful, None when only a control call changes anything."""

    def start(self, now: Instant) -> None:
        """Begin; does nothing once begun."""

    def pause(self, now: Instant) -> None:
        """Stand still; what is held for a batch goes out first."""

    def resume(self, now: Instant, more: int | None = None) -> None:
        """Go on (or begin); a model that has sent its count goes on for `more` messages."""

    def audience_changed(self, now: Instant) -> None:
        """Somebody has subscribed or left."""

    def state(self) -> PlayState:
        """How far it is."""

    def greeting(self, channel: VenueChannel, index: int, now: Instant) -> bytes | None:
        """The payload that a new subscriber of a stream gets at once, if any."""

    def heartbeat(self, index: int, now: Instant) -> bytes | None:
        """The payload of this second's heartbeat; None when the feed itself brought one since the last call."""

    def time_text(self, now: Instant) -> str:
        """The feed's own clock."""

    def book(self, index: int) -> BookView:
        """The book now."""

    def trades(self, index: int) -> TradeLog:
        """The trades so far."""

    def info(self, index: int) -> ProductInfo:
        """The product's fixed facts."""

    def truth(self, index: int) -> Truth:
        """What a client that missed nothing holds."""

    def close(self) -> None:
        """Release files."""


def truth_of(product: str, book: BookView, trades: TradeLog, frames: int) -> Truth:
    """Put the truth of one product together."""
    return Truth(
        product=product,
        bids=book.bids,
        asks=book.asks,
        best_bid=book.bids[0] if book.bids else None,
        best_ask=book.asks[0] if book.asks else None,
        last_trade_id=trades.last_trade_id,
        trades=trades.count,
        trades_hash=trades.hexdigest(),
        frames=frames,
    )
