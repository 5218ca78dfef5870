"""What one feed connection is subscribed to, and what to say to the venue next: a state machine without I/O.

    asking      a request is under way; the venue must answer within the time limit
    confirmed   the venue's last `subscriptions` shows every stream
    lacking     some streams are refused, left out or unanswered: `problems` says why, and they are asked for again
                with back-off, while the others flow

One request is under way at a time, since nothing but the order ties an answer to it. A refused request that named
several products is asked again in halves, so that one bad product does not keep the others out. A resync is
unsubscribe and subscribe in one go. Times are seconds of one monotonic clock.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lfmesh.core.backoff import Backoff
from lfmesh.venues.coinbase.parse import VenueError
from lfmesh.venues.coinbase.protocol import BOOK_CHANNELS, Echo, Stream, confirmed, subscribe, unsubscribe

PACE_S = 0.15
"""Least time between two requests: after an error its echo may follow, and must not be taken for another's answer."""

RESYNC_INTERVAL_S = 2.0
"""Least time between two resyncs of one product."""

_SHOWN_PRODUCTS = 5


@dataclass(slots=True)
class _Ask:
    products: tuple[str, ...]
    deadline: float
    answers_due: int
    resync: bool


class Subscription:
    """The wish for `channels` of `products` on a new connection: feed it what the venue says, send what `due` gives."""

    def __init__(
        self, channels: tuple[str, ...], products: tuple[str, ...], timeout_s: float, backoff: Backoff
    ) -> None:
        self._channels = channels
        self._products = products
        self._book_channels = tuple(channel for channel in channels if channel in BOOK_CHANNELS)
        self._wanted = frozenset((channel, product) for channel in channels for product in products)
        self._timeout_s = timeout_s
        self._backoff = backoff
        self._held: frozenset[Stream] = frozenset()
        self._up: tuple[str, ...] = ()
        self._queue: deque[tuple[str, ...]] = deque([products])
        self._ask: _Ask | None = None
        self._next_at = float("-inf")
        self._retry_at: float | None = None
        self._why: dict[str, str] = {}
        self._resyncs: dict[str, float] = {}
        self._resynced_at: dict[str, float] = {}
        self._silent = False

    @property
    def confirmed(self) -> bool:
        """True while every stream is confirmed (or only being subscribed anew by a resync)."""
        return not self._lacking()

    @property
    def up(self) -> tuple[str, ...]:
        """Products that flow, as `changes` last told."""
        return self._up

    @property
    def silent(self) -> bool:
        """True when the venue let the time limit pass and has confirmed nothing: the connection is of no use."""
        return self._silent

    @property
    def refused_products(self) -> int:
        """Products of which something is refused, left out or unanswered."""
        return len(self._why)

    def problems(self) -> list[str]:
        """Why some streams do not flow, in plain words, one sentence a cause."""
        lacking = self._lacking()
        waiting = [product for product in self._products if product in lacking and product not in self._why]
        by_cause: dict[str, list[str]] = {}
        for product, why in self._why.items():
            by_cause.setdefault(why, []).append(product)
        if waiting:
            by_cause["not confirmed by the venue yet"] = waiting
        return [f"{_listed(products)}: {why}" for why, products in by_cause.items()]

    def changes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Products that flow since the last call, and that no longer do, in the order given at the start.

        A product flows when any of its channels is confirmed. While a request is under way nothing is judged.
        """
        if self._ask is not None:
            return (), ()
        held = {product for _, product in self._held}
        before, self._up = self._up, tuple(product for product in self._products if product in held)
        came = tuple(product for product in self._up if product not in before)
        went = tuple(product for product in before if product not in held)
        return came, went

    def resync(self, products: Iterable[str], now: float) -> int:
        """Wish new book snapshots; returns how many products were taken up.

        What is waiting or under way already, is not subscribed, or has no book counts as not taken up: its snapshot
        comes anyhow, or never can.
        """
        under_way = self._ask.products if self._ask is not None and self._ask.resync else ()
        taken = 0
        for product in products:
            if product in self._resyncs or product in under_way or not self._has_book(product):
                continue
            earliest = self._resynced_at.get(product, float("-inf")) + RESYNC_INTERVAL_S
            self._resyncs[product] = max(now, earliest)
            taken += 1
        return taken

    def due(self, now: float, admits: Callable[[int], bool] = lambda _: True) -> list[str]:
        """Requests to send now, in this order.

        `admits` is asked whether so many may be sent; what it does not admit is due again at the next call.
        """
        if self._ask is not None:
            if now < self._ask.deadline:
                return []
            self._unanswered(self._ask, now)
        if now < self._next_at:
            return []
        requests = self._next_requests(now, admits)
        if requests:
            self._next_at = now + PACE_S
        return requests

    def echoed(self, echo: Echo, now: float) -> None:
        """The venue said what it holds as subscribed."""
        self._held = confirmed(echo, self._wanted)
        ask = self._ask
        if ask is not None:
            ask.answers_due -= 1
            if ask.answers_due:
                return
            self._ask = None
        self._judge(now)

    def refused(self, error: VenueError, now: float) -> None:
        """The venue said that something failed; its echo may follow, hence the pause before the next request."""
        ask = self._ask
        if ask is None:
            return
        self._next_at = now + PACE_S
        ask.answers_due -= 1
        if ask.resync and ask.answers_due:
            return
        self._ask = None
        if not ask.resync and len(ask.products) > 1:
            half = len(ask.products) // 2
            self._queue.extendleft((ask.products[half:], ask.products[:half]))
            return
        for product in ask.products:
            if self._lacks(product):
                self._why[product] = f"refused by the venue: {_said(error)}"
        self._judge(now)

    # Inside -----------------------------------------------------------------------------------------------------

    def _next_requests(self, now: float, admits: Callable[[int], bool]) -> list[str]:
        if not self._queue and self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._queue.append(tuple(self._why))
        if self._queue:
            if not admits(1):
                return []
            products = self._queue.popleft()
            self._ask = _Ask(products, now + self._timeout_s, 1, False)
            return [subscribe(self._channels, products)]
        resyncs = tuple(product for product, at in self._resyncs.items() if at <= now)
        if not resyncs or not admits(2):
            return []
        for product in resyncs:
            del self._resyncs[product]
            self._resynced_at[product] = now
        self._ask = _Ask(resyncs, now + self._timeout_s, 2, True)
        return [unsubscribe(self._book_channels, resyncs), subscribe(self._book_channels, resyncs)]

    def _unanswered(self, ask: _Ask, now: float) -> None:
        self._ask = None
        for product in ask.products:
            if self._lacks(product):
                self._why[product] = f"no answer to the subscription within {self._timeout_s:g} s"
        self._silent = not self._held
        self._judge(now)

    def _judge(self, now: float) -> None:
        """Bring the causes up to date with what is held; what is still to be asked has none yet."""
        queued = {product for products in self._queue for product in products}
        for product in self._products:
            missing = [channel for channel in self._channels if (channel, product) not in self._held]
            if not missing:
                self._why.pop(product, None)
            elif product not in queued and product not in self._why:
                what = "" if len(missing) == len(self._channels) else f" for {', '.join(missing)}"
                self._why[product] = f"left out of the venue's confirmation{what}"
        if not self._why:
            self._backoff.reset()
            self._retry_at = None
        elif not self._queue and self._retry_at is None:
            self._retry_at = now + self._backoff.next_pause()

    def _lacking(self) -> set[str]:
        lacking = {product for _, product in self._wanted - self._held}
        if self._ask is not None and self._ask.resync:
            lacking.difference_update(self._ask.products)
        return lacking

    def _lacks(self, product: str) -> bool:
        return any((channel, product) not in self._held for channel in self._channels)

    def _has_book(self, product: str) -> bool:
        return any((channel, product) in self._held for channel in self._book_channels)


def _said(error: VenueError) -> str:
    return f"{error.message}: {error.reason}" if error.reason else error.message or "no reason given"


def _listed(products: list[str]) -> str:
    more = len(products) - _SHOWN_PRODUCTS
    return ", ".join(products[:_SHOWN_PRODUCTS]) + (f" and {more} more" if more > 0 else "")
