"""How long to wait before trying again: exponential, with full jitter.

The first retry is at once; the nth after it waits a random time between 0 and base · 2**(n-1), never longer than the
maximum (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015: full jitter). Whoever is turned away together
with many others so does not come back together with them.
"""

from collections.abc import Callable

_MAX_DOUBLINGS = 32


class Backoff:
    """`random` returns a number in [0, 1). Seconds throughout."""

    def __init__(self, base_s: float, max_s: float, random: Callable[[], float], *, first_at_once: bool = True) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._random = random
        self._first_at_once = first_at_once
        self._retries = 0

    @property
    def retries(self) -> int:
        """Retries since the start or the last `reset`."""
        return self._retries

    def next_pause(self) -> float:
        """The pause before the next retry, which counts as made."""
        number = self._retries
        self._retries += 1
        if self._first_at_once:
            if number == 0:
                return 0.0
            number -= 1
        return self._random() * min(self._max_s, self._base_s * 2.0 ** min(number, _MAX_DOUBLINGS))

    def reset(self) -> None:
        """What was tried has worked: the next retry is the first one again."""
        self._retries = 0
