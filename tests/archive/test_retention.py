"""What goes and what stays: by age, by size, without holes; and states that nothing refers to."""

from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.archive.retention import ORPHAN_AGE_S, Doomed, Retention, delete
from lfmesh.archive.verify import Verification
from lfmesh.core.archive import SegmentName, StateLine, parse_segment, parse_snapshot
from lfmesh.core.state_objects import name_state
from lfmesh.ports import StoredObject
from lfmesh.types import NO_INPUT, Position, StreamKey
from tests.archive.published import BTC, ETH, NOW, SECOND, increments, opening
from tests.archive.shelf import VENUE, Shelf, snapshot, upload

DAY = 86400 * SECOND


class Dated(Shelf):
    """Objects with times of writing; NOW unless `written` says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, int] = {}

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        for stored in super().list(prefix, after):
            yield stored._replace(written_ns=self.written.get(stored.key, NOW))


def fill(shelf: Dated, ages: list[int], stream: StreamKey = BTC) -> list[SegmentName]:
    """A segment for each age (s), in the stream's order, written so long before NOW."""
    names = []
    for number, age in enumerate(ages):
        first = 1 + number * 10
        entries = [increments(stream, Position(1, first), 10, NOW - (1000 - number) * SECOND)]
        if number == 0:
            entries.insert(0, opening(stream, Position(1, 0), ts_event=NOW - 1000 * SECOND))
        (name,) = upload(shelf, stream, entries)
        shelf.written[name.key] = NOW - age * SECOND
        names.append(name)
    return names


def doomed(shelf: Dated, *, max_age_s: float = 0, max_bytes: int = 0) -> list[Doomed]:
    return list(Retention(shelf, VENUE, NOW, max_age_s=max_age_s, max_bytes=max_bytes).doomed())


def keys(found: list[Doomed]) -> list[str]:
    return [one.stored.key for one in found]


def test_without_bounds_everything_stays() -> None:
    shelf = Dated()
    fill(shelf, [10**9] * 3)
    assert doomed(shelf) == []


def test_by_age_since_writing_not_by_the_time_of_the_data() -> None:
    shelf = Dated()
    names = fill(shelf, [300, 200, 100, 0])
    found = doomed(shelf, max_age_s=150)
    assert keys(found) == [name.key for name in names[:2]]
    assert {one.reason for one in found} == {"age"}


def test_a_segment_that_was_uploaded_late_holds_the_later_ones_back() -> None:
    shelf = Dated()
    names = fill(shelf, [300, 10, 290, 280])
    assert keys(doomed(shelf, max_age_s=100)) == [names[0].key]
    other = fill(shelf, [300, 290], ETH)
    assert set(keys(doomed(shelf, max_age_s=100))) == {names[0].key, *(name.key for name in other)}


def test_by_size_the_oldest_goes_first_and_no_more_than_must() -> None:
    shelf = Dated()
    names = fill(shelf, [300, 200, 199, 198, 0])
    sizes = [len(shelf.objects[name.key]) for name in names]
    total = sum(sizes)
    for count in range(6):
        bound = total - sum(sizes[:count])
        assert keys(doomed(shelf, max_bytes=bound or 1)) == [name.key for name in names[:count]]
        assert len(doomed(shelf, max_bytes=max(1, bound - 1))) == min(5, count + 1)
    assert {one.reason for one in doomed(shelf, max_bytes=1)} == {"size"}


def test_both_bounds_together() -> None:
    shelf = Dated()
    names = fill(shelf, [300, 200, 199, 198, 0])
    total = sum(map(len, shelf.objects.values()))
    found = doomed(shelf, max_age_s=250, max_bytes=total - sum(len(shelf.objects[name.key]) for name in names[:2]))
    assert [(one.stored.key, one.reason) for one in found] == [(names[0].key, "age"), (names[1].key, "size")]


def line(time: int) -> StateLine:
    return StateLine(*BTC, 7, 1, 20, time, NOW, NO_INPUT, msgspec.Raw(b'{"trades":[]}'))


