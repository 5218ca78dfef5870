"""What happens to the bytes of one direction of a proxied connection: nothing, a delay, or messages that vanish.

Pure: bytes and times in, bytes out. A `Weather` is what a link has at the moment; all of its connections share it.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from loadgen.chaos.zmtp import Framer


@dataclass(slots=True)
class Weather:
    """The state of one link. `cut`: nothing passes, in neither direction, and nothing is refused either."""

    cut: bool = False
    delay_s: float = 0.0
    drop_share: float = 0.0
    dropped: int = 0
    """Messages that have vanished."""


class Lane:
    """One direction. `zmtp` is False where the bytes are no ZeroMQ (then nothing is dropped); `may_drop` says whether
    messages of this direction may vanish; `rewrite` is applied to each message."""

    def __init__(
        self,
        weather: Weather,
        chance: random.Random,
        *,
        zmtp: bool,
        may_drop: bool,
        rewrite: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._weather = weather
        self._chance = chance
        self._framer = Framer() if zmtp else None
        self._may_drop = may_drop
        self._rewrite = rewrite
        self._splitting = False
        self._waiting: deque[tuple[float, bytes]] = deque()
        self.waiting_bytes = 0

    def take(self, data: bytes, now: float) -> bytes:
        """Bytes have come; what is to be sent on at once. What is delayed comes from `due`."""
        data = self._filtered(data)
        if not self._weather.delay_s and not self._waiting:
            return data
        if data:
            # What is behind something delayed waits for it: a stream keeps its order.
            self._waiting.append((now + self._weather.delay_s, data))
            self.waiting_bytes += len(data)
        return self.due(now)

    def due(self, now: float) -> bytes:
        """What has waited long enough; all of it once the link has no delay any more."""
        found = []
        while self._waiting and (self._waiting[0][0] <= now or not self._weather.delay_s):
            found.append(self._waiting.popleft()[1])
        out = b"".join(found)
        self.waiting_bytes -= len(out)
        return out

    def next_due(self) -> float | None:
        """When `due` has something again."""
        return self._waiting[0][0] if self._waiting else None

    def _filtered(self, data: bytes) -> bytes:
        framer = self._framer
        if framer is None:
            return data
        share = self._weather.drop_share if self._may_drop else 0.0
        if self._rewrite is None and not share:
            kept = framer.release() if self._splitting else b""
            self._splitting = False
            framer.skip(data)
            return kept + data
        self._splitting = True
        out = []
        for kind, raw in framer.split(data):
            if kind != "message":
                out.append(raw)
            elif share and self._chance.random() < share:
                self._weather.dropped += 1
            else:
                out.append(raw if self._rewrite is None else self._rewrite(raw))
        return b"".join(out)
