"""Whole archives are whole, and each kind of harm is told."""

import msgspec
import pytest
import zstandard

from lfmesh.archive.coverage import Gap
from lfmesh.archive.journal import Entry
from lfmesh.archive.segments import compressor
from lfmesh.archive.verify import Counts, Damage, Finding, Foreign, Verification
from lfmesh.core.archive import SegmentName, StateLine, checksum
from lfmesh.core.state_objects import name_state
from lfmesh.types import NO_INPUT, Position, StreamKey
from tests.archive.published import BTC, ETH, NOW, SECOND, increments, opening
from tests.archive.shelf import VENUE, Shelf, snapshot, upload

HOUR = 3600 * SECOND
E1, E2 = 1000, 2000


def entries(stream: StreamKey = BTC) -> list[Entry]:
    """Two epochs, the first one over an hour's end."""
    return [
        opening(stream, Position(E1, 0), ts_event=NOW - HOUR),
        increments(stream, Position(E1, 1), 50, NOW - HOUR),
        increments(stream, Position(E1, 51), 50, NOW - SECOND),
        opening(stream, Position(E2, 0), previous=Position(E1, 100), parts=3),
        increments(stream, Position(E2, 1), 20, NOW),
    ]


def found(shelf: Shelf, **options: object) -> tuple[list[Finding], Counts]:
    verification = Verification(shelf, VENUE, **options)  # type: ignore[arg-type] # by name
    return list(verification.run()), verification.counts


def line(stream: StreamKey, time: int = NOW) -> StateLine:
    return StateLine(*stream, 7, E2, 20, time, NOW, NO_INPUT, msgspec.Raw(b'{"trades":[]}'))


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_whole_archive(quick: bool, threads: int) -> None:
    shelf = Shelf()
    names = upload(shelf, BTC, entries()) + upload(shelf, ETH, entries(ETH))
    snapshot(shelf, [line(BTC), line(ETH)])
    findings, counts = found(shelf, quick=quick, threads=threads)
    assert findings == []
    assert counts.whole
    assert (counts.streams, counts.epochs, counts.segments, counts.snapshots) == (2, 4, len(names), 1)
    assert counts.lines == sum(name.lines for name in names) == 2 * (1 + 100 + 3 + 20)
    assert counts.bytes == sum(map(len, shelf.objects.values()))
    assert bool(shelf.taken) is not quick


def test_an_empty_archive_is_whole() -> None:
    assert found(Shelf()) == ([], Counts())


