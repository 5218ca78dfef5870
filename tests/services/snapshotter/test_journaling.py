"""What is published goes into the journal, also when the disk refuses it for a while."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from lfmesh.archive.journal import Entry, Journal, read
from lfmesh.config import ArchiveSection
from lfmesh.core.codec import Flags
from lfmesh.core.state import StreamState
from lfmesh.services.snapshotter import journaling
from lfmesh.services.snapshotter.journaling import Journaling
from lfmesh.services.snapshotter.tape import Tape
from lfmesh.services.snapshotter.workers import Workers
from lfmesh.types import InputPosition, Position, StreamKey
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

    async def torn(self) -> None:
        """Flush; what was lost is torn, and in the journal."""
        await self.journaling.flush()
        await asyncio.gather(*self.supervisor.tasks)
        await self.journaling.flush()

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
            await made.torn()
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


def test_while_the_disk_refuses_nothing_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each state would push out more of what waits, and the loop would do nothing but encode them."""
    encoded: list[StreamKey] = []
    torn = Tape.torn

    def counted(tape: Tape, state: StreamState, parts: Sequence[bytes], instance: int, source: InputPosition) -> None:
        encoded.append(state.key)
        torn(tape, state, parts, instance, source)

    monkeypatch.setattr(Tape, "torn", counted)

    def refused(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    async def body() -> None:
        async with bench(tmp_path, pending_bytes=3000) as made:
            for key in (BOOK, TICKER):
                made.take(made.source.open(key))
            await made.journaling.flush()
            with monkeypatch.context() as full:
                full.setattr(os, "pwrite", refused)
                for number in range(1, 60):
                    made.take(made.source.increment(BOOK, [number]))
                    made.take(made.source.increment(TICKER, [number]))
                    if number % 10 == 0:
                        await made.journaling.flush()
                assert "the disk is full" in made.journaling.fault
                assert made.journaling.figures(made.now)["journal_lost_frames_total"]
                await asyncio.gather(*made.supervisor.tasks)
                assert encoded == []
            await made.torn()
            assert made.journaling.fault == ""
            assert sorted(encoded) == sorted([BOOK, TICKER]), "once each"
            for key in (BOOK, TICKER):
                last = [one for one in made.entries() if one.stream == key][-1]
                assert last.header.flags & Flags.SNAPSHOT
                assert Position(last.header.epoch, last.header.first_seq) == made.source.streams[key].position

    run(body())


def test_many_states_leave_the_loop_its_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journaling, "perf_counter", count(step=0.0015).__next__)

    async def body() -> None:
        async with bench(tmp_path) as made:
            keys = [StreamKey(f"P{number}-USD", BOOK.channel) for number in range(20)]
            made.intake.tape = None
            for key in keys:
                made.take(made.source.open(key))
            made.intake.tape = made.tape
            made.journaling.begin_with(keys)
            turns = 0
            while made.supervisor.tasks:
                turns += 1
                await asyncio.sleep(0)
                if turns == 3:
                    made.take(made.source.increment(keys[-1], [5]))
                    assert made.tape.is_awaited(keys[-1]), "its turn has not come"
            assert turns >= len(keys) // 2
            made.take(made.source.increment(keys[-1], [6]))
            made.journaling.end()
            await made.journaling.flush()
            assert {one.stream for one in made.entries()} == set(keys)
            mine = [one.header for one in made.entries() if one.stream == keys[-1]]
            assert [(bool(one.flags & Flags.SNAPSHOT), one.first_seq) for one in mine] == [(True, 1), (False, 2)]

    run(body())
