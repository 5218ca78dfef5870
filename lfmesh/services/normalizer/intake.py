"""Numbered raw records become events of products: parse, route, count. No socket and no clock.

What is to be logged, or acted on beside, goes to `note`.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import msgspec

from lfmesh.core.codec import RawRecord, RecordKind
from lfmesh.core.lines import BAD_BOOK_FRAME
from lfmesh.core.liveness import LOST_CONNECTION
from lfmesh.core.outlet import Turn
from lfmesh.core.product import Product
from lfmesh.core.product_facts import Outcome, ProductFact
from lfmesh.errors import BadVenueFrame
from lfmesh.messages import BackfillPage, LinkChange
from lfmesh.types import (
    BookSnapshot,
    BookUpdate,
    Heartbeat,
    Quote,
    Trade,
    TradePosition,
)
from lfmesh.venues.coinbase.parse import Ignored, VenueError, is_product_id, parse

SAMPLE_CHARACTERS = 200
"""How much of a bad frame is shown in the log."""

HISTORY_NS = 1_000_000_000
"""Records that came from the venue longer ago than this are history to a normalizer that has just begun."""

UNKNOWN_PRODUCT = "unknown_product"
BAD_PRODUCT = "bad_product"
UNKNOWN_RECORD = "unknown_record"
INCONSISTENT = str(Outcome.INCONSISTENT)
BACKFILL_NOT_NEEDED = "backfill_not_needed"

_FRAME = int(RecordKind.FRAME)
_product_id = re.compile(rb'"product_id"\s*:\s*"([^"\\]{1,100})"').search
_not_of_a_book = re.compile(rb'"type"\s*:\s*"(?:ticker|match|last_match|heartbeat)"').search
_decode_link = msgspec.json.Decoder(LinkChange).decode
_decode_page = msgspec.json.Decoder(BackfillPage).decode


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A venue frame that could not be used; `sample` is its beginning, as text.

    `book_at_risk`: it may have been a book's, and nothing says whose.
    """

    reason: str
    detail: str
    sample: str
    ingestor: int
    book_at_risk: bool


@dataclass(frozen=True, slots=True)
class VenueComplained:
    """The venue sent an error."""

    message: str
    reason: str


@dataclass(frozen=True, slots=True)
class LinkLost:
    """A venue connection is lost, which carried these products of the shard."""

    products: list[str]
    reason: str


@dataclass(frozen=True, slots=True)
class LinkBack:
    """It is subscribed again."""

    products: list[str]


Note = ProductFact | BadFrame | VenueComplained | LinkLost | LinkBack


