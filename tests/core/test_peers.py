"""The merged view: each rule by itself, and a simulated mesh that loses and gets back replicas and services."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.core.leases import Leases, name_of
from lfmesh.core.peers import Observed, Peers
from lfmesh.messages import RegistryChange, ServiceName, ServiceRecord, View
from lfmesh.types import Role

TTL_S = 3.0
TTL = 3_000_000_000
SECOND = 1_000_000_000


def record(instance: str, incarnation: int = 1) -> ServiceRecord:
    return ServiceRecord(
        role=Role.GATEWAY, instance=instance, incarnation=incarnation, endpoints={}, version="1", pid=1, host="h"
    )


def view(*services: ServiceRecord, incarnation: int = 1, version: int = 1, warming: bool = False) -> View:
    return View("r", warming, TTL_S, list(services), incarnation, version)


def change(version: int, incarnation: int = 1, warming: bool = False, **facts: object) -> RegistryChange:
    plain = RegistryChange("r", incarnation, version, warming, TTL_S)
    return msgspec.structs.replace(plain, **facts)


def names(peers: tuple[ServiceRecord, ...]) -> list[tuple[str, int]]:
    return [(peer.instance, peer.incarnation) for peer in peers]


def test_views_of_all_replicas_are_merged_and_the_highest_incarnation_wins() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x", 1), record("y", 5)), 0)
    peers.observe_view("B", view(record("x", 2), record("y", 4), record("z", 1)), 0)
    assert names(peers.merge(0)) == [("x", 2), ("y", 5), ("z", 1)]


def test_a_peer_stays_while_one_replica_lists_it() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x")), 0)
    peers.observe_view("B", view(record("x")), 0)
    peers.merge(0)
    peers.observe_view("A", view(version=2), 1)
    assert names(peers.merge(1)) == [("x", 1)]
    peers.observe_view("B", view(version=2), 1)
    assert names(peers.merge(1)) == []


def test_a_warming_replica_takes_nobody_away() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x")), 0)
    peers.merge(0)
    peers.observe_view("A", view(incarnation=2, version=0, warming=True), 1)
    assert names(peers.merge(1)) == [("x", 1)]
    peers.observe_change("A", change(0, incarnation=2), 2)
    assert names(peers.merge(2)) == []


def test_the_word_of_a_warm_replica_counts_though_another_is_warming() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x")), 0)
    peers.observe_view("B", view(record("x")), 0)
    peers.merge(0)
    peers.observe_view("A", view(incarnation=2, version=0, warming=True), 1)
    peers.observe_view("B", view(version=2), 1)
    assert names(peers.merge(1)) == []


def test_a_warming_replica_adds() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x"), warming=True), 0)
    assert names(peers.merge(0)) == [("x", 1)]


def test_the_loss_of_all_replicas_freezes_the_view() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x")), 0)
    peers.merge(0)
    assert names(peers.merge(1000 * TTL)) == [("x", 1)]
    assert not peers.counts("A", 1000 * TTL)


def test_a_lost_replica_keeps_nobody_whom_the_others_dropped() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x")), 0)
    peers.observe_view("B", view(record("x")), 0)
    peers.merge(0)
    peers.observe_view("B", view(version=2), TTL)
    assert names(peers.merge(TTL)) == [("x", 1)]  # A was heard within its lease time
    assert names(peers.merge(TTL + 1)) == []


def test_a_forgotten_replica_neither_adds_nor_drops() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x")), 0)
    peers.merge(0)
    peers.forget("A")
    assert names(peers.merge(1)) == [("x", 1)]
    assert peers.silent_for("A", 1) is None


def test_changes_join_on_to_the_view() -> None:
    peers = Peers()
    assert peers.observe_change("A", change(1), 0) is Observed.NEEDS_VIEW
    peers.observe_view("A", view(record("x"), version=4), 0)
    assert peers.observe_change("A", change(4), 1) is Observed.UNCHANGED
    assert peers.observe_change("A", change(5, joined=[record("y")]), 1) is Observed.APPLIED
    assert peers.observe_change("A", change(6, left=[ServiceName(Role.GATEWAY, "x")]), 1) is Observed.APPLIED
    assert names(peers.merge(1)) == [("y", 1)]


def test_a_change_that_was_in_the_view_already_is_not_applied_again() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x", 2), version=4), 0)
    assert peers.observe_change("A", change(3, joined=[record("x", 1)]), 1) is Observed.UNCHANGED
    assert peers.observe_change("A", change(4, left=[ServiceName(Role.GATEWAY, "x")]), 1) is Observed.UNCHANGED
    assert names(peers.merge(1)) == [("x", 2)]


def test_a_missed_change_shows_in_the_next_message_and_in_the_next_beacon() -> None:
    peers = Peers()
    peers.observe_view("A", view(version=4), 0)
    assert peers.observe_change("A", change(6, joined=[record("y")]), 1) is Observed.NEEDS_VIEW
    assert peers.observe_change("A", change(5), 1) is Observed.NEEDS_VIEW
    assert peers.observe_change("A", change(5, joined=[record("y")]), 1) is Observed.APPLIED


def test_a_replica_that_started_anew_is_asked_for_its_view() -> None:
    peers = Peers()
    peers.observe_view("A", view(version=4), 0)
    assert peers.observe_change("A", change(4, incarnation=2), 1) is Observed.NEEDS_VIEW
    peers.observe_view("A", view(record("x"), incarnation=2, version=1), 1)
    assert peers.incarnation("A") == 2
    assert peers.observe_change("A", change(2, incarnation=2, joined=[record("y")]), 1) is Observed.APPLIED


def test_a_view_older_than_what_is_known_is_ignored() -> None:
    peers = Peers()
    peers.observe_view("A", view(record("x"), version=4), 0)
    peers.observe_view("A", view(version=3), 1)
    assert names(peers.merge(1)) == [("x", 1)]


# A simulated mesh ------------------------------------------------------------------------------------------------


class Replica:
    """A replica with real leases; down, it hears and says nothing."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.start(0)

    def start(self, now: int) -> None:
        self.up, self.incarnation, self.leases = True, self.incarnation + 1, Leases(TTL, now)

    def view(self, now: int) -> View:
        leases = self.leases
        return View("r", leases.warming(now), TTL_S, leases.services(), self.incarnation, leases.version)


