"""Rate limits: a token bucket that is told the time."""

_SECOND_NS = 1_000_000_000


class TokenBucket:
    """`burst` requests at once, then `rate_per_s`. Full at first; a clock that runs backwards gives nothing."""

    __slots__ = ("_at", "_burst", "_cost_ns", "_credit_ns")

    def __init__(self, rate_per_s: float, burst: int, now: int) -> None:
        # Credit is kept as time, in whole ns: no rounding error however long it runs.
        self._cost_ns = max(1, round(_SECOND_NS / rate_per_s))
        self._burst = burst * self._cost_ns
        self._credit_ns = self._burst
        self._at = now

    def take(self, now: int) -> int:
        """0 if the request may pass; else for how many ns from now none will."""
        if now > self._at:
            self._credit_ns = min(self._burst, self._credit_ns + now - self._at)
            self._at = now
        if self._credit_ns < self._cost_ns:
            return self._cost_ns - self._credit_ns
        self._credit_ns -= self._cost_ns
        return 0
