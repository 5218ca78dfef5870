"""Leases of one replica: a model check over announcements, farewells and time, and each outcome by itself."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.leases import Full, Joined, Leases, Outdated, Renewed, fault, name_of
from lfmesh.messages import ServiceRecord
from lfmesh.types import Role

TTL = 1000


def record(instance: str = "normalizer-0", incarnation: int = 1, **facts: object) -> ServiceRecord:
    plain = ServiceRecord(
        role=Role.NORMALIZER,
        instance=instance,
        incarnation=incarnation,
        endpoints={"raw": "tcp://127.0.0.1:7500"},
        version="1",
        pid=1,
        host="h",
    )
    return msgspec.structs.replace(plain, **facts)


def test_an_announcement_lists_and_a_silence_of_one_lease_ends_it() -> None:
    leases = Leases(TTL, 0)
    assert leases.announce(record(), 10) == Joined(record())
    for now in (400, 800, 1009):
        assert leases.expire(now) == []
    assert leases.services() == [record()]
    assert leases.expire(1010) == [record()]
    assert leases.services() == []


def test_announcing_again_renews_without_changing_the_picture() -> None:
    leases = Leases(TTL, 0)
    leases.announce(record(), 0)
    version = leases.version
    for now in range(100, 5000, 100):
        assert leases.announce(record(), now) == Renewed()
        assert leases.expire(now) == []
    assert leases.version == version


def test_a_renewed_lease_outlives_one_that_was_granted_later() -> None:
    leases = Leases(TTL, 0)
    leases.announce(record("a"), 0)
    leases.announce(record("b"), 100)
    leases.announce(record("a"), 400)
    leases.expire(400)
    leases.expire(800)
    assert leases.expire(1100) == [record("b")]
    assert leases.expire(1399) == []
    assert leases.expire(1400) == [record("a")]


def test_a_changed_record_is_a_change() -> None:
    leases = Leases(TTL, 0)
    leases.announce(record(), 0)
    moved = record(endpoints={"raw": "tcp://127.0.0.1:7600"})
    assert leases.announce(moved, 1) == Joined(moved)
    assert leases.services() == [moved]
    assert leases.version == 2


def test_the_newer_incarnation_wins_and_the_older_one_cannot_take_it_away() -> None:
    leases = Leases(TTL, 0)
    leases.announce(record(incarnation=1), 0)
    leases.announce(record(incarnation=2), 1)
    assert leases.announce(record(incarnation=1), 2) == Outdated(2)
    assert not leases.leave(record(incarnation=1))
    assert leases.services() == [record(incarnation=2)]
    assert leases.leave(record(incarnation=2))
    assert leases.services() == []


def test_there_is_room_for_so_many_and_those_who_are_in_stay_in() -> None:
    leases = Leases(TTL, 0, max_services=2)
    leases.announce(record("a"), 0)
    leases.announce(record("b"), 0)
    assert leases.announce(record("c"), 1) == Full(2)
    assert leases.announce(record("a"), 1) == Renewed()
    assert leases.announce(record("b", incarnation=2), 1) == Joined(record("b", incarnation=2))
    leases.leave(record("a"))
    assert leases.announce(record("c"), 2) == Joined(record("c"))


def test_it_warms_for_one_lease() -> None:
    leases = Leases(TTL, 50)
    assert leases.warming(50)
    assert leases.warming(1049)
    assert not leases.warming(1050)


def test_a_replica_that_was_held_up_ends_nobody_and_warms_again() -> None:
    leases = Leases(TTL, 0)
    leases.announce(record(), 0)
    leases.expire(400)
    assert leases.expire(400 + 10 * TTL) == []
    assert leases.services() == [record()]
    assert leases.warming(400 + 10 * TTL)
    assert leases.expire(400 + 10 * TTL + TTL // 2) == []
    assert leases.expire(400 + 11 * TTL) == [record()]
    assert not leases.warming(400 + 11 * TTL)


def test_its_own_record_is_listed_without_a_lease() -> None:
    leases = Leases(TTL, 0)
    own = record("registry-0", role=Role.REGISTRY)
    leases.list_own(own)
    for now in range(0, 5 * TTL, TTL // 4):
        assert leases.expire(now) == []
    assert leases.services() == [own]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["announce", "leave", "nothing"]),
        st.sampled_from("abc"),
        st.integers(1, 3),
        st.integers(0, TTL // 2),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_it_agrees_with_a_plain_model(operations: list[tuple[str, str, int, int]]) -> None:
    leases, now = Leases(TTL, 0), 0
    model: dict[str, tuple[int, int]] = {}
    for operation, instance, incarnation, pause in operations:
        now += pause
        before = ({name: known[0] for name, known in model.items()}, leases.version)
        ended = {gone.instance for gone in leases.expire(now)}
        assert ended == {name for name, (_, until) in model.items() if until <= now}
        model = {name: known for name, known in model.items() if known[1] > now}
        known_incarnation = model.get(instance, (0, 0))[0]
        if operation == "announce":
            leases.announce(record(instance, incarnation), now)
            if incarnation >= known_incarnation:
                model[instance] = (incarnation, now + TTL)
        elif operation == "leave":
            leases.leave(record(instance, incarnation))
            if incarnation >= known_incarnation:
                model.pop(instance, None)
        listed = {found.instance: found.incarnation for found in leases.services()}
        assert listed == {name: known[0] for name, known in model.items()}
        if listed != before[0]:
            assert leases.version > before[1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda: record(""), "name"),
        (lambda: record("x" * 101), "name"),
        (lambda: record("a\x1b[2J"), "name"),
        (lambda: record(role=Role.REGISTRY), "replicas"),
        (lambda: record(incarnation=-1), "incarnation"),
        (lambda: record(products=["P"] * 2001), "products"),
        (lambda: record(products=["P" * 101]), "products"),
        (lambda: record(endpoints={str(number): "tcp://h:1" for number in range(17)}), "endpoints"),
        (lambda: record(endpoints={"raw": "tcp://h"}), "tcp://HOST:PORT"),
        (lambda: record(endpoints={"raw": "tcp://" + "h" * 400 + ":1"}), "tcp://HOST:PORT"),
    ],
)
def test_a_record_that_would_harm_its_readers_is_not_listed(change: Callable[[], ServiceRecord], word: str) -> None:
    explanation = fault(change())
    assert explanation is not None
    assert word in explanation


def test_a_sound_record_has_no_fault() -> None:
    assert fault(record()) is None
    assert name_of(record()) == (Role.NORMALIZER, "normalizer-0")