class Mesh:
    """Two replicas, three services that announce themselves each 250 ms, and one watcher."""

    def __init__(self) -> None:
        self.now = 0
        self.replicas = [Replica(), Replica()]
        self.alive = {"a": 1, "b": 1, "c": 1}
        self.incarnations = dict(self.alive)
        self.peers = Peers()
        self.seen: dict[str, int] = {}

    def toggle_replica(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.up:
            replica.up = False
        else:
            replica.start(self.now)

    def toggle_service(self, number: int) -> None:
        instance = "abc"[number]
        if self.alive.pop(instance, None) is None:
            self.incarnations[instance] += 1
            self.alive[instance] = self.incarnations[instance]

    def hear(self, number: int) -> None:
        if self.replicas[number].up:
            self.peers.observe_view(str(number), self.replicas[number].view(self.now), self.now)
            self.look()

    def wait(self, quarters: int) -> None:
        for _ in range(quarters):
            self.now += SECOND // 4
            for replica in self.replicas:
                if replica.up:
                    for instance, incarnation in self.alive.items():
                        replica.leases.announce(record(instance, incarnation), self.now)
                    replica.leases.expire(self.now)
            self.look()

    def look(self) -> dict[str, int]:
        merged = {peer.instance: peer.incarnation for peer in self.peers.merge(self.now)}
        for instance, incarnation in self.alive.items():
            if self.seen.get(instance) == incarnation:
                assert merged.get(instance) == incarnation, "a living service was dropped"
        self.seen.update(merged)
        return merged


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("toggle_replica"), st.integers(0, 1)),
        st.tuples(st.just("toggle_service"), st.integers(0, 2)),
        st.tuples(st.just("hear"), st.integers(0, 1)),
        st.tuples(st.just("wait"), st.integers(1, 8)),
    ),
    max_size=80,
)


@settings(max_examples=200)
@given(STEPS)
def test_living_services_are_never_dropped_and_dead_ones_do_not_stay(steps: list[tuple[str, int]]) -> None:
    mesh = Mesh()
    for step, number in steps:
        getattr(mesh, step)(number)
    # All is well again: after a lease and a half everybody who lives is listed, and nobody else.
    for replica in mesh.replicas:
        if not replica.up:
            replica.start(mesh.now)
    for _ in range(20):
        mesh.wait(1)
        mesh.hear(0)
        mesh.hear(1)
    assert mesh.look() == mesh.alive
    merged = mesh.peers.merge(mesh.now)
    assert [name_of(peer) for peer in merged] == sorted(name_of(peer) for peer in merged)
