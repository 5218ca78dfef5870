"""Whether a product's streams live, and if not, why: what `status` messages say (client protocol).

Known of a product: when the venue last said anything about it; whether the ingestor that brings it is silent; whether
its venue connection is lost; whether its book is waiting for a snapshot. From that each stream's state follows:

    ingestor silent, connection lost     recovering, all streams
    book waits for a snapshot            recovering, the book
    nothing said for too long            stale, all streams
    else                                 live

The venue's connection counts as back with the first frame of the product after its loss; a stalled ingestor that was
not replaced is back with its first sign of life, as its numbers prove that nothing was lost.
"""

from typing import NamedTuple

from lfmesh.types import CHANNELS, Channel, StreamState

SILENT_INGESTOR = "the ingestor is silent"
LOST_CONNECTION = "the venue connection is lost"
REPLACED_INGESTOR = "the ingestor was restarted"
OTHER_INGESTOR = "another ingestor has taken over"
FLOWING = "data flows"


class Standing(NamedTuple):
    """A stream's state since a time in ns, and why."""

    state: StreamState
    since: int
    reason: str


class Liveness:
    """One product. Set what is known, then ask `changes`; `frame` is called for each of its frames."""

    __slots__ = ("_book_waits", "_ingestor_silent", "_link_lost", "_stale", "_stale_after_ns", "seen_at", "standings")

    def __init__(self, now: int, stale_after_ns: int) -> None:
        self._stale_after_ns = stale_after_ns
        self.seen_at = now
        self._ingestor_silent = False
        self._link_lost = ""
        self._book_waits = ""
        self._stale = False
        self.standings = {channel: Standing("live", 0, FLOWING) for channel in CHANNELS}

    def frame(self, now: int) -> bool:
        """The venue has said something about the product; True if `changes` may have something to tell."""
        self.seen_at = now
        if self._stale or self._link_lost:
            self._stale = False
            self._link_lost = ""
            return True
        return False

    def link_lost(self, reason: str) -> None:
        """The product's venue connection is over; the next frame is a new one's."""
        self._link_lost = reason

    def ingestor(self, *, silent: bool) -> None:
        """The ingestor that brings the product has fallen silent, or is heard again."""
        self._ingestor_silent = silent

    def book_waits(self, why: str) -> None:
        """The book can't go on without a snapshot (empty: it has one)."""
        self._book_waits = why

    def book_waits_no_longer(self, why: str) -> None:
        """The book does not wait for this any more; for something else it may."""
        if self._book_waits == why:
            self._book_waits = ""

    @property
    def is_stale(self) -> bool:
        """True while the venue has said nothing for too long."""
        return self._stale

    @property
    def recovering(self) -> int:
        """How many of the streams are recovering."""
        return sum(standing.state == "recovering" for standing in self.standings.values())

    @property
    def is_without_source(self) -> bool:
        """True while who brings the product brings nothing."""
        return self._stale or self._ingestor_silent

    def tick(self, now: int) -> bool:
        """Time has passed; True if `changes` has something to tell."""
        stale = now - self.seen_at > self._stale_after_ns
        if stale == self._stale:
            return False
        self._stale = stale
        return True

    def changes(self, now: int) -> list[tuple[Channel, Standing]]:
        """Streams whose state or reason has changed since the last call."""
        changed = []
        for channel in CHANNELS:
            state, reason = self._judge(channel)
            before = self.standings[channel]
            if state != before.state or reason != before.reason:
                since = before.since if state == before.state else now
                standing = self.standings[channel] = Standing(state, since, reason)
                changed.append((channel, standing))
        return changed

    def _judge(self, channel: Channel) -> tuple[StreamState, str]:
        if self._ingestor_silent:
            return "recovering", SILENT_INGESTOR
        if self._link_lost:
            return "recovering", self._link_lost
        if channel is Channel.BOOK and self._book_waits:
            return "recovering", self._book_waits
        if self._stale:
            return "stale", f"nothing from the venue for more than {self._stale_after_ns / 1e9:g} s"
        return "live", FLOWING
