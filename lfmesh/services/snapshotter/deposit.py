"""From the journal to the object store, as far as it blocks: what the archive's worker threads do.

    journal ──cut──► spool ──(what another one has stored is let go)──► object store

Cutting and uploading have a thread each. `lfmesh.services.snapshotter.archiving` says when.
"""

from pathlib import Path
from typing import NamedTuple

from lfmesh.archive import places
from lfmesh.archive.cutter import Cut, Cutter
from lfmesh.archive.journal import Journal
from lfmesh.archive.spool import Spool
from lfmesh.archive.uploader import Uploader, UploaderStatistics
from lfmesh.config import Config
from lfmesh.core.archive import SnapshotName
from lfmesh.errors import StoreUnavailable
from lfmesh.ports import Clock, ObjectStore
from lfmesh.services.snapshotter.covered import let_go

_RETRY_S = 2.0


class Local(NamedTuple):
    """What is on this disk, opened to write."""

    journal: Journal
    spool: Spool
    cutter: Cutter
    aside: tuple[Path, ...]
    """Damaged files of an earlier process, which were renamed."""

    def close(self) -> None:
        """Give it free. StoreUnavailable: some of the journal is lost."""
        try:
            self.journal.close()
        finally:
            self.spool.close()


def open_local(config: Config, instance: str) -> Local:
    """Open journal and spool of an instance, and complete what an earlier process has left. StoreUnavailable."""
    section, folder = config.archive, config.mesh.data_dir
    journal = Journal(places.journal_folder(folder, instance), section.flush_bytes)
    try:
        spool = Spool(places.spool_folder(folder, instance), section.spool_max_bytes)
    except StoreUnavailable:
        journal.close()
        raise
    cutter = Cutter(
        journal, spool, config.venue.name,
        segment_max_bytes=section.segment_max_bytes, level=section.compression_level,
    )  # fmt: skip
    try:
        return Local(journal, spool, cutter, cutter.recover())
    except StoreUnavailable:
        spool.close()
        journal.close()
        raise


class Deposit:
    """One snapshotter's. `fault`: why `objects` can't be used yet, empty if it can."""

    def __init__(self, local: Local, objects: ObjectStore, config: Config, clock: Clock, fault: str = "") -> None:
        self._local = local
        self._objects = objects
        self._venue = config.venue.name
        self._level = config.archive.compression_level
        self._max_age_ns = round(2 * config.archive.segment_max_age_s * 1e9)
        self._clock = clock
        self._uploader = Uploader(local.spool, objects, clock)
        self._seen: dict[str, int] = {}
        self._reached = not fault
        self._fault = fault
        self._errors = int(bool(fault))
        self.segments_cut = 0

    @property
    def fault(self) -> str:
        """Why the object store can't be used; empty while it can."""
        return self._fault

    @property
    def errors_total(self) -> int:
        """Failed attempts to reach it."""
        return self._errors + self._uploader.statistics().errors_total

    def statistics(self) -> UploaderStatistics:
        """Of the uploads so far, and of what waits."""
        return self._uploader.statistics()

    def cut(self, up_to: int) -> Cut | None:
        """Cut the journal's chunks up to and with this number; None: it was abandoned. StoreUnavailable."""
        done = self._local.cutter.cut(up_to)
        self.segments_cut += 0 if done is None else len(done.segments)
        return done

    def keep(self, name: SnapshotName, body: bytes) -> None:
        """A shard's snapshot is to be uploaded. StoreUnavailable."""
        self._local.spool.put(name.key, body)

    def upload(self, *, primary: bool, overlaps: bool) -> float | None:
        """Bring to the store what waits; the pause in s before the next attempt if it can't be used, else None.

        `overlaps`: another one may have stored some of it. Who is not the primary uploads only what nobody has stored
        although it has been waiting for long.
        """
        try:
            if not self._reached:
                self._objects.check()
                self._reached = True
            if not self.waiting:
                next(iter(self._objects.list("?")), None)  # nothing has such a key: is the store there?
            elif overlaps or not primary:
                let_go(self._local.spool, self._objects, self._venue, self._level)
        except StoreUnavailable as error:
            self._failed(str(error))
            self._errors += 1
            return _RETRY_S
        if not primary and not self._is_overdue():
            self._fault = ""
            return None
        pause = self._uploader.upload()
        if pause is not None:
            self._failed(self._uploader.fault)
            return pause
        self._fault = ""
        return None

    @property
    def waiting(self) -> int:
        """Objects that wait for the store."""
        return len(self._local.spool)

    def hurry(self) -> None:
        """Cut without rests. From any thread."""
        self._local.cutter.hurry()

    def abandon(self) -> None:
        """End a cut that is under way before it counts. From any thread."""
        self._local.cutter.abandon()

    def drain(self, seconds: float) -> None:
        """`upload` is to return after this time at the latest, but for an object that is under way. From any thread."""
        self._uploader.end(seconds)

    # Inside -----------------------------------------------------------------------------------------------------

    def _failed(self, fault: str) -> None:
        self._fault = fault
        self._reached = False

    def _is_overdue(self) -> bool:
        """True if something has been waiting for longer than the primary could take to store it."""
        now = self._clock()
        self._seen = {one.key: self._seen.get(one.key, now) for one in self._local.spool.objects()}
        return any(now - since > self._max_age_ns for since in self._seen.values())
