"""When checkpoints are kept, segments cut, and objects uploaded.

    each snapshot_interval_s    rotate ──► all states, encoded a little at a time ──► checkpoint, kept here and uploaded
    each segment_max_age_s      the same, and the chunks up to there are cut: every quarter of an hour by the clock
    while something waits       upload

A checkpoint is never ahead of the journal on this disk, and chunks are only deleted once a checkpoint holds what is in
them: whenever the process ends, the next one finds where it was.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

import msgspec

from lfmesh.archive.journal import Journal
from lfmesh.archive.states import StatesWriter
from lfmesh.config import Config
from lfmesh.core.archive import StateLine
from lfmesh.core.sharding import stable_id
from lfmesh.errors import BadMeshFrame, StoreUnavailable
from lfmesh.ports import Context
from lfmesh.services.snapshotter.checkpoints import Checkpoints
from lfmesh.services.snapshotter.deposit import Deposit
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.services.snapshotter.journaling import Journaling
from lfmesh.services.snapshotter.primary import Pair
from lfmesh.services.snapshotter.workers import Workers
from lfmesh.types import StreamKey

_RETRY_NS = 5_000_000_000
"""What the disk has refused is tried again after this."""
_STANDBY_NS = 300_000_000_000
"""Who does not upload looks this often at what the other one has."""
_LOOK_NS = 15_000_000_000
"""Where nothing is to be uploaded, it is seen this often whether the store can be used."""
_TURN_S = 0.002
"""States are encoded for so long before the loop has another turn."""


class Upkeep:
    """One shard's; `beat` is called several times a second."""

    def __init__(  # noqa: PLR0913 - what it takes care of, put together in one place
        self, config: Config, context: Context, intake: Intake, journaling: Journaling, checkpoints: Checkpoints,
        deposit: Deposit, pair: Pair, shard: int, disk: Workers, uploads: Workers,
    ) -> None:  # fmt: skip
        section = config.archive
        self._section = section
        self._names = (config.venue.name, config.mesh.shards, shard, section.compression_level)
        self._context = context
        self._log = context.log
        self._intake = intake
        self._journaling = journaling
        self._journal: Journal = journaling.journal
        self._checkpoints = checkpoints
        self._deposit = deposit
        self._pair = pair
        self._disk = disk
        self._cutting = Workers("archive-cutter")
        self._uploads = uploads
        self._snapshot_ns = round(section.snapshot_interval_s * 1e9)
        self._age_ns = round(section.segment_max_age_s * 1e9)
        now = context.clock()
        self._checkpoint_at = now + stable_id(f"shard {shard}") % self._snapshot_ns
        self._period = -1 if self._journal.chunks() else now // self._age_ns  # what an earlier process has left
        self._refused_at = 0
        self._upload_at = 0
        self._looked_at = now
        self._idle = asyncio.Event()
        self._idle.set()
        self._uploading = self._primary = False
        self.fault = ""
        """Why checkpoints or segments can't be written to this disk; empty while they can."""
        self.checkpoints_total = 0

    def beat(self, now: int) -> None:
        """Begin what is due."""
        if self._idle.is_set() and not 0 <= now - self._refused_at < _RETRY_NS:
            if self._cut_is_due(now):
                self._begin(self._cut, now)
            elif not 0 < self._checkpoint_at - now <= self._snapshot_ns:
                self._begin(self._checkpoint, now)
        primary = self._pair.primary(now)
        if primary and not self._primary:
            self._upload_at = 0
        self._primary = primary
        if not self._uploading and self._upload_is_due(now):
            self._uploading = True
            self._context.spawn(self._upload(now))

    async def close(self, timeout_s: float) -> None:
        """Keep the states, cut and upload, as far as that is done in this time; then give everything free."""
        self._deposit.hurry()
        self._deposit.drain(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await self._journaling.flush(sync=True)
                await self._idle.wait()
                now = self._context.clock()
                # The states first: cutting a long journal may not come to its end.
                await self._cut(now, upload_first=True)
                await self._upload_now(now)
        except TimeoutError:
            self._log.warning("not all of the archive was cut and uploaded in time; the next start goes on with it")
        self._deposit.abandon()
        self._cutting.close()

    async def _upload_now(self, now: int) -> None:
        """At the end: what waits, if it is ours to upload and the store can be used."""
        if (self._pair.primary(now) or self._pair.alone) and not self._deposit.fault:
            overlaps = self._pair.may_overlap(now, 2 * self._age_ns)
            await self._uploads.run(self._deposit.upload, primary=True, overlaps=overlaps)

    @property
    def store_fault(self) -> str:
        """Why the object store can't be used; empty while it can."""
        return self._deposit.fault

    def figures(self, now: int) -> dict[str, float | None]:
        """Those of `SnapshotterStatistics` that it knows."""
        uploads = self._deposit.statistics()
        last = uploads.last_upload_ns
        return {
            "primary": self._pair.primary(now),
            "object_store_up": not self._deposit.fault,
            "checkpoints_total": self.checkpoints_total,
            "segments_cut_total": self._deposit.segments_cut,
            "spool_bytes": uploads.spool_bytes,
            "spool_objects": uploads.spool_objects,
            "dropped_tape_bytes_total": uploads.spool_dropped_bytes_total,
            "dropped_tape_objects_total": uploads.spool_dropped_total,
            "uploads_total": uploads.uploaded_total,
            "upload_bytes_total": uploads.uploaded_bytes_total,
            "upload_errors_total": self._deposit.errors_total,
            "last_upload_age_s": (now - last) / 1e9 if last else None,
        }

    # Checkpoints and segments -----------------------------------------------------------------------------------

    def _cut_is_due(self, now: int) -> bool:
        section = self._section
        return (
            now // self._age_ns != self._period
            or self._journal.bytes >= section.journal_max_bytes
            or self._journaling.tape.largest_bytes >= section.segment_max_bytes
        )

    def _begin(self, work: Callable[[int], Awaitable[object]], now: int) -> None:
        self._idle.clear()
        self._context.spawn(self._work(work, now))

    async def _work(self, work: Callable[[int], Awaitable[object]], now: int) -> None:
        try:
            await work(now)
        finally:
            self._idle.set()

    async def _cut(self, now: int, *, upload_first: bool = False) -> None:
        self._journaling.tape.cut()
        chunk = await self._checkpoint(now)
        if chunk is None:
            return
        if upload_first:
            await self._upload_now(now)
        try:
            done = await self._cutting.run(self._deposit.cut, chunk)
        except StoreUnavailable as error:
            self._refused(error)
            return
        self._period = now // self._age_ns
        self.fault = ""
        if done is not None and (done.damaged or done.aside):
            files = ", ".join(map(str, done.aside))
            self._log.error(
                "the journal was damaged: frames are missing in the archive", spans=done.damaged, aside=files
            )
        self._upload_at = 0

    async def _checkpoint(self, now: int) -> int | None:
        """Keep the states as they are now: the last of the journal's chunks that they hold wholly, None if refused."""
        self._checkpoint_at = now + self._snapshot_ns
        try:
            chunk = await self._disk.run(self._journal.rotate)
            writer = StatesWriter(*self._names)
            await self._encode(writer)
            if not writer.streams:
                return chunk
            name, body = await self._cutting.run(writer.finish)
            await self._disk.run(self._journal.sync)
            await self._disk.run(self._checkpoints.write, chunk, name, body)
            self.checkpoints_total += 1
            if self._pair.primary(now):
                await self._cutting.run(self._deposit.keep, name, body)
                self._upload_at = 0
        except StoreUnavailable as error:
            self._refused(error)
            return None
        self.fault = ""
        return chunk

    async def _encode(self, writer: StatesWriter) -> None:
        """Every stream's state, a few a turn of the loop; each is as it is in its turn."""
        lines: list[StateLine] = []
        newest = self._journaling.tape.newest_time
        began = perf_counter()
        for key in [state.key for state in self._intake.state]:
            line = self._line(key, newest)
            if line is not None:
                lines.append(line)
            if perf_counter() - began >= _TURN_S:
                await self._cutting.run(writer.add, lines)
                lines = []
                began = perf_counter()
        await self._cutting.run(writer.add, lines)

    def _line(self, key: StreamKey, newest: int) -> StateLine | None:
        """A stream's state; one of which the venue has told no time takes the newest of the others."""
        intake = self._intake
        state = intake.state.get(key)
        if state is None:
            return None
        try:
            text = state.content.text()
        except BadMeshFrame as error:
            intake.discard(key, str(error))
            return None
        time = self._journaling.tape.time(key) or newest or state.ts
        source = intake.input_of(state)[0]
        return StateLine(*key, state.term, *state.position, time, state.ts, source, msgspec.Raw(text))

    def _refused(self, error: StoreUnavailable) -> None:
        self._refused_at = self._context.clock()
        self._checkpoint_at = 0
        if str(error) != self.fault:
            self._log.error("the archive cannot be cut or its states kept; what is journaled waits", error=str(error))
        self.fault = str(error)

    # Uploads ----------------------------------------------------------------------------------------------------

    def _upload_is_due(self, now: int) -> bool:
        if 0 < self._upload_at - now <= _STANDBY_NS:
            return False
        looked = 0 <= now - self._looked_at < _LOOK_NS
        return bool(self._deposit.fault) or self._deposit.waiting > 0 or not looked

    async def _upload(self, now: int) -> None:
        self._looked_at = now
        primary = self._pair.primary(now)
        overlaps = self._pair.may_overlap(now, 2 * self._age_ns)
        before = self._deposit.fault
        try:
            pause = await self._uploads.run(self._deposit.upload, primary=primary, overlaps=overlaps)
        finally:
            self._uploading = False
        self._tell(before, self._deposit.fault)
        now = self._context.clock()
        if pause is not None:
            self._upload_at = now + round(pause * 1e9)
        elif not primary:
            self._upload_at = now + _STANDBY_NS

    def _tell(self, before: str, fault: str) -> None:
        if fault and fault != before:
            self._log.error("the object store cannot be used; what is archived waits on this disk", error=fault)
        elif before and not fault:
            self._log.info("the object store can be used again", waiting=self._deposit.waiting)
