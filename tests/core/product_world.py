"""A product, the lines that bring it, and everything that it has said; events made short."""

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from lfmesh.core.codec import Flags
from lfmesh.core.liveness import Liveness
from lfmesh.core.outlet import Run, Turn
from lfmesh.core.product import NOTHING_RESTORED, Product, Restored
from lfmesh.core.product_facts import Outcome, ProductFact
from lfmesh.core.trades import PATIENCE, Patience
from lfmesh.messages import BackfilledTrade, BackfillPage
from lfmesh.types import (
    BookSnapshot,
    BookUpdate,
    Channel,
    Heartbeat,
    Quote,
    Side,
    Trade,
    TradePosition,
    VenueEvent,
)

PRODUCT = "BTC-USD"
T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
A, B = 1, 2
"""Ingestors of two lines."""


class Said(NamedTuple):
    """One message, read back: kind is snapshot, status, tick, trade or book."""

    kind: str
    data: dict[str, Any]

    @property
    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = self.data["fields"] if "fields" in self.data else self.data["state"]
        return found


def read(run: Run) -> list[Said]:
    said = []
    for number, message in enumerate(run.messages):
        body = json.loads(message, parse_float=Decimal)
        if run.flags == Flags.STATUS:
            said.append(Said("status", body))
            continue
        data = body["data"]
        if run.flags == Flags.INCREMENTS:
            assert data["seq"] == run.first_seq + number
        assert data["epoch"] == run.epoch
        said.append(Said(data["type"], data))
    return said


def read_exactly(run: Run) -> list[dict[str, Any]]:
    """Snapshots (parts put together are not needed here) and increments, all numbers as the texts that they are."""
    if run.flags == Flags.STATUS:
        return []
    bodies = [json.loads(message, parse_float=str, parse_int=str)["data"] for message in run.messages]
    return [body for body in bodies if isinstance(body, dict)]


class World:
    """Time stands still but for `pass_time`; records of each ingestor are numbered."""

    def __init__(
        self,
        restored: Restored = NOTHING_RESTORED,
        stale_after_ns: int = 10 * SECOND,
        patience: Patience = PATIENCE,
        start: int = T0,
    ) -> None:
        self.turn = Turn()
        self.now = start
        self.turn.begin(start)
        self.facts: list[ProductFact] = []
        self.product = Product(
            PRODUCT, self.turn, self.facts.append, Liveness(start, stale_after_ns), restored, patience
        )
        self.runs: dict[Channel, list[Run]] = {channel: [] for channel in Channel}
        self.numbers: dict[int, int] = {}
        self.incarnations: dict[int, int] = {}

    def observe(self, *events: VenueEvent | BackfillPage, line: int = A) -> list[Outcome]:
        """Events of an ingestor in one turn."""
        outcomes = []
        self.turn.begin(self.now)
        self.turn.source(line, self.incarnations.get(line, 1))
        for event in events:
            number = self.numbers[line] = self.numbers.get(line, 0) + 1
            self.turn.record(number, T0 + number)
            if isinstance(event, BackfillPage):
                outcomes.append(self.product.backfilled(event))
            else:
                outcomes.append(self.product.observe(event))
        self.collect()
        return outcomes

    def pass_time(self, seconds: float, *, alive: bool = True) -> None:
        """Tick each 100 ms, as a service does; `alive`: the venue says something all the while."""
        until = self.now + round(seconds * SECOND)
        while self.now < until:
            self.now = min(until, self.now + SECOND // 10)
            self.turn.begin(self.now)
            if alive:
                self.product.liveness.seen_at = self.now
            self.product.tick(self.now)
            self.collect()

    def collect(self) -> None:
        for outlet in self.turn.touched:
            self.runs[outlet.stream.channel] += outlet.take()
        self.turn.touched.clear()

    def said(self, channel: Channel, *, statuses: bool = False) -> list[Said]:
        found = [said for run in self.runs[channel] for said in read(run)]
        return found if statuses else [said for said in found if said.kind != "status"]

    def kinds(self, channel: Channel) -> list[str]:
        return [said.kind for said in self.said(channel)]

    def statuses(self, channel: Channel) -> list[tuple[str, str]]:
        return [
            (said.data["state"], said.data["reason"])
            for said in self.said(channel, statuses=True)
            if said.kind == "status"
        ]

    def trade_ids(self) -> list[int]:
        return [said.fields["trade_id"] for said in self.said(Channel.TRADES) if said.kind == "trade"]

    def continuities(self) -> list[str]:
        return [said.data["continuity"] for said in self.said(Channel.TRADES) if said.kind == "trade"]

    def declared(self) -> list[tuple[int, int]]:
        """What snapshots have declared as missing."""
        found = [said.data["missing"] for said in self.said(Channel.TRADES) if "missing" in said.data]
        return [(one["from_trade_id"], one["to_trade_id"]) for one in found]

    def facts_of[T](self, kind: type[T]) -> list[T]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


def trade(trade_id: int, px: str = "100.10", qty: str = "0.50000000", side: Side = "buy") -> Trade:
    return Trade(PRODUCT, trade_id, px, qty, side, T0 + trade_id, 1000 + trade_id)


def position(trade_id: int) -> TradePosition:
    return TradePosition(trade(trade_id))


def page(
    first: int,
    last: int,
    ids: Iterable[int] | None = None,
    *,
    newest: int = 0,
    complete: bool = True,
    problem: str = "",
) -> BackfillPage:
    """What REST gives of the trades first … last: all of them, or `ids`."""
    given = range(first, last + 1) if ids is None else ids
    rows = [BackfilledTrade(trade_id, "100.10", "0.50000000", "buy", T0 + trade_id) for trade_id in given]
    return BackfillPage(PRODUCT, first, last, rows, complete, newest, problem)


def heartbeat(last_trade_id: int, sequence: int = 0) -> Heartbeat:
    return Heartbeat(PRODUCT, sequence or 1000 + last_trade_id, last_trade_id, T0)


def quote(sequence: int, last: Trade | None, bid: str | None = "100.0", ask: str | None = "100.5") -> Quote:
    best_bid = None if bid is None else (bid, "1.0")
    best_ask = None if ask is None else (ask, None)
    return Quote(PRODUCT, sequence, T0 + sequence, last, best_bid, best_ask)


def update(*changes: tuple[Side, str, str], ts_event: int = T0) -> BookUpdate:
    return BookUpdate(PRODUCT, list(changes), ts_event)


def snapshot(bid: str = "99.50", ask: str = "101.0") -> BookSnapshot:
    return BookSnapshot(PRODUCT, [(bid, "2"), ("99.0", "3.00")], [(ask, "1"), ("102.00", "5")])


SNAPSHOT = snapshot()