class Intake:
    """All products of a shard; `turn` must have begun before records are taken."""

    def __init__(
        self, products: Mapping[str, Product], turn: Turn, note: Callable[[Note], None], *, has_books: bool
    ) -> None:
        self._products = products
        self._turn = turn
        self._note = note
        self._has_books = has_books
        self.records = 0
        self.accepted = 0
        self.dropped: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self._lag_ns: int | None = None
        self._behind: dict[int, int] = {}

    @property
    def lag_ns(self) -> int | None:
        """From the receipt of the newest record to its turn here; None before the first."""
        return self._lag_ns

    def take(self, ingestor: int, incarnation: int, first_number: int, records: Sequence[RawRecord]) -> None:
        """Records first_number, first_number + 1, … of an ingestor."""
        self._turn.source(ingestor, incarnation)
        if ingestor in self._behind:
            history = self._history(ingestor, first_number, records)
            self._take(first_number, records[:history])
            first_number += history
            records = records[history:]
            if not records and first_number <= self._behind[ingestor]:
                return
            self._turn.record(first_number - 1, records[0].ts_ingest if records else self._turn.ts_ingest)
            self._caught_up(ingestor)
        self._take(first_number, records)

    def _take(self, first_number: int, records: Sequence[RawRecord]) -> None:
        turn = self._turn
        take_frame = self._take_frame
        for number, (kind, ts_ingest, body) in enumerate(records, first_number):
            turn.record(number, ts_ingest)
            if kind == _FRAME:
                take_frame(body)
            else:
                self._control(kind, body)
        self.records += len(records)
        self._lag_ns = turn.ts_publish - turn.ts_ingest

    def _take_frame(self, body: bytes) -> None:
        try:
            event = parse(body)
        except BadVenueFrame as error:
            self._refuse(error.reason, str(error), body)
            return
        match event:
            case BookUpdate() | Quote() | Trade() | Heartbeat() | BookSnapshot():
                product = self._products.get(event.product)
            case TradePosition():
                product = self._products.get(event.trade.product)
            case Ignored():
                self.ignored[event.kind] += 1
                return
            case VenueError():
                self.ignored["error"] += 1
                self._note(VenueComplained(event.message, event.reason))
                return
            case _:
                assert_never(event)
        if product is None:
            self._refuse_product(body)
            return
        outcome = product.observe(event)
        if outcome is Outcome.ACCEPTED:
            self.accepted += 1
        elif outcome is Outcome.INCONSISTENT:
            self._refuse(INCONSISTENT, "it contradicts what is known", body)
        else:
            self.dropped[outcome] += 1

    # History ----------------------------------------------------------------------------------------------------

    def behind(self, ingestor: int, until: int) -> None:
        """Records of this ingestor up to this number are there already, and come first.

        Where they are old, products that have not begun publish trades from them, but neither book nor ticker:
        nobody is to take for the present what was minutes ago.
        """
        self._behind[ingestor] = until
        for product in self._products.values():
            product.hold_back(ingestor)

    def _history(self, ingestor: int, first_number: int, records: Sequence[RawRecord]) -> int:
        """How many of these records are history."""
        known = self._behind[ingestor] + 1 - first_number
        now = self._turn.ts_publish
        for index, record in enumerate(records[: max(0, known)]):
            if now - record.ts_ingest <= HISTORY_NS:
                return index
        return min(len(records), max(0, known))

    def _caught_up(self, ingestor: int) -> None:
        del self._behind[ingestor]
        for product in self._products.values():
            product.go_on(ingestor)

    # Ingestors --------------------------------------------------------------------------------------------------

    def replaced(self, ingestor: int) -> None:
        """A new process of this ingestor has come: the old one's connections are over."""
        for product in self._products.values():
            product.replaced(ingestor)

    def broken(self, ingestor: int) -> None:
        """What comes of this ingestor does not follow the record at which it was to begin."""
        for product in self._products.values():
            product.broken(ingestor)

    def lost(self, ingestor: int) -> None:
        """Raw records of this ingestor can't be had any more: whatever its books missed, nobody knows."""
        for product in self._products.values():
            product.lost(ingestor, has_books=self._has_books)

    def heard(self, ingestor: int, silent: bool) -> None:
        """An ingestor has fallen silent, or is heard again."""
        for product in self._products.values():
            product.silence(ingestor, silent=silent)

    # Records that are no venue frames ---------------------------------------------------------------------------

    def _control(self, kind: int, body: bytes) -> None:
        try:
            match kind:
                case RecordKind.LINK_DOWN:
                    self._link_down(_decode_link(body))
                case RecordKind.LINK_UP:
                    self._note(LinkBack(self._ours(_decode_link(body).products)))
                case RecordKind.BACKFILL:
                    self._backfilled(_decode_page(body))
                case _:
                    self._refuse(UNKNOWN_RECORD, f"kind {kind}", body)
        except msgspec.DecodeError as error:
            self._refuse(UNKNOWN_RECORD, str(error), body)

    def _link_down(self, change: LinkChange) -> None:
        ours = self._ours(change.products)
        self._note(LinkLost(ours, change.reason))
        for name in ours:
            self._products[name].link_down(self._turn.ingestor, LOST_CONNECTION)

    def _backfilled(self, page: BackfillPage) -> None:
        product = self._products.get(page.product)
        if product is not None and product.backfilled(page) is Outcome.ACCEPTED:
            self.accepted += 1
        else:
            self.dropped[BACKFILL_NOT_NEEDED] += 1

    def _ours(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in self._products]

    # Bad frames -------------------------------------------------------------------------------------------------

    def _refuse(self, reason: str, detail: str, body: bytes) -> None:
        """Count a bad frame; a book of which a frame could not be read has missed something."""
        self.bad[reason] += 1
        at_risk = False
        if self._has_books and reason not in (UNKNOWN_PRODUCT, UNKNOWN_RECORD, INCONSISTENT):
            at_risk = self._book_at_risk(body)
        sample = body[:SAMPLE_CHARACTERS].decode("utf-8", "replace")
        self._note(BadFrame(reason, detail, sample, self._turn.ingestor, at_risk))

    def _refuse_product(self, body: bytes) -> None:
        if _named(body) is None:
            self._refuse(BAD_PRODUCT, "the product's id is none", body)
        else:
            self._refuse(UNKNOWN_PRODUCT, "the product is not one of this shard", body)

    def _book_at_risk(self, body: bytes) -> bool:
        """Lose the book that the frame names; True if it names none and may have been any book's."""
        if _not_of_a_book(body):
            return False
        named = _named(body)
        if named is None:
            return True
        product = self._products.get(named)
        if product is not None:
            product.lose_book(self._turn.ingestor, BAD_BOOK_FRAME, resync=True)
        return False


def _named(body: bytes) -> str | None:
    """The product that a frame names, if that can be an id."""
    found = _product_id(body)
    name = "" if found is None else found[1].decode("utf-8", "replace")
    return name if is_product_id(name) else None
