"""What watched clients find in their bytes, wherever reads cut them."""

import random

import pytest

from lfmesh.core.hub_frames import text_frame
from loadgen.bench.ticks import FIRST_SEQ, WHOLE, tick
from loadgen.bench.watches import Conflations, Frames, Latencies, Snapshots, Watch

AT = 1_700_000_000_000_000_000
HEARTBEAT = text_frame(b'{"op":"heartbeat","ts":1}')


def snapshot(seq: int, reason: str = "subscribe") -> bytes:
    return text_frame(
        b'{"op":"snapshot","data":{"v":1,"type":"snapshot","product":"P000-USD","channel":"ticker","epoch":1,"seq":%d,'
        b'"ts_snapshot":1,"reason":"%b","state":{}}}' % (seq, reason.encode())
    )


def ticks(*seqs: int) -> bytes:
    return b"".join(text_frame(tick("P000-USD", seq, AT, WHOLE)) for seq in seqs)


def cut(data: bytes, seed: int) -> list[bytes]:
    draw = random.Random(seed)
    places = sorted(draw.randrange(len(data)) for _ in range(draw.randrange(1, 40)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def given[W: Watch](watch: W, data: bytes, seed: int, at: int = AT) -> W:
    for piece in cut(data, seed):
        watch.take(piece, at)
    return watch


@pytest.mark.parametrize("seed", range(20))
def test_frames_are_found_wherever_reads_cut_them(seed: int) -> None:
    seqs = [FIRST_SEQ + number for number in range(1, 9)]
    data = snapshot(FIRST_SEQ) + ticks(*seqs[:3]) + HEARTBEAT + ticks(*seqs[3:])
    frames = given(Frames(), data, seed)
    assert (frames.increments, frames.take_faults()) == (8, [])


def test_a_number_that_is_missing_is_a_fault_unless_a_snapshot_says_so() -> None:
    lost = given(Frames(), ticks(FIRST_SEQ + 1, FIRST_SEQ + 3), 1)
    assert lost.take_faults() == [f"P000-USD {FIRST_SEQ + 3} after {FIRST_SEQ + 1}"]
    assert lost.take_faults() == []
    told = ticks(FIRST_SEQ + 1) + snapshot(FIRST_SEQ + 50, "conflated") + ticks(FIRST_SEQ + 51)
    assert given(Frames(), told, 1).take_faults() == []


@pytest.mark.parametrize("seed", range(20))
def test_every_increments_latency_is_taken_once(seed: int) -> None:
    data = ticks(*range(FIRST_SEQ, FIRST_SEQ + 20))
    seen = given(Latencies(), data, seed, AT + 5_000_000).seen
    assert (seen.count, seen.max) == (20, 5_000_000)


@pytest.mark.parametrize("seed", range(20))
def test_marks_are_counted_wherever_reads_cut_them(seed: int) -> None:
    data = snapshot(FIRST_SEQ) + ticks(FIRST_SEQ + 1) + snapshot(FIRST_SEQ + 2, "conflated") + snapshot(FIRST_SEQ + 3)
    assert given(Snapshots(), data, seed).at == [AT] * 3
    assert given(Conflations(), data, seed).at == [AT]
