"""Registry replicas and watchers over real sockets, in one loop; a replica can come back to its address, a file."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from lfmesh.messages import (
    AnnounceRequest,
    LookupRequest,
    Rejected,
    Reply,
    StatesRequest,
    View,
    decode_reply,
    encode,
)
from lfmesh.observe.log import logger
from lfmesh.ports import Context
from lfmesh.services.registry import RegistryService, RegistryStatistics
from lfmesh.services.runtime import Running, running
from lfmesh.transport import Requester, Transport
from lfmesh.types import Role
from tests.aio import eventually, run
from tests.services.registry.mesh import record, replica, replica_config, started, watching


async def ask(transport: Transport, folder: Path, name: str, payload: bytes) -> object:
    requester = Requester(transport, f"ipc://{folder}/{name}.r")
    try:
        return decode_reply((await requester.request(payload, 5.0))[0])
    finally:
        requester.close()


def statistics(replica: Running) -> RegistryStatistics:
    found = replica.service.statistics()
    assert isinstance(found, RegistryStatistics)
    return found


def test_a_service_is_found_by_who_watches_before_and_by_who_comes_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with replica(tmp_path, "a"), watching(tmp_path, "a") as early, watching(tmp_path, "a") as service:
            await eventually(lambda: early.replicas() == ["registry-a"])
            service.discovery.announce(record("gateway-0"))
            await eventually(lambda: early.names() == [("gateway-0", 1)])
            async with watching(tmp_path, "a") as late:
                await eventually(lambda: late.names() == [("gateway-0", 1)])
            assert list(early.views[-1]) == list(early.discovery.peers)

    run(scenario())


def test_a_replica_lists_itself_with_all_that_others_need_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with replica(tmp_path, "a") as running_replica, watching(tmp_path, "a") as watcher:
            await eventually(lambda: watcher.replicas() == ["registry-a"])
            assert watcher.discovery.peers == (running_replica.record,)
            assert watcher.discovery.peers[0].endpoints.keys() == {"requests", "changes", "telemetry"}
            assert watcher.discovery.peers[0].http.startswith("http://127.0.0.1:")

    run(scenario())


def test_a_change_of_the_record_is_announced_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        # With a lease this long, the next regular announcement would come after the test's deadline.
        async with (
            replica(tmp_path, "a", 60.0),
            watching(tmp_path, "a", ttl_s=60.0) as watcher,
            watching(tmp_path, "a", ttl_s=60.0) as service,
        ):
            await eventually(lambda: watcher.replicas() and service.replicas())
            service.discovery.announce(record("gateway-0", 1, pid=1))
            service.discovery.announce(record("gateway-0", 1, pid=2))
            await eventually(lambda: [peer.pid for peer in watcher.discovery.peers if peer.pid < 3] == [2])

    run(scenario())


def test_a_silent_service_is_dropped_after_its_lease_and_one_that_leaves_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            replica(tmp_path, "a") as registry,
            watching(tmp_path, "a") as watcher,
            watching(tmp_path, "a") as leaving,
        ):
            async with watching(tmp_path, "a") as dying:
                dying.discovery.announce(record("dying"))
                leaving.discovery.announce(record("leaving"))
                await eventually(lambda: watcher.names() == [("dying", 1), ("leaving", 1)])
                await eventually(lambda: not statistics(registry).warming)
                assert watcher.names() == [("dying", 1), ("leaving", 1)]
            await leaving.discovery.leave()
            await eventually(lambda: watcher.names() == [("dying", 1)])
            assert statistics(registry).expired_total == 0
            await eventually(lambda: watcher.names() == [])
            figures = statistics(registry)
            assert (figures.joined_total, figures.left_total, figures.expired_total) == (2, 1, 1)

    run(scenario())


def test_a_new_incarnation_takes_the_place_of_the_old_one_which_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            replica(tmp_path, "a") as registry,
            watching(tmp_path, "a") as old,
            watching(tmp_path, "a") as new,
        ):
            old.discovery.announce(record("gateway-0", 1))
            await eventually(lambda: new.names() == [("gateway-0", 1)])
            new.discovery.announce(record("gateway-0", 2))
            await eventually(lambda: old.names() == [("gateway-0", 2)])
            await eventually(lambda: "registry refuses this service" in old.events())
            await old.discovery.leave()
            assert statistics(registry).left_total == 0
            assert new.names() == [("gateway-0", 2)]

    run(scenario())


def test_a_replica_that_starts_empty_takes_nobody_away_and_is_filled_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            watcher = await stack.enter_async_context(watching(tmp_path, "a"))
            service = await stack.enter_async_context(watching(tmp_path, "a"))
            first = await started(tmp_path, "a")
            service.discovery.announce(record("gateway-0"))
            await eventually(lambda: watcher.names() == [("gateway-0", 1)])
            await first.stop()
            second = await stack.enter_async_context(replica(tmp_path, "a"))
            assert statistics(second).warming
            await eventually(lambda: statistics(second).services.get("gateway") == 1)
            await eventually(lambda: not statistics(second).warming)
            assert all(
                any(peer.instance == "gateway-0" for peer in view)
                for view in watcher.views[[len(view) for view in watcher.views].index(2) :]
            )
            # The new replica is heard, not only the old one remembered.
            await service.discovery.leave()
            await eventually(lambda: watcher.names() == [])

    run(scenario())


def test_a_replica_that_starts_empty_is_filled_without_waiting_for_the_next_announcements(tmp_path: Path) -> None:
    async def scenario() -> None:
        # With a lease this long, the next regular announcement would come after the test's deadline.
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(watching(tmp_path, "a", ttl_s=60.0))
            first = await started(tmp_path, "a", 60.0)
            service.discovery.announce(record("gateway-0"))
            await eventually(lambda: service.names() == [("gateway-0", 1)])
            await first.stop()
            second = await stack.enter_async_context(replica(tmp_path, "a", 60.0))
            await eventually(lambda: statistics(second).services.get("gateway") == 1)

    run(scenario())


def test_a_replica_that_does_not_list_itself_yet_is_asked_again_soon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watching(tmp_path, "a", ttl_s=60.0) as watcher:
            config = replica_config(tmp_path, "a", 60.0)
            service = RegistryService(config, Context(7, lambda: 0, logger(config.log), lambda coro: coro.close()))
            await service.start()
            link = f"ipc://{tmp_path}/a.r"
            await eventually(lambda: watcher.discovery.merged.incarnation(link) == 7)
            assert watcher.discovery.peers == ()
            own = record("registry-a")
            service.on_peers([msgspec.structs.replace(own, role=Role.REGISTRY, endpoints=service.endpoints())])
            await eventually(lambda: watcher.replicas() == ["registry-a"])
            await service.stop()

    run(scenario())


def test_views_of_two_replicas_that_differ_are_merged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            replica(tmp_path, "a"),
            replica(tmp_path, "b") as second,
            watching(tmp_path, "a") as only_a,
            watching(tmp_path, "b") as only_b,
            watching(tmp_path, "a", "b") as both,
        ):
            only_a.discovery.announce(record("x"))
            only_a.discovery.announce(record("x"))
            only_b.discovery.announce(record("y"))
            await eventually(lambda: both.names() == [("x", 1), ("y", 1)])
            assert both.replicas() == ["registry-a", "registry-b"]
            await eventually(lambda: not statistics(second).warming)
            # b has never heard of x, and is warm: a lists it, so it stays.
            await eventually(lambda: only_b.names() == [("y", 1)])
            assert both.names() == [("x", 1), ("y", 1)]

    run(scenario())


def test_the_loss_of_one_replica_changes_nothing_and_of_all_freezes_the_view(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            watcher = await stack.enter_async_context(watching(tmp_path, "a", "b"))
            service = await stack.enter_async_context(watching(tmp_path, "a", "b"))
            first = await started(tmp_path, "a")
            second = await started(tmp_path, "b")
            service.discovery.announce(record("gateway-0"))
            await eventually(lambda: len(watcher.discovery.peers) == 3)
            await eventually(lambda: not statistics(first).warming and not statistics(second).warming)

            await first.stop()
            await eventually(lambda: "registry replica lost" in watcher.events())
            await eventually(lambda: watcher.replicas() == ["registry-b"])
            assert watcher.names() == [("gateway-0", 1)]

            await second.stop()
            await eventually(lambda: any("last view" in event for event in watcher.events()))
            service.discovery.close()  # it is gone, and nobody is there to say so
            assert watcher.names() == [("gateway-0", 1)]

            # Back again, without a restart of who watches; now somebody says so.
            third = await stack.enter_async_context(replica(tmp_path, "a"))
            await eventually(lambda: not statistics(third).warming)
            await eventually(lambda: watcher.names() == [])

    run(scenario())


def test_a_restarted_replica_at_another_address_of_changes_is_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            watcher = await stack.enter_async_context(watching(tmp_path, "a", ttl_s=2.0))
            service = await stack.enter_async_context(watching(tmp_path, "a", ttl_s=2.0))
            first = await started(tmp_path, "a", 2.0)
            await eventually(lambda: watcher.replicas() == ["registry-a"])
            await first.stop()
            moved = replica_config(tmp_path, "a", 2.0).override({"registry": {"bind_changes": "tcp://127.0.0.1:0"}})
            await stack.enter_async_context(running(RegistryService, moved, Role.REGISTRY))
            await eventually(lambda: watcher.discovery.peers[0].endpoints["changes"].startswith("tcp://"))
            service.discovery.announce(record("gateway-0"))
            await eventually(lambda: watcher.names() == [("gateway-0", 1)])

    run(scenario())


def test_bad_requests_are_refused_and_counted_and_harm_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            replica(tmp_path, "a") as registry,
            watching(tmp_path, "a") as service,
        ):
            service.discovery.announce(record("gateway-0"))
            transport = service.transport
            sound = encode(AnnounceRequest(record("x")))
            for payload in (b"", b"\x00", b"garbage" * 100, sound[:-3], sound + b"\xc1", msgspec.msgpack.encode(None)):
                answer = await ask(transport, tmp_path, "a", payload)
                assert isinstance(answer, Rejected), payload
            assert statistics(registry).rejected_total == {"malformed": 6}

            answer = await ask(transport, tmp_path, "a", encode(StatesRequest(0)))
            assert answer == Rejected("a registry takes announcements and lookups")
            unusable = msgspec.structs.replace(record("x"), endpoints={"raw": "tcp://nowhere"})
            answer = await ask(transport, tmp_path, "a", encode(AnnounceRequest(unusable)))
            assert isinstance(answer, Rejected)
            assert "tcp://HOST:PORT" in answer.reason
            assert statistics(registry).rejected_total == {"malformed": 6, "other_request": 1, "bad_record": 1}

            answer = await ask(transport, tmp_path, "a", encode(LookupRequest()))
            assert isinstance(answer, View)
            assert [peer.instance for peer in answer.services] == ["registry-a", "gateway-0"]

    run(scenario())


def test_an_oversized_request_costs_its_sender_the_connection_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with replica(tmp_path, "a"), watching(tmp_path, "a") as service:
            flood = Requester(service.transport, f"ipc://{tmp_path}/a.r")
            answers: list[object] = []
            flood.ask(b"x" * 1_000_000, answers.append, 0.2)
            await eventually(lambda: answers == [None])
            flood.close()
            assert await ask(service.transport, tmp_path, "a", encode(AnnounceRequest(record("x")))) == Reply()

    run(scenario())


def test_who_closes_hears_no_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with replica(tmp_path, "a"), watching(tmp_path, "a") as watcher:
            closed = asyncio.Event()

            def close() -> None:
                watcher.discovery.close()
                closed.set()

            watcher.then = close  # from within what it calls, as `lfmesh top --once` does
            await closed.wait()
            async with watching(tmp_path, "a") as other:
                other.discovery.announce(record("x"))
                await eventually(lambda: other.names() == [("x", 1)])
            assert watcher.names() == []

    run(scenario())
