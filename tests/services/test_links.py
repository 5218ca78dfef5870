"""When a consumer makes new sockets: by what comes over a link, with the time as an argument."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lfmesh.core.sharding import stable_id
from lfmesh.errors import RequestTimeout
from lfmesh.messages import ServiceRecord
from lfmesh.services.links import REBUILD_MAX_PAUSE_NS, Links
from lfmesh.transport import Responder, Server, Subscriber, Transport
from lfmesh.types import Role
from tests.aio import run

ANY = "tcp://127.0.0.1:0"
SECOND = 1_000_000_000
BEAT = SECOND // 10


def record(role: Role, instance: str, endpoint: str, shard: int = 0, incarnation: int = 1) -> ServiceRecord:
    endpoints = {"requests": endpoint, "market_data": "tcp://127.0.0.1:9"}
    return ServiceRecord(role, instance, incarnation, endpoints, "0", 1, "localhost", shard)


class Desk:
    """Links to servers that answer with their own name, or not at all."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.deaf = False
        self.links = Links(
            transport,
            Subscriber(transport, [b""], lambda _: None, hwm=0),
            (Role.NORMALIZER, Role.SNAPSHOTTER),
            (0, 1),
        )
        self.records: list[ServiceRecord] = []

    def add(self, role: Role, instance: str, shard: int = 0) -> ServiceRecord:
        def answer(_: bytes, responder: Responder) -> None:
            if not self.deaf:
                responder.reply(instance.encode())

        made = record(role, instance, Server(self.transport, ANY, answer).endpoint, shard)
        self.records.append(made)
        attached, faults = self.links.update(self.records)
        assert (attached, faults) == ([made], [])
        return made

    def watch(self, heard_at: int | None, start: int, seconds: float, shard: int = 0) -> list[int]:
        """Beats for so long; the times (in tenths of a second since the start) at which sockets were made anew."""
        made = []
        for beat in range(round(seconds * 10)):
            before = self.links.rebuilt_total
            self.links.watch(shard, heard_at, start + beat * BEAT)
            if self.links.rebuilt_total > before:
                made.append(beat)
        return made


@contextmanager
def desk() -> Iterator[Desk]:
    with Transport() as transport:
        yield Desk(transport)


def test_a_silent_shard_s_links_are_made_anew_after_a_second_and_then_after_pauses_that_grow() -> None:
    async def scenario() -> None:
        with desk() as here:
            here.add(Role.NORMALIZER, "normalizer-0")
            here.add(Role.NORMALIZER, "normalizer-1", shard=1)
            start = 100 * SECOND
            assert here.watch(start, start, 1) == []
            assert here.watch(start, start, 40) == [10, 30, 70, 150, 230, 310, 390]
            assert REBUILD_MAX_PAUSE_NS == 8 * SECOND
            later = start + 100 * SECOND
            here.links.watch(0, later, later)
            assert here.watch(later, later, 2) == [10], "heard again: from the beginning"
            assert here.links.rebuilt_total == 8

    run(scenario())


def test_a_shard_that_is_heard_keeps_its_links_to_those_who_stand_by() -> None:
    async def scenario() -> None:
        with desk() as here:
            here.add(Role.NORMALIZER, "normalizer-0")
            here.add(Role.NORMALIZER, "normalizer-0b")
            for beat in range(100):
                here.links.watch(0, beat * BEAT, beat * BEAT)
            assert here.links.rebuilt_total == 0
            assert here.watch(100 * BEAT, 100 * BEAT, 1.5) == [10]
            assert here.links.rebuilt_total == 2, "whoever publishes: both"

    run(scenario())


def test_a_shard_that_was_never_heard_is_tried_anew_too() -> None:
    async def scenario() -> None:
        with desk() as here:
            here.add(Role.NORMALIZER, "normalizer-0")
            assert here.watch(None, 5 * SECOND, 4) == [10, 30]

    run(scenario())


def test_who_does_not_answer_twice_is_asked_over_a_new_socket() -> None:
    async def scenario() -> None:
        with desk() as here:
            here.add(Role.SNAPSHOTTER, "snapshotter-0")
            requester = here.links.snapshotter(0)
            assert requester is not None
            here.deaf = True
            for rebuilt in (0, 1):
                with pytest.raises(RequestTimeout):
                    await requester.request(b"", 0.05)
                here.links.watch(0, 0, 0)
                assert here.links.rebuilt_total == rebuilt
            here.deaf = False
            assert await requester.request(b"", 5.0) == [b"snapshotter-0"]
            here.links.watch(0, 0, 0)
            assert here.links.rebuilt_total == 1

    run(scenario())


def test_the_publisher_is_asked_and_where_none_is_known_they_take_turns() -> None:
    async def scenario() -> None:
        with desk() as here:
            assert here.links.normalizer(0, 7) is None
            for instance in ("normalizer-0", "normalizer-0b"):
                here.add(Role.NORMALIZER, instance)
                here.add(Role.SNAPSHOTTER, instance.replace("normalizer", "snapshotter"))

            async def asked(which: str, publisher: int = 0) -> bytes:
                links = here.links
                requester = links.snapshotter(0) if which == "snapshotter" else links.normalizer(0, publisher)
                assert requester is not None
                (name,) = await requester.request(b"", 5.0)
                return name

            publisher = stable_id("normalizer-0b")
            assert {await asked("normalizer", publisher) for _ in range(4)} == {b"normalizer-0b"}
            assert {await asked("normalizer") for _ in range(4)} == {b"normalizer-0", b"normalizer-0b"}
            assert {await asked("snapshotter") for _ in range(4)} == {b"snapshotter-0", b"snapshotter-0b"}

    run(scenario())
