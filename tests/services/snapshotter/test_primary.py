"""Who of a pair writes to what they share."""

from lfmesh.messages import ServiceRecord
from lfmesh.services.snapshotter.primary import GONE_NS, Pair
from lfmesh.types import Role

SECOND = 1_000_000_000


def record(instance: str, shard: int = 0, role: Role = Role.SNAPSHOTTER, host: str = "here") -> ServiceRecord:
    return ServiceRecord(role, instance, 1, {}, "0", 1, host, shard)


A, B = record("snapshotter-0"), record("snapshotter-0-b")


def test_who_is_alone_writes_from_the_start() -> None:
    pair = Pair(0, "snapshotter-0-b", 0)
    assert pair.primary(0)
    assert not pair.met
    assert not pair.may_overlap(0, 60 * SECOND)


def test_the_first_by_name_writes() -> None:
    first, second = Pair(0, A.instance, 0), Pair(0, B.instance, 0)
    for pair in (first, second):
        pair.see([A, B], SECOND)
    assert first.primary(SECOND)
    assert not second.primary(SECOND)


def test_the_other_one_writes_when_the_first_has_been_gone_for_a_while() -> None:
    pair = Pair(0, B.instance, 0)
    pair.see([A, B], SECOND)
    pair.see([B], 2 * SECOND)
    assert pair.alone
    assert not pair.primary(2 * SECOND + GONE_NS - 1)
    assert pair.primary(2 * SECOND + GONE_NS)
    pair.see([A, B], 60 * SECOND)
    assert not pair.primary(60 * SECOND), "it is back"


def test_one_that_is_listed_again_in_time_was_never_gone() -> None:
    pair = Pair(0, B.instance, 0)
    pair.see([A, B], SECOND)
    pair.see([B], 2 * SECOND)
    pair.see([A, B], 3 * SECOND)
    assert not pair.primary(30 * SECOND)


def test_others_are_no_part_of_the_pair() -> None:
    pair = Pair(0, B.instance, 0, host="here")
    pair.see(
        [record("a", shard=1), record("b", role=Role.GATEWAY), record("c", host="elsewhere"), B],
        SECOND,
    )
    assert pair.primary(SECOND)
    assert not pair.met


def test_what_may_be_stored_twice_is_looked_at_for_a_while_after_a_change() -> None:
    pair = Pair(0, B.instance, 0)
    pair.see([A, B], SECOND)
    assert pair.may_overlap(SECOND, 60 * SECOND)
    pair.see([B], 2 * SECOND)
    since = 2 * SECOND + GONE_NS
    assert pair.primary(since)
    assert pair.may_overlap(since + 59 * SECOND, 60 * SECOND)
    assert not pair.may_overlap(since + 61 * SECOND, 60 * SECOND)
    first = Pair(0, A.instance, 0)
    first.see([A, B], SECOND)
    assert first.may_overlap(SECOND, 60 * SECOND), "the other one may have uploaded while this one was away"
    assert not first.may_overlap(61 * SECOND, 60 * SECOND)
