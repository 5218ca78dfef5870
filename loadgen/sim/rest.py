"""The venue's REST API: products, books, trades, and its request limit."""

import hashlib
from collections.abc import Callable
from http import HTTPStatus

import msgspec

from lfmesh.core.limits import TokenBucket
from loadgen.sim.digits import order_id
from loadgen.sim.feed import BookView, Feed, Instant, Level
from loadgen.sim.status import product_object
from loadgen.sim.web import NOT_FOUND, Answer, Query, json_answer, refusal

MAX_TRADES = 1000
_LEVEL_1_ROWS = 1
_MAX_CLIENTS = 10_000
_WHOLE_BOOK, _ORDERS = 2, 3


class RequestLimit:
    """A token bucket for each client address: `burst` at once, `rate_per_s` in the long run."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._buckets: dict[str, TokenBucket] = {}

    def admits(self, client: str, now_ns: int) -> bool:
        """Take a token, if there is one."""
        bucket = self._buckets.get(client)
        if bucket is None:
            if len(self._buckets) >= _MAX_CLIENTS:
                self._buckets.clear()
            bucket = self._buckets[client] = TokenBucket(self._rate_per_s, self._burst, now_ns)
        return bucket.take(now_ns) == 0


class Rest:
    """Answers GET requests from the feed's state.

    `hidden_trades` tells how many of a product's newest trades are not to be listed.
    """

    def __init__(self, feed: Feed, limit: RequestLimit, hidden_trades: Callable[[str], int] = lambda _: 0) -> None:
        self._feed = feed
        self._hidden_trades = hidden_trades
        self._limit = limit
        self._index = {product: index for index, product in enumerate(feed.products)}
        self.requests = 0
        self.limited = 0

    def answer(self, query: Query, client: str, now: Instant) -> Answer | None:
        """The answer to a request of the venue's API; None if its path belongs to something else."""
        if not query.segments or query.segments[0] != "products":
            return None
        self.requests += 1
        if not self._limit.admits(client, now.mono_ns):
            self.limited += 1
            return refusal(HTTPStatus.TOO_MANY_REQUESTS, "Public rate limit exceeded")
        match query.segments[1:]:
            case ():
                infos = [self._feed.info(index) for index in range(len(self._feed.products))]
                return json_answer([product_object(info) for info in infos])
            case (product, *rest) if product in self._index:
                return self._product(self._index[product], tuple(rest), query.params, now)
            case _:
                return NOT_FOUND

    def _product(self, index: int, rest: tuple[str, ...], params: dict[str, str], now: Instant) -> Answer:
        match rest:
            case ():
                return json_answer(product_object(self._feed.info(index)))
            case ("book",):
                return self._book(index, params, now)
            case ("trades",):
                return self._trades(index, params)
            case _:
                return NOT_FOUND

    def _book(self, index: int, params: dict[str, str], now: Instant) -> Answer:
        level = params.get("level", "1")
        if level not in ("1", "2", "3"):
            return refusal(HTTPStatus.BAD_REQUEST, "Invalid level")
        book = self._feed.book(index)
        if int(level) < _WHOLE_BOOK:
            book = BookView(book.bids[:_LEVEL_1_ROWS], book.asks[:_LEVEL_1_ROWS], book.sequence)
        orders = int(level) == _ORDERS
        product = self._feed.products[index]
        body = {
            "bids": [_row(product, "bid", row, orders=orders) for row in book.bids],
            "asks": [_row(product, "ask", row, orders=orders) for row in book.asks],
            "sequence": book.sequence,
            "auction_mode": False,
            "auction": None,
            "time": self._feed.time_text(now),
        }
        return json_answer(body)

    def _trades(self, index: int, params: dict[str, str]) -> Answer:
        numbers: dict[str, int | None] = {}
        for name in ("limit", "after", "before"):
            text = params.get(name)
            if text is not None and not (text.isascii() and text.isdigit()):
                return refusal(HTTPStatus.BAD_REQUEST, f"Invalid {name}")
            numbers[name] = None if text is None else int(text)
        limit = min(numbers["limit"] or MAX_TRADES, MAX_TRADES)
        page = self._feed.trades(index).page(
            limit, numbers["after"], numbers["before"], self._hidden_trades(self._feed.products[index])
        )
        cursors: tuple[tuple[str, str], ...] = ()
        if page.newest_id is not None:
            cursors = (("CB-BEFORE", str(page.newest_id)), ("CB-AFTER", str(page.oldest_id)))
        return json_answer([msgspec.Raw(row) for row in page.rows], cursors)


def _row(product: str, side: str, level: Level, *, orders: bool) -> list[object]:
    """[price, size, number of orders], or at level 3 [price, size, order id]: one order rests at each level."""
    px, qty = level
    if not orders:
        return [px, qty, 1]
    digest = hashlib.sha256(f"{product}/{side}/{px}".encode()).digest()
    return [px, qty, order_id(int.from_bytes(digest[:16]))]
