"""What a feed tells of, as exact values: prices and sizes are the venue's digits, never binary floats.

Each price and size is there twice: `px_text` is what stood in the message (`"64250.10"`), `px` the same as an `Exact`,
a `Decimal` whose `str` is that text. An `Exact` is made when it is asked for.
"""

from typing import NamedTuple

import msgspec

from lfmesh.exact import MAX_FRACTION_DIGITS, Exact, scaled
from lfmesh.types import Side

_ONE = 10**MAX_FRACTION_DIGITS


class Level(NamedTuple):
    """One price of a book and the size there. In a `BookUpdate` a size of zero means that the level is gone."""

    px_text: str
    qty_text: str

    @property
    def px(self) -> Exact:
        """The price."""
        return Exact(self.px_text)

    @property
    def qty(self) -> Exact:
        """The size."""
        return Exact(self.qty_text)


class Quote(NamedTuple):
    """A best price of the ticker; the venue does not always give its size."""

    px_text: str
    qty_text: str | None

    @property
    def px(self) -> Exact:
        """The price."""
        return Exact(self.px_text)

    @property
    def qty(self) -> Exact | None:
        """The size, None where the venue gives none."""
        return None if self.qty_text is None else Exact(self.qty_text)


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One trade; `side` is the taker's. Ids of a product's trades are contiguous."""

    trade_id: int
    px_text: str
    qty_text: str
    side: Side

    @property
    def px(self) -> Exact:
        """The price."""
        return Exact(self.px_text)

    @property
    def qty(self) -> Exact:
        """The size."""
        return Exact(self.qty_text)


class Ticker(msgspec.Struct, frozen=True, gc=False):
    """Last trade, best bid, best ask; each None where it is not known."""

    last_trade: Trade | None = None
    best_bid: Quote | None = None
    best_ask: Quote | None = None

    @property
    def spread(self) -> Exact | None:
        """Best ask minus best bid, exact; None without both, or when the two are crossed (see `difference`)."""
        if self.best_bid is None or self.best_ask is None:
            return None
        return difference(self.best_ask.px_text, self.best_bid.px_text)


def difference(larger: str, smaller: str) -> Exact | None:
    """`larger` minus `smaller`, exact, with the digits of the longer one; None if it were negative.

    `Decimal`'s own subtraction rounds to 28 digits.
    """
    units = scaled(larger) - scaled(smaller)
    if units < 0:
        return None
    digits = max(len(text.partition(".")[2]) for text in (larger, smaller))
    whole, fraction = divmod(units, _ONE)
    return Exact(str(whole) if digits == 0 else f"{whole}.{str(fraction).zfill(MAX_FRACTION_DIGITS)[:digits]}")
