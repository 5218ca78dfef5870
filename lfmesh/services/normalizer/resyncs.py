"""Which books to ask anew, and when: soon, but not again and again. Pure."""

from dataclasses import dataclass

FIRST_PAUSE_NS = 1_000_000_000
LONGEST_PAUSE_NS = 30_000_000_000
FORGET_NS = 120_000_000_000
"""A product that has been well for so long starts again with the first pause."""


@dataclass(slots=True)
class _Wish:
    wanted: bool
    asked_at: int
    pause_ns: int


class Resyncs:
    """Asks are at least the pause apart, which doubles with each up to half a minute."""

    def __init__(self) -> None:
        self._wishes: dict[str, _Wish] = {}
        self._wanted = 0

    @property
    def wanted(self) -> int:
        """Products whose snapshot is awaited."""
        return self._wanted

    def want(self, product: str) -> None:
        """The product's book must be had anew."""
        wish = self._wishes.get(product)
        if wish is None:
            wish = self._wishes[product] = _Wish(False, 0, 0)
        if not wish.wanted:
            wish.wanted = True
            self._wanted += 1

    def settle(self, product: str) -> None:
        """A snapshot has come, or will come by itself."""
        wish = self._wishes.get(product)
        if wish is not None and wish.wanted:
            wish.wanted = False
            self._wanted -= 1

    def due(self, now: int) -> list[str]:
        """Products to ask for now; they count as asked."""
        if not self._wanted:
            return []
        due = []
        for product, wish in self._wishes.items():
            since = now - wish.asked_at
            if not wish.wanted or since < wish.pause_ns:
                continue
            wish.pause_ns = FIRST_PAUSE_NS if since > FORGET_NS else min(2 * wish.pause_ns, LONGEST_PAUSE_NS)
            wish.pause_ns = max(wish.pause_ns, FIRST_PAUSE_NS)
            wish.asked_at = now
            due.append(product)
        return due
