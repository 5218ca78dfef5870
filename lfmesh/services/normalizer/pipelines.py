"""All products of a shard together: records in, runs at their outlets out. No socket, no clock: time is an argument."""

from collections.abc import Container, Iterable

from lfmesh.core.liveness import Liveness
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.product import NOTHING_RESTORED, Product
from lfmesh.services.normalizer.intake import Intake
from lfmesh.services.normalizer.journal import Journal
from lfmesh.services.normalizer.restore import History
from lfmesh.types import StreamKey

WELL_AGAIN_NS = 3_000_000_000
"""The return to `live` is repeated for so long: a status that gets lost is not asked for."""


class Pipelines:
    """Empty until `open`. A turn begins with `begin`; what it brought is at the outlets that `turn.touched` names."""

    def __init__(self, journal: Journal, *, has_books: bool) -> None:
        self.turn = Turn()
        self.products: dict[str, Product] = {}
        self.outlets: dict[StreamKey, Outlet] = {}
        self.intake = Intake(self.products, self.turn, journal.note, has_books=has_books)
        self._journal = journal

    def open(self, products: Iterable[str], history: History, now: int, stale_after_ns: int) -> None:
        """Make the products' pipelines, with what an earlier process has left of each."""
        for name in products:
            restored = history.products.get(name, NOTHING_RESTORED)
            liveness = Liveness(now, stale_after_ns)
            product = self.products[name] = Product(name, self.turn, self._journal.note, liveness, restored)
            for outlet in product.outlets.values():
                self.outlets[outlet.stream] = outlet

    def watch(self, now: int) -> list[str]:
        """Time has passed: tell which streams have fallen silent; returns the products that have."""
        silent = []
        for product in self.products.values():
            if product.liveness.tick(now):
                product.tell()
                if product.liveness.is_stale:
                    silent.append(product.product)
        return silent

    def repeat_statuses(self, now: int) -> None:
        """Say again what is not live, or has only just become so."""
        for product in self.products.values():
            for channel, standing in product.liveness.standings.items():
                if standing.state != "live" or now - standing.since < WELL_AGAIN_NS:
                    product.outlets[channel].tell(*standing)

    def books_of(self, ingestors: Container[int | None]) -> list[str]:
        """Products whose book is held and comes from one of these ingestors."""
        return [
            product.product for product in self.products.values() if product.book_held and product.source in ingestors
        ]