def test_the_newest_snapshot_of_each_shard_stays() -> None:
    shelf = Dated()
    for shard in (0, 1):
        for number in range(3):
            snapshot(shelf, [line(NOW - 100 * SECOND + number)], shards=2, shard=shard)
    shelf.written = dict.fromkeys(shelf.objects, NOW - 9 * DAY)
    names = sorted((name.shard, name.ts) for name in map(parse_snapshot, shelf.objects) if name is not None)
    for bounds in ({"max_age_s": 1.0}, {"max_bytes": 1}):
        gone = [parse_snapshot(key) for key in keys(doomed(shelf, **bounds))]
        assert sorted((name.shard, name.ts) for name in gone if name) == [names[0], names[1], names[3], names[4]]


def test_other_venues_and_foreign_objects_stay() -> None:
    shelf = Dated()
    fill(shelf, [300])
    shelf.put(f"tape/venue={VENUE}/notes.txt", b"mine")
    shelf.put("tape/venue=other/x", b"theirs")
    shelf.put("elsewhere", b"theirs")
    shelf.written = dict.fromkeys(shelf.objects, 0)
    assert len(doomed(shelf, max_age_s=1)) == 1


def test_states_that_nothing_refers_to_go_when_they_are_old_enough() -> None:
    shelf = Dated()
    held, orphan, fresh = (name_state(VENUE, BTC, 1, Position(1, seq), b"state").key for seq in (3, 1, 4))
    foreign = f"states/venue={VENUE}/mine"
    for key in (held, orphan, fresh, foreign):
        shelf.put(key, b"state")
        shelf.written[key] = NOW - round(ORPHAN_AGE_S) * SECOND - 1
    shelf.written[fresh] = NOW - round(ORPHAN_AGE_S) * SECOND + 1
    found = list(Retention(shelf, VENUE, NOW, max_age_s=0, max_bytes=0).orphans([held]))
    assert [(one.stored.key, one.reason) for one in found] == [(orphan, "orphan")]


def test_deleting_goes_in_batches_and_yields_what_has_gone() -> None:
    batches: list[int] = []

    class Counting(Dated):
        def delete(self, keys: Sequence[str]) -> int:
            batches.append(len(keys))
            return super().delete(keys)

    shelf = Counting()
    stored = [StoredObject(f"k{number}", 1, 0) for number in range(1200)]
    for one in stored:
        shelf.put(one.key, b"x")
    gone = 0
    for doomed_one in delete(shelf, (Doomed(each, "age") for each in stored)):
        assert doomed_one.stored.key not in shelf.objects
        gone += 1
    assert gone == 1200
    assert batches == [500, 500, 200]


@pytest.mark.parametrize("kind", ["age", "size"])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 500), min_size=1, max_size=8), min_size=1, max_size=2), st.data())
def test_no_stream_ever_gets_a_hole_and_bounds_hold(kind: str, ages: list[list[int]], data: st.DataObject) -> None:
    shelf = Dated()
    for stream, some in zip((BTC, ETH), ages, strict=False):
        fill(shelf, some, stream)
    total = sum(map(len, shelf.objects.values()))
    bound = data.draw(st.integers(1, total + 10) if kind == "size" else st.integers(1, 600))
    retention = Retention(
        shelf, VENUE, NOW, max_age_s=bound if kind == "age" else 0, max_bytes=bound if kind == "size" else 0
    )
    gone = list(delete(shelf, retention.doomed()))
    assert retention.bytes_before == total
    assert list(Verification(shelf, VENUE).run()) == []
    left = [stored for stored in shelf.list() if parse_segment(stored.key) is not None]
    if kind == "size":
        assert sum(stored.size for stored in left) <= bound
        if gone:
            assert sum(stored.size for stored in left) + max(one.stored.size for one in gone) > bound, "too much went"
    else:
        assert all(one.stored.written_ns <= NOW - bound * SECOND for one in gone), "nothing goes before its time"
