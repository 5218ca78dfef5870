"""Where the archive lacks messages: going on from a later state of its own, before the tape has a snapshot again.

A stream that lacks something may have a state in a snapshot of its shard, which is taken each minute or so. From time
to time one is looked for, as of what has just been played, and nothing is played meanwhile.
"""

from collections.abc import Callable

from lfmesh.ports import Clock
from lfmesh.services.player.reel import Reel
from lfmesh.services.player.stage import Stage

PAUSE_NS = 15_000_000_000
MAX_PAUSE_NS = 3600_000_000_000
"""Of the archive's time: after so long it is looked again if there was none, then after twice as long, and so on."""


class Mending:
    """See the module's docstring. `at`: a state as of this moment is to be looked for now."""

    def __init__(self, stage: Stage, clock: Clock) -> None:
        self.at: int | None = None
        self.mended = 0
        self._stage = stage
        self._clock = clock
        self._next = 0
        self._pause_ns = PAUSE_NS

    def begin_anew(self) -> None:
        """The replay goes on from another moment."""
        self.at, self._next, self._pause_ns = None, 0, PAUSE_NS

    def look(self, reached: int) -> bool:
        """Everything up to this moment has been played; True if it is time to look for states."""
        if self._stage.counters.holes and reached >= self._next and self._stage.lacking:
            self.at = reached
        return self.at is not None

    async def mend(self, reel: Reel, wanted: Callable[[], bool]) -> int:
        """Look for them; how many streams go on. Of no effect where it is not `wanted` any more."""
        at, streams = self.at, self._stage.lacking
        assert at is not None
        states = await reel.states(streams, at, wanted)
        if states is None or self.at != at or not wanted():
            return 0
        now = self._clock()
        mended = sum([self._stage.mend(state, now) for state in states])
        self.mended += mended
        if mended == len(streams):
            self._pause_ns = PAUSE_NS
            self.at, self._next = None, at + self._pause_ns
        else:
            self.put_off()
        return mended

    def put_off(self) -> None:
        """They, or some, can't be had as of this moment."""
        at = self.at
        assert at is not None
        self._pause_ns = min(2 * self._pause_ns, MAX_PAUSE_NS)
        self.at, self._next = None, at + self._pause_ns
