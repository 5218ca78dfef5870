"""The archive's side of the snapshotter, put together: journal, upkeep, and answers from what is archived.

    intake.tape ──► journaling ──► states may be written
                        └──► upkeep: checkpoints, segments, uploads
    requests ──► lookups ──► archived ──► journal, spool and object store

On the loop only buffers are filled and states encoded, a little at a time; everything else has threads of its own: one
for the journal and what belongs to a start, one for cutting, one for uploads, four for answers. What the disk or the
store refuses is said in readiness, and tried again: the mesh goes on.
"""

import asyncio
from collections.abc import Callable, Iterable

from lfmesh.archive import journal, places
from lfmesh.archive.cutter import Pace
from lfmesh.archive.reader import Archive
from lfmesh.config import Config
from lfmesh.errors import BadArchive, StoreMisconfigured, StoreUnavailable
from lfmesh.messages import RetransmitRequest, SnapshotRequest
from lfmesh.ports import Context, ObjectStore
from lfmesh.services.snapshotter.archived import Archived, Publisher
from lfmesh.services.snapshotter.checkpoints import Checkpoints
from lfmesh.services.snapshotter.deposit import Deposit, Local, open_local
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.services.snapshotter.journaling import Journaling
from lfmesh.services.snapshotter.lookups import Lookups
from lfmesh.services.snapshotter.primary import Pair
from lfmesh.services.snapshotter.restore import Restoration, Restored
from lfmesh.services.snapshotter.retaining import Retaining
from lfmesh.services.snapshotter.tape import Tape
from lfmesh.services.snapshotter.upkeep import Upkeep
from lfmesh.services.snapshotter.workers import Workers
from lfmesh.transport import Responder
from lfmesh.types import StreamKey

OpenObjects = Callable[[], ObjectStore]
"""Opens the object store, in a worker thread, whether it can be reached or not."""

_PATIENCE_S = 2.0
"""A start waits so long for the object store to say that it can be used."""
_RETRY_NS = 5_000_000_000
"""A disk that could not be written at the start is tried again after this."""
_CLOSE_S = 0.5
"""What closing the files may take at the end."""


