"""The cutter: whatever happens, every message that was flushed is in exactly one segment, in order, without a hole."""

import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from lfmesh.archive import records
from lfmesh.archive.cutter import Cut, Cutter, Pace
from lfmesh.archive.journal import Entry, Journal, chunk_path, read
from lfmesh.archive.segments import Line, Mark
from lfmesh.archive.segments import read as read_segment
from lfmesh.archive.spool import Spool, waiting
from lfmesh.core.archive import parse_segment
from lfmesh.errors import BadArchive, StoreUnavailable
from lfmesh.types import CHANNELS, Position, StreamKey
from tests.archive.published import BTC, ETH, NOW, SECOND, frame, increments, messages, opening


class Desk(NamedTuple):
    journal: Journal
    spool: Spool
    cutter: Cutter


@contextmanager
def desk(folder: Path, **options: object) -> Iterator[Desk]:
    """A journal, its spool and the cutter between them."""
    journal = Journal(folder / "journal", chunk_bytes=2000)
    try:
        spool = Spool(folder / "spool")
        try:
            yield Desk(journal, spool, Cutter(journal, spool, "coinbase", pace=Pace(rest_s=0), **options))  # type: ignore[arg-type] # any of its options
        finally:
            spool.close()
    finally:
        journal.close()


def journaled(journal: Journal, entries: Sequence[Entry]) -> int:
    for entry in entries:
        journal.append(entry.stream, frame(entry))
        journal.flush()
    return journal.rotate()


def cut(desk: Desk, up_to: int) -> Cut:
    result = desk.cutter.cut(up_to)
    assert result is not None
    return result


def spooled(folder: Path) -> dict[StreamKey, list[Line]]:
    """The lines of all segments in the spool, by stream, in the order of their names."""
    found: dict[StreamKey, list[Line]] = defaultdict(list)
    for one in sorted(waiting(folder / "spool")):
        name = parse_segment(one.key)
        assert name is not None
        found[name.stream] += read_segment(name, (folder / "spool" / one.key).read_bytes())
    return dict(found)


def texts(folder: Path) -> dict[StreamKey, list[bytes]]:
    return {stream: [line.message for line in lines] for stream, lines in spooled(folder).items()}


def of(entries: Sequence[Entry], stream: StreamKey) -> list[bytes]:
    return messages([entry for entry in entries if entry.stream == stream])


BEGIN = NOW - 60 * SECOND
FIRST = [
    opening(BTC, Position(5, 0), previous=Position(4, 9)),
    *(increments(stream, Position(5, 1 + 3 * n), 3, BEGIN + n * SECOND) for n in range(6) for stream in (BTC, ETH)),
]
SECOND_LOT = [increments(stream, Position(5, 19 + n), 1, BEGIN + 9 * SECOND) for n in range(6) for stream in (BTC, ETH)]


def test_chunks_become_segments_and_go(tmp_path: Path) -> None:
    with desk(tmp_path) as (journal, spool, cutter):
        number = journaled(journal, FIRST)
        assert number > 1
        result = cut(Desk(journal, spool, cutter), number)
        assert result.messages == len(messages(FIRST))
        assert (result.duplicates, result.damaged, result.aside) == (0, 0, ())
        assert {name.key for name in result.segments} == {one.key for one in spool.objects()}
        assert result.bytes == spool.size_bytes
        assert journal.chunks() == []
        assert texts(tmp_path) == {stream: of(FIRST, stream) for stream in (BTC, ETH)}
        marks = cutter.marks()
        assert marks[BTC] == Mark(BEGIN + 5 * SECOND + 2_000_000, Position(5, 18))
        assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == [".lock", ".new", "tape"]
        assert cut(Desk(journal, spool, cutter), number) == Cut([])


def test_only_the_chunks_asked_for_are_cut(tmp_path: Path) -> None:
    with desk(tmp_path) as (journal, spool, cutter):
        number = journaled(journal, FIRST)
        last = journaled(journal, SECOND_LOT)
        cut(Desk(journal, spool, cutter), number)
        assert texts(tmp_path) == {stream: of(FIRST, stream) for stream in (BTC, ETH)}
        assert list(read(journal.folder)) == SECOND_LOT
        cut(Desk(journal, spool, cutter), last)
        assert texts(tmp_path) == {stream: of(FIRST + SECOND_LOT, stream) for stream in (BTC, ETH)}


