"""Two consumers of a shard, any number of publishers, and a network that does anything: see `model_mesh`."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lfmesh.types import StreamKey
from tests.core.model_mesh import KEYS, Fate, Mesh, Mode

ROUNDS = 8
"""After so many seconds of a fair network everything is whole."""

PUBLISHERS = 5

fate: st.SearchStrategy[Fate] = st.sampled_from(("arrive", "arrive", "arrive", "lose", "wait", "twice"))
fates = st.tuples(fate, fate)
mode: st.SearchStrategy[Mode] = st.sampled_from(("continue", "continue", "open", "unaware"))
which = st.integers(0, PUBLISHERS - 1)
consumer = st.integers(0, 1)
key = st.sampled_from(KEYS)


class Machine(RuleBasedStateMachine):
    """Everything that the issue names, in any order."""

    mesh: Mesh

    @initialize(ring_bytes=st.sampled_from((3, 12, 1000)))
    def begin(self, ring_bytes: int) -> None:
        self.mesh = Mesh(ring_bytes)

    @rule(key=key, number=st.integers(1, 3), fates=fates)
    def publish(self, key: StreamKey, number: int, fates: tuple[Fate, Fate]) -> None:
        mesh = self.mesh
        active = mesh.active
        mesh.send(mesh.publishers.index(active), active.publish(key, number), fates)

    @rule(publisher=which, key=key, number=st.integers(0, 3), fates=fates)
    def anybody_publishes(self, publisher: int, key: StreamKey, number: int, fates: tuple[Fate, Fate]) -> None:
        mesh = self.mesh
        publisher %= len(mesh.publishers)
        mesh.send(publisher, mesh.publishers[publisher].publish(key, number), fates)

    @rule(publisher=which, key=key, skipped=st.integers(0, 2), fates=fates)
    def open_epoch(self, publisher: int, key: StreamKey, skipped: int, fates: tuple[Fate, Fate]) -> None:
        mesh = self.mesh
        publisher %= len(mesh.publishers)
        mesh.send(publisher, mesh.publishers[publisher].open(key, skipped), fates)

    @rule(publisher=which, full=st.booleans(), fates=fates)
    def beacon(self, publisher: int, full: bool, fates: tuple[Fate, Fate]) -> None:
        mesh = self.mesh
        publisher %= len(mesh.publishers)
        mesh.send(publisher, mesh.publishers[publisher].beacon(full=full), fates)

    @rule(publisher=which, consumer=consumer, place=which)
    def deliver_late(self, publisher: int, consumer: int, place: int) -> None:
        self.mesh.deliver(publisher % len(self.mesh.publishers), consumer, place)

    @precondition(lambda self: len(self.mesh.publishers) < PUBLISHERS)
    @rule(
        source=which, modes=st.tuples(mode, mode), back=st.integers(0, 4), with_ring=st.booleans(),
        same_term=st.sampled_from((False, False, False, True)), instance=st.integers(1, 9),
    )  # fmt: skip
    def take_over(
        self, source: int, modes: tuple[Mode, Mode], back: int, with_ring: bool, same_term: bool, instance: int
    ) -> None:  # fmt: skip
        self.mesh.take_over(source, modes, back, with_ring=with_ring, same_term=same_term, instance=instance)

    @rule(pairs=st.sets(st.tuples(which, consumer)))
    def partition(self, pairs: set[tuple[int, int]]) -> None:
        self.mesh.cut = pairs

    @rule(consumer=consumer)
    def ask(self, consumer: int) -> None:
        self.mesh.ask(consumer)

    @rule()
    def serve(self) -> None:
        self.mesh.serve()

    @rule(publisher=which, lose=st.booleans())
    def serve_badly(self, publisher: int, lose: bool) -> None:
        self.mesh.serve(publisher, lose=lose)

    @rule(place=which)
    def answer(self, place: int) -> None:
        self.mesh.answer(place)

    @rule(lose=st.booleans())
    def answer_badly(self, lose: bool) -> None:
        self.mesh.answer(lose=lose, keep=not lose)

    @rule(tenths=st.sampled_from((1, 3, 6, 20)))
    def wait(self, tenths: int) -> None:
        self.mesh.tick(tenths * 100_000_000)

    @rule()
    def store(self) -> None:
        self.mesh.consumers[0].store()

    @rule(consumer=consumer)
    def restart(self, consumer: int) -> None:
        self.mesh.consumers[consumer].restart()

    @rule()
    def settle(self) -> None:
        self.mesh.settle(ROUNDS)

    def teardown(self) -> None:
        if hasattr(self, "mesh"):
            self.mesh.settle(ROUNDS)


TestMesh = Machine.TestCase
TestMesh.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
