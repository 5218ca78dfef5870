"""The mesh's nouns: streams, positions and the domain events that a venue adapter makes.

Prices (`px`) and sizes (`qty`) are texts of exact decimals (see `lfmesh.exact`). Times are integer nanoseconds
since the Unix epoch: `ts_event` is the venue's, `ts_ingest` our first byte of the frame, `ts_publish` the
normalizer's. All values are frozen.
"""

from enum import StrEnum
from typing import Literal, NamedTuple

import msgspec

Side = Literal["buy", "sell"]
"""Always the taker's side inside the mesh, whatever the venue's frame says."""

Continuity = Literal["verified", "unverified", "backfilled"]
SnapshotReason = Literal["subscribe", "resume_failed", "gap", "epoch", "resync", "conflated"]
StreamState = Literal["live", "recovering", "stale"]
Line = Literal["A", "B"]

Level = tuple[str, str]
"""One book level: (px, qty)."""


class Channel(StrEnum):
    """What a stream carries."""

    TICKER = "ticker"
    TRADES = "trades"
    BOOK = "book"


CHANNELS: tuple[Channel, ...] = tuple(Channel)


class Role(StrEnum):
    """What a process does in the mesh."""

    REGISTRY = "registry"
    INGESTOR = "ingestor"
    NORMALIZER = "normalizer"
    SNAPSHOTTER = "snapshotter"
    GATEWAY = "gateway"


class StreamKey(NamedTuple):
    """One numbering domain: a product's channel."""

    product: str
    channel: Channel


class Position(NamedTuple):
    """A place in a stream. Within an epoch `seq` grows by exactly 1; a new epoch opens with a snapshot at seq 0.

    Inside the mesh epochs of one stream are ordered (larger is newer); clients compare them for equality only.
    """

    epoch: int
    seq: int


class InputPosition(NamedTuple):
    """The numbered raw frame that an output came from: (ingestor id, its incarnation, frame number from 1)."""

    ingestor: int
    incarnation: int
    number: int


NO_INPUT = InputPosition(0, 0, 0)


class Trade(msgspec.Struct, frozen=True, gc=False, tag=True):
    """One trade; `side` is the taker's. `backfilled` when it was fetched later, over REST."""

    product: str
    trade_id: int
    px: str
    qty: str
    side: Side
    ts_event: int
    sequence: int = 0
    backfilled: bool = False


class TradePosition(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The venue's `last_match`: the trade before the first one that this subscription will bring."""

    trade: Trade


class Quote(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The venue's ticker: last trade and best prices, each None where the venue gave none."""

    product: str
    sequence: int
    ts_event: int
    trade: Trade | None
    bid: tuple[str, str | None] | None
    ask: tuple[str, str | None] | None


class BookSnapshot(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The whole L2 book in the venue's order; `ts_event` is 0 where the venue gives none."""

    product: str
    bids: list[Level]
    asks: list[Level]
    ts_event: int = 0


class BookUpdate(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Absolute sizes per price, in the venue's order; size zero removes the level. Side "buy" is the bids."""

    product: str
    changes: list[tuple[Side, str, str]]
    ts_event: int


class Heartbeat(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The venue's proof of life for one product; `last_trade_id` is 0 where it is unknown."""

    product: str
    sequence: int
    last_trade_id: int
    ts_event: int


VenueEvent = Trade | TradePosition | Quote | BookSnapshot | BookUpdate | Heartbeat
