"""Trades that wait for those before them, by id, and which ids are known to exist. Times are the owner's."""

from collections.abc import Callable
from typing import NamedTuple

from lfmesh.types import Trade

TRADE_OVERHEAD = 400
"""Bytes that a waiting trade takes beside its digits."""


class Missing(NamedTuple):
    """First and last id of trades that are missing, and since when that is known."""

    first: int
    last: int
    since: int


class Held(NamedTuple):
    """A trade that waits, when it was received, and since when it waits."""

    trade: Trade
    ts_ingest: int
    since: int


class Hold:
    """`top` is the highest id that is known to exist: of a trade that waits, or one that was proved (`prove`)."""

    __slots__ = ("_disputed", "_held", "_proven", "size_bytes", "top")

    def __init__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        """Nothing waits, nothing is known."""
        self.top = 0
        self.size_bytes = 0
        self._held: dict[int, Held] = {}
        self._proven = (0, 0)
        self._disputed: set[int] = set()

    def get(self, trade_id: int) -> Held | None:
        """What waits under this id."""
        return self._held.get(trade_id)

    def is_disputed(self, trade_id: int) -> bool:
        """True if this id was told in two ways, and only the venue's record counts."""
        return trade_id in self._disputed

    def newest(self) -> Trade | None:
        """The trade of the highest id that waits."""
        return self._held[max(self._held)].trade if self._held else None

    def put(self, held: Held) -> None:
        """Let a trade wait; none of its id does."""
        trade_id = held.trade.trade_id
        self._held[trade_id] = held
        self.size_bytes += _bytes(held.trade)
        self._disputed.discard(trade_id)
        self.top = max(self.top, trade_id)

    def pop(self, trade_id: int) -> Held | None:
        """Take the trade of this id out, if it waits; it is still known to exist."""
        held = self._held.pop(trade_id, None)
        if held is not None:
            self.size_bytes -= _bytes(held.trade)
        return held

    def dispute(self, trade_id: int) -> None:
        """Two different trades came with this id: neither counts, but there is one."""
        held = self.pop(trade_id)
        assert held is not None
        self._disputed.add(trade_id)
        self.prove(trade_id, held.since)

    def prove(self, trade_id: int, since: int) -> None:
        """Trades up to this id exist, as something says that is no trade itself."""
        self._proven = max(self._proven, (trade_id, since))
        self.top = max(self.top, trade_id)

    def refute(self, newest: int, since: int, is_absurd: Callable[[Held], bool]) -> list[int]:
        """The venue's newest id: what was proved later than `since` stands; trades that are absurd go. Their ids."""
        if self._proven[0] > newest and self._proven[1] <= since:
            self._proven = newest, self._proven[1]
        absurd = [trade_id for trade_id, held in self._held.items() if is_absurd(held)]
        for trade_id in absurd:
            self.pop(trade_id)
        self.top = max(self._proven[0], max(self._held, default=0))
        return absurd

    def missing(self, next_id: int) -> list[Missing]:
        """What is missing from this id on, oldest first."""
        found = []
        for trade_id in sorted(self._held):
            if trade_id > next_id:
                found.append(Missing(next_id, trade_id - 1, self._held[trade_id].since))
            next_id = trade_id + 1
        if next_id <= self.top:
            found.append(Missing(next_id, self.top, self._proven[1]))
        return found

    def oldest(self, next_id: int) -> Missing:
        """The gap before everything that waits. What was first to come has shown it first."""
        proven, since = self._proven
        if not self._held:
            return Missing(next_id, self.top, since)
        first = next(iter(self._held.values())).since
        return Missing(next_id, min(self._held) - 1, min(first, since) if proven >= next_id else first)


def _bytes(trade: Trade) -> int:
    return TRADE_OVERHEAD + len(trade.px) + len(trade.qty)
