"""Which trades are to be fetched, and whose turn it is: a bounded queue, fair between products. No I/O, no clock.

    wanted ──ask──► waiting ──take──► under way ──arrived──► waiting (more pages to come) or done
                       ▲                  │ put_back (the venue was busy), failed (tried again after a pause)
                       └──────────────────┘                 └► done, with a problem

A fetch is one range of trade ids. Its pages go downward: the first holds the newest of the wanted trades. Each page
that is given out says of which ids it tells all that the venue has. What else is wanted of the product comes with the
same request where it fits on a page: many small gaps cost one request. Of each product one request is under way at a
time, and products take turns, page by page, so that one with a long way back delays none with a short one.
Times are seconds of one monotonic clock.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from lfmesh.core.backoff import Backoff
from lfmesh.messages import BackfillPage, BackfillRequest
from lfmesh.venues.coinbase.rest import MAX_ROWS, TradesPage

MAX_FETCHES_A_PRODUCT = 64
MAX_ATTEMPTS = 4
"""A page that failed so often in a row ends its fetch."""

_RETRY_BASE_S, _RETRY_MAX_S = 0.25, 2.0


class Asked(Enum):
    """What became of a request."""

    QUEUED = "queued"
    KNOWN = "known"
    """The same trades are waited for already."""
    FULL = "full"


@dataclass(slots=True, eq=False)
class Fetch:
    """One request for trades from `from_id` on; those from `after` on have been told of."""

    product: str
    from_id: int
    after: int
    asked_at: float
    backoff: Backoff
    ready_at: float = 0.0
    newest_id: int = 0
    busy: bool = False
    attempts: int = 0


class Batch(NamedTuple):
    """A request to make: for `limit` rows of trades below `after`, on which these fetches wait."""

    product: str
    after: int
    limit: int
    fetches: list[Fetch]


class Fetches:
    """`random` returns a number in [0, 1), for the jitter of retries."""

    def __init__(self, max_fetches: int, random: Callable[[], float]) -> None:
        self._max_fetches = max_fetches
        self._random = random
        self._of: dict[str, list[Fetch]] = {}
        self._turns: deque[str] = deque()
        self._under_way: set[str] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def ask(self, request: BackfillRequest, now: float) -> Asked:
        """Queue it, unless it is known or there is no room. `from_trade_id` is not above `to_trade_id`."""
        product, first, last = request.product, request.from_trade_id, request.to_trade_id
        mine = self._of.get(product)
        if mine is not None and any(fetch.from_id <= first and last < fetch.after for fetch in mine):
            return Asked.KNOWN
        if self._count >= self._max_fetches or (mine is not None and len(mine) >= MAX_FETCHES_A_PRODUCT):
            return Asked.FULL
        if mine is None:
            mine = self._of[product] = []
            self._turns.append(product)
        backoff = Backoff(_RETRY_BASE_S, _RETRY_MAX_S, self._random, first_at_once=False)
        mine.append(Fetch(product, first, last + 1, now, backoff))
        self._count += 1
        return Asked.QUEUED

    def take(self, now: float) -> Batch | None:
        """The next request to make, which is under way from now on; None if none is due."""
        for _ in range(len(self._turns)):
            product = self._turns[0]
            self._turns.rotate(-1)
            if product in self._under_way:
                continue
            mine = self._of[product]
            first = next((fetch for fetch in mine if fetch.ready_at <= now), None)
            if first is not None:
                self._under_way.add(product)
                return _batch(first, mine)
        return None

    def due_at(self) -> float | None:
        """When `take` will give the next one; None if nothing waits."""
        return min(
            (
                min(fetch.ready_at for fetch in mine)
                for product, mine in self._of.items()
                if product not in self._under_way
            ),
            default=None,
        )

    # What became of it ------------------------------------------------------------------------------------------

    def arrived(self, batch: Batch, page: TradesPage) -> list[BackfillPage]:
        """The answer to a batch, as it is to be told."""
        self.put_back(batch)
        trades = page.trades
        everything = page.rows < batch.limit or not trades
        lowest = 0 if everything else trades[0].trade_id
        told = []
        for fetch in batch.fetches:
            first, last = max(fetch.from_id, lowest), fetch.after - 1
            if first > last:
                continue  # the page has not come down to it
            fetch.attempts = 0
            fetch.backoff.reset()
            came = [trade for trade in trades if first <= trade.trade_id <= last]
            fetch.newest_id = max(fetch.newest_id, trades[-1].trade_id if trades else 0)
            fetch.after = first
            complete = first == fetch.from_id
            if complete:
                self._remove(fetch)
            told.append(BackfillPage(fetch.product, first, last, came, complete, fetch.newest_id))
        return told

    def put_back(self, batch: Batch) -> None:
        """The request is not under way any more; its fetches are as before."""
        self._under_way.discard(batch.product)
        for fetch in batch.fetches:
            fetch.busy = False

    def failed(self, batch: Batch, problem: str, now: float) -> list[BackfillPage]:
        """A request failed: what is not tried again is ended."""
        self.put_back(batch)
        ends = []
        for fetch in batch.fetches:
            fetch.attempts += 1
            if fetch.attempts >= MAX_ATTEMPTS:
                ends.append(self.end(fetch, problem))
            else:
                fetch.ready_at = now + fetch.backoff.next_pause()
        return ends

    def end(self, fetch: Fetch, problem: str) -> BackfillPage:
        """Give up what has not come."""
        self._remove(fetch)
        return BackfillPage(fetch.product, fetch.from_id, fetch.after - 1, [], True, fetch.newest_id, problem)

    def waiting(self, since: float = float("inf")) -> list[Fetch]:
        """Those asked for at `since` or before, but for what is under way: that is left to its answer."""
        return [fetch for mine in self._of.values() for fetch in mine if not fetch.busy and fetch.asked_at <= since]

    def _remove(self, fetch: Fetch) -> None:
        mine = self._of[fetch.product]
        mine.remove(fetch)
        self._count -= 1
        if not mine:
            del self._of[fetch.product]
            self._turns.remove(fetch.product)


def _batch(first: Fetch, mine: Iterable[Fetch]) -> Batch:
    """The request that brings all of `first`, or its newest page, and as much of the others as there is room for."""
    within = first.from_id + MAX_ROWS
    after = max(fetch.after for fetch in mine if fetch is first or fetch.after <= within)
    fetches = [fetch for fetch in mine if fetch.after <= after and fetch.after > after - MAX_ROWS]
    for fetch in fetches:
        fetch.busy = True
    # Ids have no holes: there are no more rows than this.
    limit = min(MAX_ROWS, after - min(fetch.from_id for fetch in fetches))
    return Batch(first.product, after, limit, fetches)
