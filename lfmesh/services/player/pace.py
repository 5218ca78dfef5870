"""Which moment of the archive it is now: a clock that runs as many times as fast as ours, stands, and can be set. Pure.

Our time is a monotonic one, in ns; the archive's is in ns since the Unix epoch.
"""

LATE_NS = 1_000_000_000
"""Who was held up for longer does not make up for it: the clock has stood still meanwhile."""


class Pace:
    """`speed` None: all is due at once; the clock does not run by itself, but follows what is played (`reached`)."""

    def __init__(self, at: int, speed: float | None) -> None:
        self._speed = speed
        self._at = at
        self._since: int | None = None
        self._held_since: int | None = None

    @property
    def speed(self) -> float | None:
        """As many times as fast as it was; None: as fast as it can be taken."""
        return self._speed

    @property
    def running(self) -> bool:
        """False while the clock stands."""
        return self._since is not None

    def now(self, now: int) -> int:
        """The archive's time."""
        if self._since is None or self._speed is None:
            return self._at
        return self._at + int((now - self._since) * self._speed)

    def run(self, now: int) -> None:
        """Let it run from now on."""
        self._set(self.now(now), now)

    def stop(self, now: int) -> None:
        """Let it stand."""
        self._at, self._since, self._held_since = self.now(now), None, None

    def set(self, at: int, now: int) -> None:
        """It is `at`; running or standing as before."""
        if self._since is None:
            self._at = at
        else:
            self._set(at, now)

    def set_speed(self, speed: float | None, now: int) -> None:
        """Run as fast as this from now on."""
        self.set(self.now(now), now)
        self._speed = speed

    def reached(self, at: int) -> None:
        """Everything up to `at` has been played; where nothing is waited for, that is what tells the time."""
        if self._speed is None and at > self._at:
            self._at = at

    def hold(self, now: int) -> None:
        """What is due can't be played for now."""
        if self._held_since is None:
            self._held_since = now

    def release(self, now: int) -> None:
        """It can again. A short hold is made up for, a long one has stopped the clock."""
        held, self._held_since = self._held_since, None
        if held is not None and self._since is not None and now - held > LATE_NS:
            self._set(self.now(held), now)

    def due_in_s(self, at: int, now: int) -> float:
        """Seconds until it is `at`; 0 if it is, or was."""
        if self._speed is None:
            return 0.0
        return max(0.0, (at - self.now(now)) / self._speed / 1e9)

    def is_due(self, at: int, now: int) -> bool:
        """True if it is `at`, or was."""
        return self._speed is None or at <= self.now(now)

    def _set(self, at: int, now: int) -> None:
        self._at, self._since, self._held_since = at, now, None
