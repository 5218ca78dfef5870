"""Finds out which clients live: whoever has been silent is pinged, who stays silent is closed as a slow consumer.

Anything that comes from a client is a sign of life. One timer looks at all clients, in place of a task for each in the
library, which only knows pongs and closes with 1011. A client that does not answer is dead, or so far behind that it
has not read our ping, which is all the same to us: its TCP connection takes what we send, its program does not.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

_LOOKS = 40
"""In an interval: so many clients that came at once are not all pinged at once."""


class Pinged(Protocol):
    """One client, to be kept alive. Times are those of the loop, in s."""

    @property
    def heard_at(self) -> float:
        """When anything has come from it."""

    pinged_at: float
    """When it was pinged last; 0: never."""

    def ping(self) -> bool:
        """Send a ping; False where nothing can be sent now."""

    def silent(self) -> None:
        """It has not answered."""


class Keepalive:
    """See the module's docstring. `everybody` gives the clients of now."""

    def __init__(self, interval_s: float, everybody: Callable[[], Collection[Pinged]]) -> None:
        self._interval_s = interval_s
        self._everybody = everybody
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on."""
        self._timer = self._loop.call_later(self._interval_s / _LOOKS, self._look)

    def close(self) -> None:
        """Look no more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self.start()
        now, interval = self._loop.time(), self._interval_s
        for one in tuple(self._everybody()):
            silence = now - one.heard_at
            if silence < interval:
                continue
            if one.pinged_at <= one.heard_at:
                if one.ping():
                    one.pinged_at = now
            elif now - one.pinged_at >= interval:
                one.silent()
