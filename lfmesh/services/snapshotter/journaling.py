"""What is published goes into the journal: buffered on the loop, written by a worker thread.

Flushed each `flush_interval_s`, when much is buffered or a stream has begun an epoch (who knows that it began can ask
for what followed), and before states are written; synced each `sync_interval_s`.
"""

import asyncio
from collections.abc import Iterable
from time import perf_counter

from lfmesh.archive.journal import Journal
from lfmesh.config import ArchiveSection
from lfmesh.errors import BadMeshFrame, StoreUnavailable
from lfmesh.ports import Context
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.services.snapshotter.tape import Tape
from lfmesh.services.snapshotter.workers import Workers
from lfmesh.types import StreamKey

_TURN_S = 0.002
"""States are encoded for so long before the loop has another turn."""


class Journaling:
    """One journal and the tape that is written to it. What the disk refuses is in `fault`, and waits."""

    def __init__(
        self, journal: Journal, tape: Tape, intake: Intake, section: ArchiveSection, context: Context, disk: Workers
    ) -> None:
        self.journal = journal
        self.tape = tape
        self.fault = ""
        """Why it can't be written; empty while it can."""
        self._intake = intake
        self._context = context
        self._log = context.log
        self._disk = disk
        self._flush_s = section.flush_interval_s
        self._sync_ns = round(section.sync_interval_s * 1e9)
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flushed_at = self._synced_at = context.clock()
        self._to_tear: dict[StreamKey, bool] = {}
        self._tearing = False
        self._ending = self._over = False

    def begin(self) -> None:
        """Flush from time to time, from now on."""
        self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._again)

    def end(self) -> None:
        """No more of that; no state waits for a time any longer."""
        self._ending = True
        self.tape.settle()
        if self._timer is not None:
            self._timer.cancel()

    async def close(self) -> None:
        """Write what is left and give the journal free. StoreUnavailable: it is lost."""
        self.end()
        async with self._lock:
            self.tape.settle()
            if not self._over:
                self._over = True
                await self._disk.run(self.journal.close)

    def settled(self) -> None:
        """After each turn: if much is buffered, or a stream has begun an epoch, it is written now."""
        if (self.journal.due or self.tape.begins) and not self._lock.locked() and not self._ending:
            self._context.spawn(self.flush())

    async def flush(self, *, sync: bool = False) -> None:
        """Write what has been published before this call, and with `sync` bring it onto the disk itself."""
        async with self._lock:
            if self._over:
                return
            now = self._context.clock()
            sync = sync or not 0 <= now - self._synced_at < self._sync_ns
            if not sync and not self.journal.buffered and not self.fault:
                self._flushed_at = now
                return
            self.tape.begins = False
            try:
                await self._disk.run(self.journal.sync if sync else self.journal.flush)
            except StoreUnavailable as error:
                self.note(error)
            else:
                self._recovered()
                self._flushed_at = now
                if sync:
                    self._synced_at = now
                # Not while it refuses: what would be put in place of what is lost would push out more.
                self._to_tear.update(dict.fromkeys(self.journal.take_lost(), False))
        if self._to_tear and not self.fault and not self._tearing:
            self._tearing = True
            if self._ending:
                await self._tear_some()
            else:
                self._context.spawn(self._tear_some())

    def tear(self, key: StreamKey) -> None:
        """The tape of this stream does not lead to its state: the state goes into it."""
        state = self._intake.state.get(key)
        if state is None:
            self.tape.given_up(key)
            return
        try:
            parts = state.content.parts()
        except BadMeshFrame as error:
            self.tape.given_up(key)
            self._intake.discard(key, str(error))
        else:
            self.tape.torn(state, parts, self._intake.feed.publisher, state.input)

    def begin_with(self, keys: Iterable[StreamKey]) -> None:
        """The tape of these streams begins with their states, a few a turn of the loop."""
        keys = list(keys)
        self.tape.awaits(keys)
        self._to_tear.update(dict.fromkeys(keys, True))
        if self._to_tear and not self._tearing:
            self._tearing = True
            self._context.spawn(self._tear_some())

    async def _tear_some(self) -> None:
        """What is to be torn, as far as the disk takes it; the rest waits for the next flush."""
        try:
            began = perf_counter()
            while self._to_tear and not self.fault and not self._over:
                key = next(iter(self._to_tear))
                first = self._to_tear.pop(key)
                if not first or self.tape.is_awaited(key):
                    self.tear(key)
                if self.journal.due:
                    await self.flush()
                    began = perf_counter()
                elif perf_counter() - began >= _TURN_S:
                    await asyncio.sleep(0)
                    began = perf_counter()
        finally:
            self._tearing = False

    def note(self, error: StoreUnavailable) -> None:
        """The disk has refused something."""
        if str(error) != self.fault:
            self._log.error("the archive cannot be written; the mesh goes on without it", error=str(error))
        self.fault = str(error)

    def figures(self, now: int) -> dict[str, float | None]:
        """Those of `SnapshotterStatistics` that it knows."""
        return {
            "journal_bytes": self.journal.bytes,
            # At most: since the last flush began.
            "journal_lag_ms": max(0.0, (now - self._flushed_at) / 1e6) if self.journal.buffered else 0.0,
            "journal_lost_frames_total": self.journal.lost_frames_total,
        }

    def _again(self) -> None:
        self.begin()
        if not self._lock.locked():
            self._context.spawn(self.flush())

    def _recovered(self) -> None:
        if self.fault:
            self._log.info("the archive can be written again")
        self.fault = ""
