"""All products of a shard together: records in, runs at their outlets out. No socket, no clock: time is an argument."""

from collections.abc import Container, Iterable

from lfmesh.config import NormalizerSection
from lfmesh.core.feed import BEACON_INTERVAL_NS
from lfmesh.core.liveness import Liveness
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.product import NOTHING_RESTORED, Product
from lfmesh.core.trades import PATIENCE, Patience
from lfmesh.services.normalizer.backfills import Ask
from lfmesh.services.normalizer.intake import Intake
from lfmesh.services.normalizer.journal import Journal
from lfmesh.services.normalizer.restore import History
from lfmesh.services.normalizer.resyncs import LineKey
from lfmesh.types import StreamKey

WELL_AGAIN_NS = 3_000_000_000
"""The return to `live` is repeated for so long: a status that gets lost is not asked for."""

LATE_NS = 2 * BEACON_INTERVAL_NS
"""A look at the time that comes later than that after the one before says something about us, not about others."""


def patience_of(section: NormalizerSection) -> Patience:
    """How long products wait, as configured."""
    return Patience(
        round(section.backfill_after_s * 1e9),
        round(section.backfill_timeout_s * 1e9),
        round(section.line_lag_s * 1e9),
        section.hold_max_trades,
        section.hold_max_bytes,
    )


class Pipelines:
    """Empty until `open`. A turn begins with `begin`; what it brought is at the outlets that `turn.touched` names."""

    def __init__(self, journal: Journal, *, has_books: bool, patience: Patience = PATIENCE) -> None:
        self.turn = Turn()
        self.products: dict[str, Product] = {}
        self.outlets: dict[StreamKey, Outlet] = {}
        self.intake = Intake(self.products, self.turn, journal.note, has_books=has_books)
        self._journal = journal
        self._patience = patience
        self._watched_at = 0

    def open(self, products: Iterable[str], history: History, now: int, stale_after_ns: int) -> None:
        """Make the products' pipelines, with what an earlier process has left of each."""
        for name in products:
            restored = history.products.get(name, NOTHING_RESTORED)
            liveness = Liveness(now, stale_after_ns)
            product = self.products[name] = Product(
                name, self.turn, self._journal.note, liveness, restored, self._patience
            )
            for outlet in product.outlets.values():
                self.outlets[outlet.stream] = outlet

    def watch(self, now: int) -> list[str]:
        """Time has passed, to be told each 100 ms: give up what waited too long, tell which streams have fallen silent.

        Returns the products that have. The time in which we did not run ourselves counts for nobody.
        """
        late = now - self._watched_at - BEACON_INTERVAL_NS if self._watched_at else 0
        self._watched_at = now
        if late > LATE_NS:
            for product in self.products.values():
                product.excuse(late)
        return [product.product for product in self.products.values() if product.tick(now)]

    def backfills_due(self, now: int) -> list[Ask]:
        """Trades to ask ingestors for; they count as asked."""
        backfills = self._journal.backfills
        asks = []
        for name in backfills.products:
            product = self.products[name]
            asks += backfills.due(now, name, product.backfill_wanted(now), product.ingestors)
        return asks

    def repeat_statuses(self, now: int) -> None:
        """Say again what is not live, or has only just become so."""
        for product in self.products.values():
            for channel, standing in product.liveness.standings.items():
                if standing.state != "live" or now - standing.since < WELL_AGAIN_NS:
                    product.outlets[channel].tell(*standing)

    def books_of(self, ingestors: Container[int]) -> list[LineKey]:
        """The books held that come from one of these ingestors."""
        return [
            LineKey(product.product, ingestor)
            for product in self.products.values()
            for ingestor in product.ingestors
            if ingestor in ingestors and product.holds_book_of(ingestor)
        ]