class Archiving:
    """One shard's archive, as one snapshotter keeps it."""

    def __init__(
        self, config: Config, context: Context, intake: Intake, pair: Pair, instance: str, shard: int,
        open_objects: OpenObjects, retaining: Retaining,
    ) -> None:  # fmt: skip
        self._config = config
        self._context = context
        self._log = context.log
        self._intake = intake
        self._pair = pair
        self._instance = instance
        self._shard = shard
        self._open_objects = open_objects
        self._retaining = retaining
        folder = config.mesh.data_dir
        self._checkpoints = Checkpoints(
            places.checkpoint_folder(folder, instance), config.venue.name, config.mesh.shards, shard
        )
        self._folders = [places.journal_folder(folder, instance), places.spool_folder(folder, instance)]
        self._disk = Workers("journal")
        self._uploads = Workers("archive-upload")
        self._objects: ObjectStore | None = None
        self._unreached = ""
        self._local: Local | None = None
        self._journaling: Journaling | None = None
        self._upkeep: Upkeep | None = None
        self._lookups: Lookups | None = None
        self._chunks: list[int] | None = None
        self._fault = ""
        self._tried_at = 0
        self._opening = False
        self._closed = False

    # Start and end ----------------------------------------------------------------------------------------------

    async def open(self, restoration: Restoration) -> None:
        """Open everything, and give `restoration` what was kept beside the journal. StoreMisconfigured.

        Where this disk can't be written the service goes on without an archive, and tries again. The object store may
        be out of reach.
        """
        objects = self._objects = await self._uploads.run(self._open_objects)
        reaching = asyncio.ensure_future(self._reach(objects))
        await self._open_local()
        await self._read_kept(restoration)
        await asyncio.wait((reaching,), timeout=_PATIENCE_S)
        if reaching.done():
            reaching.result()
        else:
            self._unreached = "it does not answer"
            self._context.spawn(_ended(reaching))
        archive = Archive(objects, self._config.venue.name, self._folders, rest=Pace().look)
        archived = Archived(self._shard, archive)
        self._lookups = Lookups(archived, self._context, self._intake.counters.requests_total, self.flush)

    async def replay(self, restoration: Restoration) -> None:
        """Give it the journal's entries after the checkpoint."""
        try:
            await self._disk.run(lambda: restoration.entries(journal.read(self._folders[0], self._chunks)))
        except (BadArchive, StoreUnavailable) as error:
            self._log.error("the journal can't be read to its end; what it is about is taken anew", error=str(error))

    def begin(self, restored: Iterable[Restored]) -> None:
        """From now on what the intake takes is archived; these streams go on from where they are."""
        if self._local is None:
            return
        tape = Tape(self._shard, self._local.journal.append)
        journaling = self._keep(self._local, tape)
        torn = 0
        for one in restored:
            if one.journaled is not None:
                tape.goes_on(one.state.key, one.journaled, one.time)
            if one.torn:
                torn += 1
                journaling.tear(one.state.key)
        if torn:
            self._log.warning("the archive does not reach to where these streams are: it has a hole", streams=torn)

    async def close(self, timeout_s: float) -> None:
        """Flush, keep the states, cut and upload, as far as that is done in this time; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._retaining.close()
        if self._lookups is not None:
            self._lookups.close()
        if self._journaling is not None and self._upkeep is not None:
            self._journaling.end()
            await self._upkeep.close(timeout_s)
        try:
            async with asyncio.timeout(_CLOSE_S):
                if self._journaling is not None:
                    await self._journaling.close()
                await self._disk.run(self._close_files)
        except (TimeoutError, StoreUnavailable) as error:
            self._log.error("the journal was not closed in order", error=str(error) or "the disk does not answer")
        self._disk.close()
        self._uploads.close()

    # While it runs ----------------------------------------------------------------------------------------------

    def beat(self, now: int) -> None:
        """Several times a second: begin what is due."""
        if self._closed:
            return
        if self._upkeep is not None:
            self._upkeep.beat(now)
            if self._objects is not None and not self._upkeep.store_fault:
                self._retaining.beat(now, self._objects)
        elif not self._opening and not 0 <= now - self._tried_at < _RETRY_NS:
            self._opening = True
            self._context.spawn(self._begin_late())

    def settled(self) -> None:
        """After each turn of the loop."""
        if self._journaling is not None:
            self._journaling.settled()

    async def flush(self) -> None:
        """What has been published so far is in the journal when this is over, unless the disk refuses it."""
        if self._journaling is not None:
            await self._journaling.flush()

    def adopted(self, key: StreamKey) -> None:
        """The stream's state did not come from the tape."""
        if self._journaling is not None:
            self._journaling.tear(key)

    def answer(self, request: RetransmitRequest | SnapshotRequest, responder: Responder) -> None:
        """From what is archived, off the loop."""
        assert self._lookups is not None
        feed = self._intake.feed
        self._lookups.answer(request, Publisher(feed.term, feed.publisher), responder)

    def reasons(self) -> list[str]:
        """Why it can't do its work."""
        if self._journaling is None or self._upkeep is None:
            return [f"archive: {self._fault}"] if self._fault else []
        disk = self._journaling.fault or self._upkeep.fault
        store = self._upkeep.store_fault
        return [*([f"archive: {disk}"] if disk else []), *([f"object store: {store}"] if store else [])]

    def figures(self, now: int) -> dict[str, float | None]:
        """Those of `SnapshotterStatistics` that are the archive's."""
        if self._journaling is None or self._upkeep is None:
            return {"primary": self._pair.primary(now), "object_store_up": False}
        deleted = self._retaining.deleted
        return {
            **self._journaling.figures(now),
            **self._upkeep.figures(now),
            "retention_deleted_objects_total": deleted.objects,
            "retention_deleted_bytes_total": deleted.bytes,
        }

    # Inside -----------------------------------------------------------------------------------------------------

    async def _reach(self, objects: ObjectStore) -> None:
        try:
            await self._uploads.run(objects.check)
        except StoreMisconfigured:
            raise
        except StoreUnavailable as error:
            self._unreached = str(error)
            self._log.error("the object store cannot be used; what is archived waits on this disk", error=str(error))

    async def _open_local(self) -> None:
        self._tried_at = self._context.clock()
        try:
            local = self._local = await self._disk.run(open_local, self._config, self._instance)
        except StoreUnavailable as error:
            if str(error) != self._fault:
                self._log.error("the archive cannot be written; the mesh goes on without it", error=str(error))
            self._fault = str(error)
            return
        self._fault = ""
        if local.aside:
            self._log.error("the journal was damaged: frames are missing", aside=", ".join(map(str, local.aside)))

    async def _read_kept(self, restoration: Restoration) -> None:
        """What was kept beside the journal, and which of its chunks are not in that."""
        if self._local is not None:
            try:
                restoration.cut(await self._disk.run(self._local.cutter.marks))
            except StoreUnavailable as error:
                self._log.error("it is not known how far the tape was cut", error=str(error))
        try:
            found = await self._disk.run(self._checkpoints.newest)
        except (BadArchive, StoreUnavailable) as error:
            self._log.error("the last checkpoint can't be read; going on without it", error=str(error))
            return
        if found is None:
            return
        restoration.checkpoint(found.lines)
        numbers = await self._disk.run(journal.chunk_numbers, self._folders[0])
        if numbers and numbers[-1] > found.chunk:  # else the journal is another one
            self._chunks = [number for number in numbers if number > found.chunk]

    async def _begin_late(self) -> None:
        """The disk may be written again: what has come meanwhile is a hole."""
        await self._open_local()
        self._opening = False
        if self._local is None or self._closed:
            return
        self._log.info("the archive can be written")
        journaling = self._keep(self._local, Tape(self._shard, self._local.journal.append))
        journaling.begin_with(state.key for state in self._intake.state)

    def _keep(self, local: Local, tape: Tape) -> Journaling:
        assert self._objects is not None
        section = self._config.archive
        journaling = self._journaling = Journaling(
            local.journal, tape, self._intake, section, self._context, self._disk
        )
        deposit = Deposit(local, self._objects, self._config, self._context.clock, self._unreached)
        self._upkeep = Upkeep(
            self._config, self._context, self._intake, journaling, self._checkpoints, deposit, self._pair,
            self._shard, self._disk, self._uploads,
        )  # fmt: skip
        self._intake.tape = tape
        journaling.begin()
        return journaling

    def _close_files(self) -> None:
        try:
            if self._local is not None:
                self._local.close()
        finally:
            if self._objects is not None:
                self._objects.close()


async def _ended(task: asyncio.Future[None]) -> None:
    await task
