"""What is published goes into the journal, also when the disk refuses it for a while."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lfmesh.archive.journal import Entry, Journal, read
from lfmesh.config import ArchiveSection
from lfmesh.core.codec import Flags
from lfmesh.services.snapshotter.journaling import Journaling
from lfmesh.services.snapshotter.tape import Tape
from lfmesh.services.snapshotter.workers import Workers
from lfmesh.types import Position
from tests.aio import eventually, run
from tests.services.snapshotter.link import BOOK, TICKER, Link
from tests.services.snapshotter.world import Supervisor, supervised


class Bench(Link):
    """An intake whose tape goes into a journal, on a clock that is moved by hand."""

    def __init__(self, folder: Path, supervisor: Supervisor, pending_bytes: int) -> None:
        super().__init__()
        self.folder = folder
        self.supervisor = supervisor
        self.journal = Journal(folder, pending_bytes=pending_bytes)
        self.tape = self.intake.tape = Tape(0, self.journal.append)
        self.disk = Workers("disk")
        self.journaling = Journaling(
            self.journal, self.tape, self.intake, ArchiveSection(flush_interval_s=0.01),
            supervisor.context(lambda: self.now), self.disk,
        )  # fmt: skip

    def entries(self) -> list[Entry]:
        return list(read(self.folder))


@asynccontextmanager
async def bench(folder: Path, pending_bytes: int = 1 << 20) -> AsyncIterator[Bench]:
    async with supervised() as supervisor:
        made = Bench(folder, supervisor, pending_bytes)
        try:
            yield made
        finally:
            made.journaling.end()
            made.journal.close()
            made.disk.close()


def test_it_is_flushed_from_time_to_time(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench(tmp_path) as made:
            made.journaling.begin()
            made.take(made.source.open(BOOK))
            await eventually(lambda: len(made.entries()) == 1)
            made.take(made.source.increment(BOOK, [1, 2]))
            assert made.journaling.figures(made.now)["journal_lag_ms"] is not None
            await eventually(lambda: len(made.entries()) == 2)

    run(body())


def test_what_was_published_before_a_flush_is_in_the_journal_after_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench(tmp_path) as made:
            made.take(made.source.open(BOOK))
            made.now += 7_000_000
            assert made.journaling.figures(made.now)["journal_lag_ms"] == 7.0
            await made.journaling.flush()
            assert made.journaling.figures(made.now)["journal_lag_ms"] == 0.0
            assert [entry.stream for entry in made.entries()] == [BOOK]

    run(body())


def test_frames_that_the_disk_did_not_take_in_time_are_a_hole(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench(tmp_path, pending_bytes=3000) as made:
            for key in (BOOK, TICKER):
                made.take(made.source.open(key))
            for number in range(30):
                made.take(made.source.increment(BOOK, [number]))
            await made.journaling.flush()
            await made.journaling.flush()
            assert made.journaling.figures(made.now)["journal_lost_frames_total"]
            last = {key: [one for one in made.entries() if one.stream == key][-1] for key in (BOOK, TICKER)}
            for key, entry in last.items():
                position = made.source.streams[key].position
                assert entry.header.flags & Flags.SNAPSHOT
                assert Position(entry.header.epoch, entry.header.first_seq) == position
                assert (entry.header.prev_epoch, entry.header.prev_seq) == (0, 0)
                assert made.source.streams[key].state(key.channel).encode() in entry.messages[0]

    run(body())


def test_a_disk_that_refuses_is_said_once_and_the_mesh_goes_on(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench(tmp_path) as made:
            made.take(made.source.open(BOOK))
            made.journal.close()
            made.take(made.source.increment(BOOK, [1]))
            for _ in range(3):
                await made.journaling.flush()
            assert "is closed" in made.journaling.fault
            event = "the archive cannot be written; the mesh goes on without it"
            assert len(made.supervisor.events(event)) == 1

    run(body())
