from lfmesh.core.codec import RawHeader, RawKind, RawRecord, pack_raw
from lfmesh.services.normalizer.post import HeldFrames
from lfmesh.types import InputPosition


def batch(first: int, count: int, ingestor: int = 7, incarnation: int = 8) -> bytes:
    header = RawHeader(RawKind.BATCH, "A", 0, ingestor, incarnation, first, 1, 5)
    return pack_raw(header, [RawRecord(0, 1, b"x" * 100)] * count)


def test_the_newest_are_kept() -> None:
    held = HeldFrames(1000)
    frames = [batch(number, 1) for number in range(1, 20)]
    held.extend(frames)
    assert 0 < held.size <= 1000
    assert held.dropped == 19 - len(held) > 0
    assert [held.pop() for _ in range(len(held))] == frames[held.dropped :]
    assert held.size == 0


def test_one_that_is_too_large_alone_is_kept_until_the_next() -> None:
    held = HeldFrames(1000)
    large = batch(1, 100)
    held.extend([large])
    assert len(held) == 1
    held.extend([batch(101, 1)])
    assert (len(held), held.dropped) == (1, 1)


def test_what_was_dealt_with_elsewhere_is_forgotten() -> None:
    held = HeldFrames(100_000)
    frames = [batch(1, 5), batch(6, 5), batch(11, 5)]
    held.extend(frames)
    held.forget([InputPosition(7, 8, 9)])
    assert held.pop() == frames[1], "some of it is to come yet"
    held.forget([InputPosition(7, 7, 99), InputPosition(9, 8, 99)])
    assert held.pop() == frames[2], "it is another process's"
    held.extend([b"no frame"])
    held.forget([InputPosition(7, 8, 99)])
    assert held.pop() == b"no frame", "for who takes it to complain of"
