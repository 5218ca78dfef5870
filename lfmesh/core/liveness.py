"""Whether a product's streams live, and if not, why: what `status` messages say (client protocol).

Known of a product: when the venue last said anything about it; whether anybody can bring it (an ingestor that is heard,
with a venue connection); whether its book is waiting for a snapshot, its trades for missing ones. From that each
stream's state follows:

    nobody can bring it                  recovering, all streams
    nothing said for too long            stale, all streams
    book waits for a snapshot            recovering, the book
    trades wait for missing ones         recovering, the trades
    else                                 live

The venue's connection counts as back with the first frame of the product after its loss; a stalled ingestor that was
not replaced is back with its first sign of life, as its numbers prove that nothing was lost.
"""

from typing import NamedTuple

from lfmesh.types import CHANNELS, Channel, StreamState

SILENT_INGESTOR = "the ingestor is silent"
LOST_CONNECTION = "the venue connection is lost"
FLOWING = "data flows"


class Standing(NamedTuple):
    """A stream's state since a time in ns, and why."""

    state: StreamState
    since: int
    reason: str


class Liveness:
    """One product. Set what is known, then ask `changes`.

    With each of its frames `seen_at` is set to the time; if it `is_stale`, `frame` is called.
    """

    __slots__ = ("_book_waits", "_source_lost", "_stale_after_ns", "_trades_wait", "is_stale", "seen_at", "standings")

    def __init__(self, now: int, stale_after_ns: int) -> None:
        self._stale_after_ns = stale_after_ns
        self.seen_at = now
        self._source_lost = ""
        self._book_waits = ""
        self._trades_wait = ""
        self.is_stale = False
        self.standings = {channel: Standing("live", 0, FLOWING) for channel in CHANNELS}

    def frame(self, now: int) -> None:
        """The venue has said something about the product."""
        self.seen_at = now
        self.is_stale = False

    def source_lost(self, why: str) -> None:
        """Nobody can bring the product (empty: somebody can)."""
        self._source_lost = why

    def book_waits(self, why: str) -> None:
        """The book can't go on without a snapshot (empty: it has one)."""
        self._book_waits = why

    def book_waits_no_longer(self, why: str) -> None:
        """The book does not wait for this any more; for something else it may."""
        if self._book_waits == why:
            self._book_waits = ""

    def trades_wait(self, why: str) -> None:
        """Trades wait for those before them (empty: none does)."""
        self._trades_wait = why

    @property
    def recovering(self) -> int:
        """How many of the streams are recovering."""
        return sum(standing.state == "recovering" for standing in self.standings.values())

    def tick(self, now: int) -> bool:
        """Time has passed; True if `changes` has something to tell."""
        stale = now - self.seen_at > self._stale_after_ns
        if stale == self.is_stale:
            return False
        self.is_stale = stale
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
        if self._source_lost:
            return "recovering", self._source_lost
        if self.is_stale:
            return "stale", f"nothing from the venue for more than {self._stale_after_ns / 1e9:g} s"
        if channel is Channel.BOOK and self._book_waits:
            return "recovering", self._book_waits
        if channel is Channel.TRADES and self._trades_wait:
            return "recovering", self._trades_wait
        return "live", FLOWING
