"""Whether a stream with `conflate_ms` brings more than one increment in that time. Counted, not timed.

Over any span there may be one for each interval in it, one more, and as many as would come in a second: what was held
up on the way comes in a bunch, and who joins is brought to where the others are. Both clocks must say that there were
too many: the times of receipt, since a client that is held up gets late what was sent in time, and those of
publication, since a replay may be faster than it was.
"""

_BUNCH_NS = 1_000_000_000


class Pace:
    """The increments of one stream; times in ns."""

    __slots__ = ("_interval_ns", "_published_until", "_received_until")

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._received_until = 0
        self._published_until = 0

    def exceeded(self, received: int, published: int) -> bool:
        """One more has come; True if those so far are too many, which are then forgotten."""
        interval = self._interval_ns
        allowed = 2 * interval + _BUNCH_NS
        # Up to when the increments so far would have taken, at one an interval and never ahead of the clock.
        self._received_until = max(self._received_until, received) + interval
        self._published_until = max(self._published_until, published) + interval
        if self._received_until - received <= allowed or self._published_until - published <= allowed:
            return False
        self._received_until = self._published_until = 0
        return True
