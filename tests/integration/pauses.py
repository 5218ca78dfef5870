"""How long a client was left without data of a shard, seen beside the checks of what it was sent."""

import re
from collections.abc import Mapping
from typing import Any

from loadgen.client.checker import Checker

_DATA = re.compile(rb'\{"op":"(?:incr|snapshot)".{0,60}?"product":"([^"]+)"')


class PausedChecker(Checker):
    """A checker that keeps the longest time without data of each shard; `shards` tells each product's.

    One product alone may be silent for long; all of a shard under load are not, unless the mesh is.
    """

    def __init__(self, shards: Mapping[str, int]) -> None:
        super().__init__()
        self._shards = {product.encode(): shard for product, shard in shards.items()}
        self._last: dict[int, int] = {}
        self._longest: dict[int, int] = {}

    def receive(self, frame: bytes, now: int) -> Any:  # noqa: ANN401 - whatever the checker returns
        """A text frame has come."""
        found = _DATA.match(frame)
        if found is not None:
            shard = self._shards[found[1]]
            last = self._last.get(shard)
            if last is not None and now - last > self._longest.get(shard, 0):
                self._longest[shard] = now - last
            self._last[shard] = now
        return super().receive(frame, now)

    def take_pause_ms(self) -> float:
        """The longest pause of any shard since the last call, in ms."""
        longest = max(self._longest.values(), default=0)
        self._longest.clear()
        return longest / 1e6
