"""Rate limits that are told the time: a bucket that turns requests away, and a schedule that makes them wait."""

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

    def charge(self, requests: int) -> None:
        """What was let through was worth so many more: whatever comes next waits until they are made up for."""
        self._credit_ns -= requests * self._cost_ns


class PatientBucket(TokenBucket):
    """A bucket that turns away only so many: `patience` bursts at once, then as many more as it lets through.

    Whoever keeps to the `retry` that it is told is never `exhausted`, nor is whoever asks up to twice as often.
    """

    __slots__ = ("_refusals", "exhausted")

    def __init__(self, rate_per_s: float, burst: int, now: int, patience: int = 5) -> None:
        super().__init__(rate_per_s, burst, now)
        self._refusals = TokenBucket(rate_per_s, patience * burst, now)
        self.exhausted = False
        """True once it has turned away more than it bears; it stays so."""

    def take(self, now: int) -> int:
        """As a plain bucket does."""
        wait = super().take(now)
        if wait and self._refusals.take(now):
            self.exhausted = True
        return wait


class RequestSchedule:
    """When each of our own requests may be sent, so that a peer's limit holds: `burst` at once, then `rate_per_s`.

    Places are given in the order of asking, so that nobody who waits is overtaken. The same bucket seen from the
    other side (generic cell rate algorithm, ITU-T I.371): what is kept is the time at which it would be full again.
    Times are seconds of one monotonic clock.
    """

    __slots__ = ("_cost_s", "_full_at", "_tolerance_s")

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._cost_s = 1.0 / rate_per_s
        self._tolerance_s = burst * self._cost_s
        self._full_at = float("-inf")

    def reserve(self, count: int, now: float) -> float:
        """Take places for `count` requests that belong together; from when on they may be sent (`now` or later)."""
        self._full_at = max(self._full_at, now) + count * self._cost_s
        return max(now, self._full_at - self._tolerance_s)

    def free_at(self, now: float) -> float:
        """From when on the next request could be sent, if it were asked for now."""
        return max(now, self._full_at + self._cost_s - self._tolerance_s)

    def give_back(self, count: int) -> None:
        """Places that were reserved and not used."""
        self._full_at -= count * self._cost_s

    def hold(self, until: float) -> None:
        """The peer wants nothing before `until`: one request then, the others after it at the rate."""
        self._full_at = max(self._full_at, until + self._tolerance_s - self._cost_s)