def test_the_same_journal_gives_the_same_segments(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with desk(tmp_path / name) as made:
            cut(made, journaled(made.journal, FIRST))
    keys = [[one.key for one in sorted(waiting(tmp_path / name / "spool"))] for name in ("one", "other")]
    assert keys[0] == keys[1]


def test_clock_and_position_go_on_across_cuts_and_restarts(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        cut(made, journaled(made.journal, FIRST))
    late = [*FIRST[-2:], increments(BTC, Position(5, 19), 2, BEGIN), opening(ETH, Position(6, 0))]
    with desk(tmp_path) as made:
        result = cut(made, journaled(made.journal, late))
        assert result.duplicates == len(messages(FIRST[-2:]))
    lines = spooled(tmp_path)
    assert [line.seq for line in lines[BTC]] == list(range(21))
    assert {line.time for line in lines[BTC][19:]} == {BEGIN + 5 * SECOND + 2_000_000}
    assert lines[ETH][-1].time == BEGIN + 5 * SECOND + 2_000_000


def test_many_streams_are_cut_one_by_one(tmp_path: Path) -> None:
    streams = [StreamKey(f"P{n}-USD", channel) for n in range(60) for channel in CHANNELS]
    entries = [increments(stream, Position(5, seq), 1) for seq in (1, 2) for stream in streams]
    journal = Journal(tmp_path / "journal")
    spool = Spool(tmp_path / "spool")
    cutter = Cutter(journal, spool, "coinbase", pace=Pace(rest_s=0))
    for entry in entries:
        journal.append(entry.stream, frame(entry))
    cut(Desk(journal, spool, cutter), journal.rotate())
    assert texts(tmp_path) == {stream: of(entries, stream) for stream in streams}
    journal.close()
    spool.close()


# Crashes --------------------------------------------------------------------------------------------------------


class Crash(Exception):
    pass


def crashing(at: int) -> Callable[[str], None]:
    """Raises instead of the step of this number."""
    steps = iter(range(at + 1))

    def step(name: str) -> None:
        if next(steps, at) == at:
            raise Crash(name)

    return step


def steps(folder: Path) -> list[str]:
    """The steps of a cut of FIRST."""
    told: list[str] = []
    with desk(folder, on_step=told.append) as made:
        cut(made, journaled(made.journal, FIRST))
    return told


def test_a_crash_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    told = steps(tmp_path / "undisturbed")
    assert set(told) == {"begin", "index", "segment", "list", "commit", "adopt", "marks", "delete", "end"}
    for at in range(len(told)):
        folder = tmp_path / str(at)
        with desk(folder, on_step=crashing(at)) as made:
            number = journaled(made.journal, FIRST)
            with pytest.raises(Crash, match=told[at]):
                made.cutter.cut(number)
        assert not visible_halves(folder)
        for again in range(at, len(told)):  # and once more while that is being mended
            with desk(folder, on_step=crashing(again - at)) as made:
                try:
                    made.cutter.recover()
                except Crash:
                    continue
                break
        with desk(folder) as made:
            made.cutter.recover()
            cut(made, journaled(made.journal, SECOND_LOT))
            assert made.journal.chunks() == []
        assert texts(folder) == {stream: of(FIRST + SECOND_LOT, stream) for stream in (BTC, ETH)}, told[at]
        assert [path.name for path in (folder / "spool").glob(".cut*")] == []


def visible_halves(folder: Path) -> list[str]:
    """Objects under their keys that are not what their names say."""
    halves = []
    for one in waiting(folder / "spool"):
        name = parse_segment(one.key)
        assert name is not None
        try:
            list(read_segment(name, (folder / "spool" / one.key).read_bytes()))
        except BadArchive:
            halves.append(one.key)
    return halves


def test_what_was_uploaded_before_the_crash_does_not_come_back(tmp_path: Path) -> None:
    at = steps(tmp_path / "undisturbed").index("delete")
    with desk(tmp_path, on_step=crashing(at)) as made:
        number = journaled(made.journal, FIRST)
        with pytest.raises(Crash):
            made.cutter.cut(number)
        for one in made.spool.objects():
            made.spool.done(one.key)
    with desk(tmp_path) as made:
        assert made.cutter.recover() == ()
        assert len(made.spool) == 0
        assert made.journal.chunks() == []
        assert made.cutter.marks()[BTC].position == (5, 18)


def test_a_recovered_cut_leaves_newer_chunks_alone(tmp_path: Path) -> None:
    at = steps(tmp_path / "undisturbed").index("end")
    with desk(tmp_path, on_step=crashing(at)) as made:
        number = journaled(made.journal, FIRST)
        with pytest.raises(Crash):
            made.cutter.cut(number)
    with desk(tmp_path) as made:
        last = journaled(made.journal, SECOND_LOT)
        cut(made, last)
    assert texts(tmp_path) == {stream: of(FIRST + SECOND_LOT, stream) for stream in (BTC, ETH)}


def test_an_abandoned_cut_changes_nothing(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        number = journaled(made.journal, FIRST)
        made.cutter.abandon()
        assert made.cutter.cut(number) is None
        assert len(made.spool) == 0
        assert list(read(made.journal.folder)) == FIRST
    with desk(tmp_path) as made:
        cut(made, made.journal.rotate())
    assert texts(tmp_path) == {stream: of(FIRST, stream) for stream in (BTC, ETH)}


def test_a_spool_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        number = journaled(made.journal, FIRST)
        (tmp_path / "spool" / f".cut-{number:010d}").write_bytes(b"")  # in the way of the rename
        with pytest.raises(StoreUnavailable, match="cannot use"):
            made.cutter.cut(number)
        assert list(read(made.journal.folder)) == FIRST
        (tmp_path / "spool" / f".cut-{number:010d}").unlink()
        cut(made, number)
    assert texts(tmp_path) == {stream: of(FIRST, stream) for stream in (BTC, ETH)}


def test_what_is_damaged_is_left_out_counted_and_set_aside(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        made.journal.append(BTC, b"no frame at all")
        number = journaled(made.journal, FIRST)
        path = chunk_path(made.journal.folder, 2)
        body = bytearray(path.read_bytes())
        body[len(records.HEAD) + records.HEADER_BYTES + 20] ^= 1
        path.write_bytes(body)
        result = cut(made, number)
        assert result.damaged == 2
        assert [one.name for one in result.aside] == ["chunk-0000000001.damaged", "chunk-0000000002.damaged"]
        assert result.aside[1].read_bytes() == body
        assert made.journal.chunks() == []
        lost = len(messages(FIRST)) - result.messages
        assert lost == 3  # one frame
    found = [text for stream in texts(tmp_path).values() for text in stream]
    assert len(found) == len(messages(FIRST)) - lost
    assert set(found) < set(messages(FIRST))


def test_damaged_marks_are_set_aside_and_nothing_else_is_lost(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        number = journaled(made.journal, FIRST)
        (made.journal.folder / "marks.json").write_bytes(b"[[")
        cut(made, number)
        assert (made.journal.folder / "marks.json.damaged").read_bytes() == b"[["
        assert made.cutter.marks()
    assert {text for stream in texts(tmp_path).values() for text in stream} == set(messages(FIRST))


def test_it_rests_after_some_work() -> None:
    now, slept = [0.0], list[float]()
    pace = Pace(0.5, 0.25, clock=lambda: now[0], sleep=slept.append)
    for _ in range(10):
        pace.look()
        now[0] += 0.2
    assert slept == [0.25] * 3


# Kills ----------------------------------------------------------------------------------------------------------

_CHILD = """
import random, sys
from pathlib import Path
from lfmesh.archive.cutter import Cutter, Pace
from lfmesh.archive.journal import Journal, read
from lfmesh.archive.spool import Spool
from lfmesh.types import Channel, Position, StreamKey
from tests.archive.published import NOW, SECOND, frame, increments

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
journal = Journal(folder / "journal", chunk_bytes=30_000)
spool = Spool(folder / "spool")
cutter = Cutter(journal, spool, "coinbase", pace=Pace(rest_s=0))
cutter.recover()
streams = [StreamKey(f"P{n}-USD", Channel.TRADES) for n in range(8)]
last = {stream: mark.position.seq for stream, mark in cutter.marks().items()}
for entry in read(folder / "journal"):
    last[entry.stream] = entry.header.first_seq + len(entry.messages) - 1
while True:
    for _ in range(random.randrange(1, 60)):
        stream, count = random.choice(streams), random.randrange(1, 4)
        seq = last.get(stream, 0) + 1
        last[stream] = seq + count - 1
        now = NOW + seq * 60 * SECOND
        journal.append(stream, frame(increments(stream, Position(5, seq), count, now, ts_publish=now)))
    journal.flush()
    print(*(last.get(stream, 0) for stream in streams), flush=True)
    if random.random() < 0.3:
        cutter.cut(journal.rotate())
        print("cut", flush=True)
"""


def survives_kills(folder: Path, seed: int, rounds: int) -> int:
    """Kills a process that journals and cuts, over and over; how many cuts it got done."""
    chance = random.Random(seed)
    flushed = [0] * 8
    cuts = 0
    for round_ in range(rounds):
        child = [sys.executable, "-c", _CHILD, str(folder), str(seed * 1000 + round_)]
        process = subprocess.Popen(child, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        heard = [process.stdout.readline() for _ in range(chance.randrange(1, 25))]
        process.kill()
        heard += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        cuts += heard.count("cut\n")
        told = [line.split() for line in heard if line.endswith("\n") and line != "cut\n"]
        if told:
            flushed = [int(number) for number in told[-1]]
    with desk(folder) as made:
        made.cutter.recover()
        cut(made, made.journal.rotate())
    lines = spooled(folder)
    for number, least in enumerate(flushed):
        seqs = [line.seq for line in lines.get(StreamKey(f"P{number}-USD", CHANNELS[1]), [])]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) >= least
    return cuts


def test_a_process_killed_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    assert survives_kills(tmp_path, seed=4, rounds=6) > 0


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_a_process_killed_many_times_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    assert survives_kills(tmp_path, seed, rounds=30) > 0
