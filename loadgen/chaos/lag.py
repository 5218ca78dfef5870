"""How long the harness's own loop was held up: what clients seem to lack for so long may lie in the socket."""

import asyncio

_TICK_S = 0.05


class LoopLag:
    """Measures from its start on; `take` gives the longest delay since the last call, in seconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._longest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._due = self._loop.time() + _TICK_S
        self._timer = self._loop.call_at(self._due, self._tick)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def take(self) -> float:
        """The longest delay since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest

    def _tick(self) -> None:
        self._longest = max(self._longest, self._loop.time() - self._due)
        self.start()
