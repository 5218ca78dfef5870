"""What the archive is not to keep any longer is deleted, as the configuration says: by age since writing, and by size.

One snapshotter does it for all of what a store holds: of those that are listed (and share the store) the one of the
lowest shard, by name. Two that take themselves for it at once do no harm: what is deleted is the oldest either way.
"""

from collections.abc import Iterable
from typing import NamedTuple

from lfmesh.archive.retention import Retention, delete
from lfmesh.config import Config
from lfmesh.errors import StoreUnavailable
from lfmesh.messages import ServiceRecord
from lfmesh.ports import Context, ObjectStore
from lfmesh.services.snapshotter.workers import Workers
from lfmesh.types import Role

FIRST_NS = 30_000_000_000
"""After its start a snapshotter waits so long: by then it knows the others."""
PERIOD_NS = 600_000_000_000


class Deleted(NamedTuple):
    """What has gone."""

    objects: int = 0
    bytes: int = 0


class Retaining:
    """`host`: only snapshotters on this machine share the store (None: it is reached from everywhere)."""

    def __init__(
        self, config: Config, context: Context, shard: int, instance: str, host: str | None, first_ns: int = FIRST_NS
    ) -> None:
        section = config.archive
        self._venue = config.venue.name
        self._max_age_s, self._max_bytes = section.retention_age_s, section.retention_bytes
        self._context = context
        self._log = context.log
        self._place = (shard, instance)
        self._host = host
        self._first = True
        self._due = context.clock() + first_ns
        self._worker: Workers | None = None
        self._fault = ""
        self._closed = False
        self.deleted = Deleted()

    def see(self, peers: Iterable[ServiceRecord]) -> None:
        """The merged view of the mesh has changed."""
        self._first = all(
            self._place <= (record.shard or 0, record.instance)
            for record in peers
            if record.role is Role.SNAPSHOTTER and self._host in (None, record.host)
        )

    def beat(self, now: int, objects: ObjectStore) -> None:
        """Begin what is due."""
        wanted = self._max_age_s or self._max_bytes
        if not wanted or not self._first or self._closed or 0 < self._due - now <= PERIOD_NS:
            return
        self._due = now + PERIOD_NS
        if self._worker is None:
            self._worker = Workers("archive-retention")
        self._context.spawn(self._run(self._worker, objects, now))

    def close(self) -> None:
        """What is under way ends soon; idempotent."""
        self._closed = True
        if self._worker is not None:
            self._worker.close()

    async def _run(self, worker: Workers, objects: ObjectStore, now: int) -> None:
        try:
            deleted = await worker.run(self._thin, objects, now)
        except StoreUnavailable as error:
            if str(error) != self._fault:
                self._log.warning("what the archive is not to keep can't be deleted", error=str(error))
            self._fault = str(error)
            return
        self._fault = ""
        if deleted.objects:
            self._log.info("deleted from the archive, as too old or too much", **deleted._asdict())

    def _thin(self, objects: ObjectStore, now: int) -> Deleted:
        retention = Retention(objects, self._venue, now, max_age_s=self._max_age_s, max_bytes=self._max_bytes)
        count = size = 0
        for one in delete(objects, retention.doomed()):
            count += 1
            size += one.stored.size
            self.deleted = Deleted(self.deleted.objects + 1, self.deleted.bytes + one.stored.size)
            if self._closed:
                break
        return Deleted(count, size)
