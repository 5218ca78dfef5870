"""The latest trades of a product, as a trades snapshot shows them."""

from collections.abc import Iterable

from lfmesh.core import encode
from lfmesh.types import Trade

KEPT_TRADES = 50
"""A trades snapshot holds so many, the latest."""


class TradeTape:
    """The latest trades by id, oldest first, and the last id known.

    The last id can be ahead of the latest trade held: a venue's `last_match` tells the id of a trade that is not ours
    to pass on, and declared trades will not come.
    """

    __slots__ = ("_recent", "last_trade_id")

    def __init__(self, trades: Iterable[Trade] = ()) -> None:
        self.last_trade_id: int | None = None
        self._recent: dict[int, Trade] = {}
        for trade in sorted(trades, key=lambda trade: trade.trade_id):
            self.append(trade)

    def append(self, trade: Trade) -> None:
        """The next trade; the caller has seen that its id is higher than the last."""
        recent = self._recent
        recent[trade.trade_id] = trade
        self.last_trade_id = trade.trade_id
        if len(recent) > KEPT_TRADES:
            del recent[next(iter(recent))]

    def skip_to(self, trade_id: int) -> None:
        """Trades up to this id exist, and will not come."""
        self.last_trade_id = trade_id

    def find(self, trade_id: int) -> Trade | None:
        """The trade of this id, if it is still held."""
        return self._recent.get(trade_id)

    def latest(self) -> Trade | None:
        """The newest trade held."""
        return self._recent[next(reversed(self._recent))] if self._recent else None

    def up_to(self, trade_id: int) -> list[Trade]:
        """The trades held up to this id."""
        return [trade for trade in self._recent.values() if trade.trade_id <= trade_id]

    def state(self) -> str:
        """The trades snapshot's state (client protocol)."""
        return encode.trades_state(map(encode.trade_fields, self._recent.values()), self.last_trade_id)
