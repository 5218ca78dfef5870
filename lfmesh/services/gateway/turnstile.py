"""Spreads what many clients want at once over turns of the loop, so that what is published goes out in between.

A thousand requests that arrive together are a thousand tasks that are ready in one turn of the loop: together they
would hold up everybody else for a tenth of a second. Each enters here first, and a turn lets in only what it has time
for; the others follow in the order in which they came.
"""

import asyncio
import time
from collections import deque


class Turnstile:
    """About `turn_s` of work a turn of the loop; `async with turnstile:` around each short piece of it."""

    def __init__(self, turn_s: float) -> None:
        self._turn_s = turn_s
        self._spent_s = 0.0
        self._usual_s = turn_s
        """What one piece of work has cost lately."""
        self._entered_at = 0.0
        self._turning = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a later turn."""
        return len(self._waiting)

    async def __aenter__(self) -> None:
        if self._waiting or self._spent_s >= self._turn_s:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            self._turn()
            await place
        self._entered_at = time.perf_counter()

    async def __aexit__(self, *_: object) -> None:
        cost_s = time.perf_counter() - self._entered_at
        self._spent_s += cost_s
        self._usual_s += (cost_s - self._usual_s) / 8
        self._turn()

    def _turn(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """A turn of the loop has gone by: let the next ones in, as many as it will have time for."""
        self._turning = False
        self._spent_s = 0.0
        room = max(1, round(self._turn_s / max(self._usual_s, 1e-6)))
        while self._waiting and room:
            place = self._waiting.popleft()
            if not place.done():  # who was cancelled waits no more
                place.set_result(None)
                room -= 1
        if self._waiting:
            self._turn()
