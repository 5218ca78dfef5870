"""What a checker finds wrong: facts, bounded in number, counted without bound."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Which promise of the protocol was broken."""

    MALFORMED = "malformed"
    """Not JSON, an unknown op, a field missing, of the wrong type or value."""
    NOT_EXACT = "not_exact"
    """A price or size that is no exact decimal."""
    MODEL = "model"
    """The published models refuse the message."""
    REPLY = "reply"
    """A reply to nothing that was asked."""
    UNSUBSCRIBED = "unsubscribed"
    """A message of a stream that is not subscribed."""
    START = "start"
    """A stream that begins in another way than was asked for (guarantee 1)."""
    REASON = "reason"
    """A snapshot whose reason can't be (guarantee 1)."""
    SEQ = "seq"
    """An increment that is not the next one (guarantee 2)."""
    PACE = "pace"
    """More increments of a stream than its `conflate_ms` allows."""
    EPOCH = "epoch"
    """An increment of an epoch that no snapshot opened (guarantee 2)."""
    PARTS = "parts"
    """Parts of a snapshot out of order or never completed."""
    STATE = "state"
    """A snapshot that differs from the state that the increments lead to (guarantee 3)."""
    LEVELS = "levels"
    """A snapshot's book that is not best first, or holds an empty or repeated level."""
    TRADE_ORDER = "trade_order"
    """A trade that comes again, or after a later one (guarantee 4)."""
    TRADE_GAP = "trade_gap"
    """Trades missing that nobody declared (guarantee 4)."""
    TRADE_ALTERED = "trade_altered"
    """A trade that came before with other values (guarantee 6)."""
    SILENCE = "silence"
    """Neither data nor heartbeats (guarantee 7)."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: when it was seen (ns), in which stream (empty: the connection), and what exactly."""

    kind: Kind
    product: str
    channel: str
    detail: str
    at: int

    def __str__(self) -> str:
        where = f"{self.product} {self.channel}".strip()
        return f"{self.kind}: {where}: {self.detail}" if where else f"{self.kind}: {self.detail}"


class ViolationLog:
    """The first `bound` violations in full, and the number of all by kind."""

    def __init__(self, bound: int = 100) -> None:
        self._bound = bound
        self.first: list[Violation] = []
        self.counts: Counter[Kind] = Counter()

    def add(self, violation: Violation) -> None:
        """Count one, and keep it if there is room."""
        self.counts[violation.kind] += 1
        if len(self.first) < self._bound:
            self.first.append(violation)

    @property
    def total(self) -> int:
        """How many there were."""
        return self.counts.total()

    def __bool__(self) -> bool:
        return bool(self.counts)
