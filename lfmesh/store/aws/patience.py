"""How long throttled requests are made again: as long as the table takes any of them, within a time limit."""

import threading
import time
from collections.abc import Callable

from lfmesh.core.backoff import Backoff

_BASE_S = 0.05
_MAX_S = 2.0


class Patience:
    """One call's, shared by its threads. It ends after `attempts` retries in a row of which nothing came through, and
    `attempts` × `limit_s` seconds after its start in any case. Pauses grow while nothing comes through."""

    def __init__(
        self, attempts: int, limit_s: float, pause: Callable[[float], None], randomness: Callable[[], float]
    ) -> None:
        self._attempts = attempts
        self._ends_s = time.monotonic() + attempts * limit_s
        self._pause = pause
        self._backoff = Backoff(_BASE_S, _MAX_S, randomness, first_at_once=False)
        self._lock = threading.Lock()

    def progressed(self) -> None:
        """A request came through."""
        if self._backoff.retries:
            with self._lock:
                self._backoff.reset()

    def again(self) -> bool:
        """True, after a pause, if one may try again."""
        with self._lock:
            if self._backoff.retries >= self._attempts or time.monotonic() > self._ends_s:
                return False
            pause_s = self._backoff.next_pause()
        self._pause(pause_s)
        return True
