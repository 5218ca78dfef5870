"""Which books to ask anew of whom, and when: soon, but not again and again. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

FIRST_PAUSE_NS = 1_000_000_000
LONGEST_PAUSE_NS = 8_000_000_000


class LineKey(NamedTuple):
    """A product's line; `ingestor` None: whoever carries it."""

    product: str
    ingestor: int | None


@dataclass(slots=True)
class _Wish:
    wanted: bool
    answered: bool
    asked_at: int
    pause_ns: int


class Resyncs:
    """Asks of one line are at least the pause apart, which doubles with each that no snapshot has answered."""

    def __init__(self) -> None:
        self._wishes: dict[LineKey, _Wish] = {}
        self._wanted = 0

    @property
    def wanted(self) -> int:
        """Books whose snapshot is awaited."""
        return self._wanted

    def want(self, product: str, ingestor: int | None) -> None:
        """The book of this line must be had anew."""
        key = LineKey(product, ingestor)
        wish = self._wishes.get(key)
        if wish is None:
            wish = self._wishes[key] = _Wish(False, False, 0, 0)
        if not wish.wanted:
            wish.wanted = True
            self._wanted += 1

    def settle(self, product: str, ingestor: int | None) -> None:
        """A snapshot has come, or will come by itself; whoever was asked without a name has been found."""
        for key in (LineKey(product, ingestor), LineKey(product, None)):
            wish = self._wishes.get(key)
            if wish is not None and wish.wanted:
                wish.wanted = False
                wish.answered = True
                self._wanted -= 1

    def due(self, now: int) -> list[LineKey]:
        """Lines to ask for now; they count as asked."""
        if not self._wanted:
            return []
        due = []
        for key, wish in self._wishes.items():
            if wish.answered:
                wish.pause_ns = min(wish.pause_ns, FIRST_PAUSE_NS)
            if not wish.wanted or now - wish.asked_at < wish.pause_ns:
                continue
            wish.pause_ns = FIRST_PAUSE_NS if wish.answered else min(2 * wish.pause_ns, LONGEST_PAUSE_NS)
            wish.pause_ns = max(wish.pause_ns, FIRST_PAUSE_NS)
            wish.answered = False
            wish.asked_at = now
            due.append(key)
        return due
