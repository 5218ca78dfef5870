"""What the tables are: a column's name and kind, in order. A row is a tuple with a value for each, None: null.

In every table `time` is the stream's time, by which files are divided into days and which never goes back: the newest
`ts_event` so far. `ts_event` (venue), `ts_ingest` (our first byte of the frame) and `ts_publish` are those of the
message, once as timestamps and once (`…_ns`) as the integers that clients get; null in rows that no message of that
kind brought. (`epoch`, `seq`) is the message's position. `reason` is null but for snapshots.

    ticker   a row a tick (`kind` tick), and one a snapshot (`kind` snapshot): last trade, best bid, best ask
    trades   a row a trade (`kind` trade). `kind` snapshot: a trade of which only a snapshot tells, without its times
    book     a row a level that changed (`kind` change): its new size, 0 removes it. A snapshot is a row that empties
             the book (`kind` clear, without a level) and one a level (`kind` snapshot)

A file of a book begins with a snapshot, so that each can be read by itself: where the tape has none there, with the
book as it was before (`reason` base). `reason` missing: a row that empties a book of which messages are missing.
"""

from enum import Enum, auto
from typing import NamedTuple

from lfmesh.types import Channel

type Value = str | int | None
type Row = tuple[Value, ...]


class Again(Exception):
    """What was written of a table does not fit what comes: it is to be made anew, and will fit then."""


class Kind(Enum):
    """What a column holds, and as what it comes in a row."""

    TIME = auto()
    """A moment; ns since the Unix epoch."""
    INTEGER = auto()
    """Below 2^63."""
    DECIMAL = auto()
    """An exact decimal; the venue's text."""
    WORD = auto()
    """A text of few different ones."""


class Column(NamedTuple):
    """A column of a table."""

    name: str
    kind: Kind


def _columns(kind: Kind, names: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name in names.split())


_TIMES = (
    *_columns(Kind.TIME, "time ts_event ts_ingest ts_publish"),
    *_columns(Kind.INTEGER, "ts_event_ns ts_ingest_ns ts_publish_ns"),
)
_POSITION = (*_columns(Kind.WORD, "continuity"), *_columns(Kind.INTEGER, "epoch seq"))
_KIND = _columns(Kind.WORD, "kind reason")

TABLES: dict[Channel, tuple[Column, ...]] = {
    Channel.TICKER: (
        *_TIMES,
        *_KIND,
        *_columns(Kind.DECIMAL, "trade_px trade_qty"),
        *_columns(Kind.WORD, "trade_side"),
        *_columns(Kind.INTEGER, "trade_id"),
        *_columns(Kind.DECIMAL, "bid_px bid_qty ask_px ask_qty"),
        *_POSITION,
    ),
    Channel.TRADES: (
        *_TIMES,
        *_KIND,
        *_columns(Kind.INTEGER, "trade_id"),
        *_columns(Kind.DECIMAL, "px qty"),
        *_columns(Kind.WORD, "side"),
        *_POSITION,
    ),
    Channel.BOOK: (
        *_TIMES,
        *_KIND,
        *_columns(Kind.WORD, "side"),
        *_columns(Kind.DECIMAL, "px qty"),
        *_POSITION,
    ),
}
