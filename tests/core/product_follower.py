"""What a consumer holds of one product: it follows what was said, checks positions, and says what it would restore."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lfmesh.core.product import Restored, RestoredBook
from lfmesh.types import NO_INPUT, Channel, InputPosition, Level, Position, Trade
from tests.core.product_world import PRODUCT, World, read_exactly

type Side = dict[Decimal, Level]


@dataclass
class Followed:
    """One product's streams, as a client has them."""

    positions: dict[Channel, Position] = field(default_factory=dict)
    trades: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    backfilled: set[int] = field(default_factory=set)
    declared: list[tuple[int, int]] = field(default_factory=list)
    last_trade_id: int | None = None
    first_trade_id: int | None = None
    """The first one that must be here, or declared."""
    ticker: dict[str, Any] | None = None
    bids: Side = field(default_factory=dict)
    asks: Side = field(default_factory=dict)

    def take(self, world: World) -> list[dict[str, Any]]:
        """Everything that the world has said since the last time."""
        taken = []
        for channel in Channel:
            runs = world.runs[channel]
            for body in (body for run in runs for body in read_exactly(run)):
                self._apply(channel, body)
                taken.append(body)
            runs.clear()
        return taken

    def _apply(self, channel: Channel, data: dict[str, Any]) -> None:
        now = Position(int(data["epoch"]), int(data["seq"]))
        before = self.positions.get(channel, Position(0, 0))
        is_snapshot = data["type"] == "snapshot"
        if is_snapshot:
            assert now.epoch > before.epoch, "epochs only grow"
            assert now.seq == 0
        else:
            assert now == (before.epoch, before.seq + 1), f"{channel}: {now} after {before}"
        self.positions[channel] = now
        state = data["state"] if is_snapshot else data["fields"]
        match channel:
            case Channel.TRADES:
                self._apply_trades(data, state, is_snapshot)
            case Channel.TICKER:
                self.ticker = state
            case Channel.BOOK:
                if is_snapshot:
                    self.bids, self.asks = {}, {}
                put(self.bids, state["bids"])
                put(self.asks, state["asks"])

    def _apply_trades(self, data: dict[str, Any], state: dict[str, Any], is_snapshot: bool) -> None:
        if is_snapshot:
            if "missing" in data:
                first, last = (int(data["missing"][key]) for key in ("from_trade_id", "to_trade_id"))
                assert self.last_trade_id == first - 1, "a gap is declared where it is"
                self.declared.append((first, last))
            if "last_trade_id" in state:
                self.last_trade_id = int(state["last_trade_id"])
                self._begin_with(self.last_trade_id + 1)
            return
        trade_id = int(state["trade_id"])
        self._begin_with(trade_id)
        assert self.last_trade_id in (None, trade_id - 1), f"trade {trade_id} after {self.last_trade_id}"
        self.last_trade_id = trade_id
        self.trades[trade_id] = state["px"], state["qty"], state["side"]
        if data["continuity"] == "backfilled":
            self.backfilled.add(trade_id)

    def _begin_with(self, trade_id: int) -> None:
        if self.first_trade_id is None:
            self.first_trade_id = trade_id

    def restored(self, inputs: dict[Channel, InputPosition], line: int) -> Restored:
        """What a snapshotter would tell; `line` is the ingestor whose book it is."""
        trades = tuple(
            Trade(PRODUCT, trade_id, px, qty, "buy" if side == "buy" else "sell", 0)
            for trade_id, (px, qty, side) in sorted(self.trades.items())[-50:]
        )
        ticker = self.ticker or {"last_trade": None, "best_bid": None, "best_ask": None}
        last = ticker["last_trade"]
        book = None
        if Channel.BOOK in self.positions:
            bids = [self.bids[px] for px in sorted(self.bids, reverse=True)]
            book = RestoredBook(bids, [self.asks[px] for px in sorted(self.asks)], line)
        return Restored(
            dict(self.positions),
            {channel: source for channel, source in inputs.items() if source != NO_INPUT},
            trades,
            None if last is None else Trade(PRODUCT, int(last["trade_id"]), last["px"], last["qty"], last["side"], 0),
            self.last_trade_id,
            _best(ticker["best_bid"]),
            _best(ticker["best_ask"]),
            book,
        )


def put(side: Side, levels: list[Any]) -> None:
    """Apply absolute sizes."""
    for px, qty in levels:
        if Decimal(qty):
            side[Decimal(px)] = (px, qty)
        else:
            side.pop(Decimal(px), None)


def _best(level: dict[str, Any] | None) -> tuple[str, str | None] | None:
    return None if level is None else (level["px"], level["qty"])


def complete(world: World, number: int, line: int) -> dict[Channel, InputPosition]:
    """How far the records of a line are in the streams after its record `number`, as a consumer concludes it."""
    reached = InputPosition(line, 1, number)
    found = {}
    for channel, outlet in world.product.outlets.items():
        if outlet.mixed or not outlet.is_open:
            continue
        found[channel] = reached if outlet.whole else outlet.complete
    return found