@pytest.mark.parametrize("quick", [False, True])
def test_a_segment_that_is_missing_in_the_middle(quick: bool) -> None:
    shelf = Shelf()
    names = upload(shelf, BTC, entries(), max_bytes=2000)
    lost = names[len(names) // 2]
    del shelf.objects[lost.key]
    before = names[len(names) // 2 - 1]
    (gap,), counts = found(shelf, quick=quick)
    assert isinstance(gap, Gap)
    assert gap.stream == BTC
    assert (gap.after, gap.until) == (before.last, lost.last)
    assert gap.messages == lost.last_seq - lost.first_seq + 1
    assert gap.after_ts == before.last_ts
    assert gap.until_ts > lost.last_ts
    assert not counts.whole


def test_segments_of_two_writers_fill_each_others_gaps() -> None:
    shelf = Shelf()
    first = upload(shelf, BTC, entries(), max_bytes=2000)
    second = upload(shelf, BTC, entries(), max_bytes=3100)
    assert len(set(first) | set(second)) == len(shelf.objects)
    for name in first[1::2]:
        shelf.objects.pop(name.key)
    assert found(shelf)[0] == []


def test_the_lost_tail_of_an_epoch() -> None:
    shelf = Shelf()
    upload(shelf, BTC, entries()[:2])
    upload(shelf, BTC, entries()[3:])
    (gap,), _ = found(shelf)
    assert isinstance(gap, Gap)
    assert (gap.after, gap.until, gap.messages) == ((E1, 50), (E1, 100), 50)


@pytest.mark.parametrize("quick", [False, True])
def test_a_snapshot_in_the_place_of_lost_messages_is_a_gap(quick: bool) -> None:
    shelf = Shelf()
    lost = opening(BTC, Position(E1, 60), previous=Position(E1, 50), ts_event=NOW - SECOND)
    upload(shelf, BTC, [*entries()[:2], lost, increments(BTC, Position(E1, 61), 5, NOW)])
    (gap,), _ = found(shelf, quick=quick)
    assert isinstance(gap, Gap)
    assert (gap.after, gap.until, gap.messages) == ((E1, 50), (E1, 60), 10)


def test_what_retention_has_taken_is_no_gap() -> None:
    shelf = Shelf()
    names = upload(shelf, BTC, entries(), max_bytes=2000)
    for name in names[: len(names) // 2]:
        del shelf.objects[name.key]
    assert found(shelf)[0] == []


def test_an_epoch_without_word_of_what_came_before_is_counted() -> None:
    shelf = Shelf()
    upload(shelf, BTC, entries()[:3])
    upload(shelf, BTC, [opening(BTC, Position(E2, 0), ts_event=NOW)])
    findings, counts = found(shelf)
    assert findings == []
    assert counts.unproven == 1


# Damage -------------------------------------------------------------------------------------------------------------


def one_segment() -> tuple[Shelf, SegmentName]:
    shelf = Shelf()
    (name,) = upload(
        shelf, BTC, [opening(BTC, Position(E1, 0), ts_event=NOW), increments(BTC, Position(E1, 1), 9, NOW)]
    )
    return shelf, name


def forged(shelf: Shelf, name: SegmentName, text: bytes) -> SegmentName:
    """An object with other text in the place of a segment, under a name that fits its bytes."""
    del shelf.objects[name.key]
    body = compressor().compress(text)
    forgery = name._replace(checksum=checksum(body))
    shelf.put(forgery.key, body)
    return forgery


def text_of(shelf: Shelf, name: SegmentName) -> list[bytes]:
    return zstandard.ZstdDecompressor().decompressobj().decompress(shelf.objects[name.key]).splitlines(keepends=True)


def test_a_flipped_bit() -> None:
    shelf, name = one_segment()
    body = bytearray(shelf.objects[name.key])
    body[len(body) // 2] ^= 1
    shelf.objects[name.key] = bytes(body)
    (damage,), counts = found(shelf)
    assert isinstance(damage, Damage)
    assert damage.key == name.key
    assert "checksum" in damage.reason
    assert not counts.whole
    assert found(shelf, quick=True)[0] == [], "by its name it is right"


def test_half_an_object() -> None:
    shelf, name = one_segment()
    shelf.objects[name.key] = shelf.objects[name.key][:40]
    (damage,), _ = found(shelf)
    assert isinstance(damage, Damage)


def test_lines_that_are_too_few() -> None:
    shelf, name = one_segment()
    forgery = forged(shelf, name, b"".join(text_of(shelf, name)[:-1]))
    (damage,), _ = found(shelf)
    assert isinstance(damage, Damage)
    assert damage.key == forgery.key


def test_lines_in_another_order() -> None:
    """The first and the last line are what the name says, and so is their number."""
    shelf, name = one_segment()
    lines = text_of(shelf, name)
    lines[4], lines[5] = lines[5], lines[4]
    forged(shelf, name, b"".join(lines))
    (damage,), _ = found(shelf)
    assert isinstance(damage, Damage)
    assert f"where {E1}/4 should be" in damage.reason


def test_lines_of_another_product() -> None:
    shelf, name = one_segment()
    lines = text_of(shelf, name)
    lines[4] = lines[4].replace(b"BTC-USD", b"ETH-USD")
    forged(shelf, name, b"".join(lines))
    (damage,), _ = found(shelf)
    assert isinstance(damage, Damage)


def test_a_damaged_segment_in_the_middle_is_a_gap_too_unless_another_writer_has_it() -> None:
    shelf = Shelf()
    names = upload(shelf, BTC, entries(), max_bytes=2000)
    bad = names[2]
    shelf.objects[bad.key] = b"nothing"
    damage, gap = found(shelf)[0]
    assert isinstance(damage, Damage)
    assert isinstance(gap, Gap)
    assert gap.until == bad.last
    upload(shelf, BTC, entries(), max_bytes=3100)
    assert [type(finding) for finding in found(shelf)[0]] == [Damage]


@pytest.mark.parametrize("body", [b"", b"nothing", None])
def test_a_damaged_snapshot(body: bytes | None) -> None:
    shelf = Shelf()
    snapshot(shelf, [line(BTC)])
    (key,) = shelf.objects
    shelf.objects[key] = shelf.objects[key][:-1] if body is None else body
    assert [(type(one), one.key) for one in found(shelf)[0] if isinstance(one, Damage)] == [(Damage, key)]


def test_objects_of_another_kind_are_told_and_harm_nothing() -> None:
    shelf, _ = one_segment()
    foreign = f"tape/venue={VENUE}/notes.txt"
    shelf.put(foreign, b"mine")
    findings, counts = found(shelf)
    assert findings == [Foreign(foreign)]
    assert counts.whole
    assert counts.foreign == 1


def test_another_venue_is_left_alone() -> None:
    shelf, _ = one_segment()
    other = Verification(shelf, "other")
    assert list(other.run()) == []
    assert other.counts == Counts()


# What the state store refers to -------------------------------------------------------------------------------------


def state_object(shelf: Shelf, seq: int, body: bytes = b"state") -> str:
    key = name_state(VENUE, BTC, 1, Position(1, seq), body).key
    shelf.put(key, body)
    return key


def test_states_are_checked_and_must_be_there() -> None:
    shelf = Shelf()
    key = state_object(shelf, 1)
    findings, counts = found(shelf, pointers=lambda: {BTC: key})
    assert findings == []
    assert counts.states == 1
    shelf.objects[key] = b"other"
    assert [type(one) for one in found(shelf, pointers=lambda: {BTC: key})[0]] == [Damage]
    del shelf.objects[key]
    for quick in (False, True):
        (damage,), _ = found(shelf, pointers=lambda: {BTC: key}, quick=quick)
        assert isinstance(damage, Damage)
        assert damage.key == key
        assert "missing" in damage.reason


def test_a_state_that_is_superseded_meanwhile_is_not_missed() -> None:
    shelf = Shelf()
    newer = state_object(shelf, 2)
    answers = [{BTC: name_state(VENUE, BTC, 1, Position(1, 1), b"gone").key}, {BTC: newer}]
    assert found(shelf, pointers=lambda: answers.pop(0))[0] == []


def test_only_the_products_asked_for() -> None:
    shelf = Shelf()
    upload(shelf, BTC, entries())
    (broken, *_) = upload(shelf, ETH, entries(ETH))
    shelf.objects[broken.key] = b"nothing"
    snapshot(shelf, [line(BTC)])
    findings, counts = found(shelf, products=["BTC-USD"])
    assert findings == []
    assert (counts.streams, counts.snapshots) == (1, 0)
    assert found(shelf, products=["ETH-USD"])[0] != []


def test_what_is_deleted_meanwhile_is_no_damage() -> None:
    class Vanishing(Shelf):
        def get(self, key: str) -> bytes:
            self.objects.pop(key, None)
            return super().get(key)

    shelf = Vanishing()
    upload(shelf, BTC, entries())
    snapshot(shelf, [line(BTC)])
    state_object(shelf, 1)
    findings, _ = found(shelf)
    assert findings == []
