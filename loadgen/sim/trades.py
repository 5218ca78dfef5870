"""A product's trades so far: a bounded history for REST, and a hash over all of them for the truth."""

from bisect import bisect_left, bisect_right

import msgspec

from lfmesh.core.statehash import TradeHash


class TradePage(msgspec.Struct, frozen=True):
    """One page, newest first; `rows` are JSON objects. Cursors are None on an empty page."""

    rows: list[bytes]
    newest_id: int | None
    oldest_id: int | None


class TradeLog:
    """Keeps the latest `limit_rows` trades of one product (the oldest go first) and hashes every one."""

    def __init__(self, limit_rows: int) -> None:
        self._limit_rows = limit_rows
        self._ids: list[int] = []
        self._rows: list[bytes] = []
        self._hash = TradeHash()
        self.last_trade_id: int | None = None

    @property
    def count(self) -> int:
        """Trades of this run, whether or not they are still kept."""
        return self._hash.count

    def hexdigest(self) -> str:
        """The hash of this run's trades, see `lfmesh.core.statehash.TradeHash`."""
        return self._hash.hexdigest()

    def add(self, trade_id: int, px: str, qty: str, maker_side: str, time: str) -> None:
        """A trade happened."""
        self._hash.add(trade_id, px, qty, "sell" if maker_side == "buy" else "buy")
        self.list_only(trade_id, px, qty, maker_side, time)

    def list_only(self, trade_id: int, px: str, qty: str, maker_side: str, time: str) -> None:
        """A trade from before this run (a last_match): listed by REST, but none of this run's trades.

        One that is not newer than the newest is known already and is ignored.
        """
        if self.last_trade_id is not None and trade_id <= self.last_trade_id:
            return
        self.last_trade_id = trade_id
        self._ids.append(trade_id)
        self._rows.append(
            f'{{"trade_id":{trade_id},"side":"{maker_side}","size":"{qty}","price":"{px}","time":"{time}"}}'.encode()
        )
        if len(self._ids) >= 2 * self._limit_rows:
            del self._ids[: -self._limit_rows], self._rows[: -self._limit_rows]

    def after(self, trade_id: int) -> list[bytes]:
        """Every trade with a higher id that is still kept, oldest first."""
        return self._rows[bisect_right(self._ids, trade_id) :]

    def page(self, limit: int, after: int | None = None, before: int | None = None, hidden: int = 0) -> TradePage:
        """The newest `limit` trades with before < trade_id < after, newest first.

        That is the venue's paging: `after` leads to older pages, `before` to what is newer than a known id. The newest
        `hidden` trades of all are left out, as by a list that lags behind.
        """
        stop = len(self._ids) if after is None else bisect_left(self._ids, after)
        stop = min(stop, len(self._ids) - hidden)
        start = 0 if before is None else bisect_right(self._ids, before)
        start = max(start, stop - limit, len(self._ids) - self._limit_rows)
        if start >= stop:
            return TradePage([], None, None)
        return TradePage(self._rows[start:stop][::-1], self._ids[stop - 1], self._ids[start])
