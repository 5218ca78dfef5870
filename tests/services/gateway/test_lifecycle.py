"""Start, refusals and the end."""

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lfmesh.errors import PortInUse
from lfmesh.messages import ServiceRecord
from lfmesh.ports import ServesHttp, Service
from lfmesh.services.gateway import GatewayService
from lfmesh.types import Role
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, Client, configured, place, world
from tests.services.gateway.test_joins import flowing


def test_a_port_in_use_is_told_in_one_line() -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            second = GatewayService(configured(port=here.address[1]), here.supervisor.context())
            with pytest.raises(PortInUse, match=f"{here.address[1]} is in use"):
                await second.start()
            await second.stop()

    run(scenario())


def test_it_is_a_service_as_the_runtime_knows_them() -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            service: Service = here.gateway
            assert isinstance(service, ServesHttp)
            assert (service.role, service.instance, service.shard) == (Role.GATEWAY, "gateway-0", None)
            assert service.endpoints() == {}
            assert service.http_url() == f"http://127.0.0.1:{here.address[1]}"
            figures = service.figures()
            assert (figures.clients, figures.messages_in_total, figures.lag_ms) == (0, 0, None)
            here.gateway.on_peers([])
            assert service.readiness() == ["no beacon from normalizer-0 yet"] or service.readiness() == [
                "no normalizer of shard 0 is known"
            ]

    run(scenario())


def test_before_it_starts_it_is_not_ready_and_remembers_its_peers() -> None:
    async def scenario() -> None:
        async with world() as here:
            other = GatewayService(configured(), here.supervisor.context())
            assert other.readiness() == ["not started"]
            other.on_peers(here.peers())
            await other.start()
            await eventually(lambda: other.statistics().shards_attached == 1)
            await other.stop()
            await other.stop()

    run(scenario())


def test_past_the_bound_connections_are_refused_with_1013() -> None:
    async def scenario() -> None:
        async with world(configured(max_clients=2), beacons=False) as here, here.client() as first:
            async with here.client(), here.client() as third:
                assert await third.closed() == (1013, "full, try later")
            await eventually(lambda: here.gateway.statistics().clients == 1)
            async with here.client() as fourth:
                await fourth.send(op="ping", t=1)
                assert (await fourth.next())["op"] == "pong"
            await first.send(op="ping", t=1)
            assert (await first.next())["op"] == "pong"
            assert here.gateway.statistics().refused_total == {"full": 1}

    run(scenario())


def test_at_the_end_clients_are_told_and_data_flows_until_they_go() -> None:
    async def scenario() -> None:
        async with world(configured(drain_s=20.0)) as here, here.client() as client, here.client() as other:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            stopping = asyncio.ensure_future(here.gateway.stop())
            for one in (client, other):
                goaway = await one.next()
                assert (goaway["op"], goaway["reason"]) == ("goaway", "draining")
                assert 0 <= goaway["reconnect_ms"] <= 5000
            here.normalizer.publish(TICKER, [4])
            assert place(await client.next()) == ("incr", epoch, 4)
            with pytest.raises(OSError, match="Connect call failed"):
                await asyncio.open_connection(*here.address)
            await client.connection.close()
            await other.connection.close()
            await stopping

    run(scenario())


def test_who_does_not_go_is_closed_with_1001() -> None:
    async def scenario() -> None:
        async with world(configured(drain_s=0.1), beacons=False) as here, here.client() as client:
            stopping = asyncio.ensure_future(here.gateway.stop())
            assert await client.closed() == (1001, "draining")
            await stopping
            with pytest.raises(ConnectionClosed):
                await client.connection.send("{}")

    run(scenario())


def test_clients_are_sent_away_one_after_the_other_and_come_back_one_after_the_other() -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            here = await stack.enter_async_context(world(configured(drain_s=2.0)))
            clients = [await stack.enter_async_context(here.client()) for _ in range(8)]
            went: list[tuple[str, int]] = []

            async def watch(number: int, client: Client) -> None:
                goaway = await client.next()
                assert (goaway["op"], goaway["reason"]) == ("goaway", "draining")
                went.append(("goaway", number))
                assert await client.closed() == (1001, "draining")
                went.append(("closed", number))

            watching = [asyncio.ensure_future(watch(*one)) for one in enumerate(clients)]
            await here.gateway.stop()
            await asyncio.gather(*watching)
            assert [number for what, number in went if what == "goaway"] == list(range(8))
            assert [number for what, number in went if what == "closed"] == list(range(8))
            assert went.index(("goaway", 1)) < went.index(("closed", 0)), "each has time to go by itself"
            statistics = here.gateway.statistics()
            assert (statistics.goaways_total, statistics.closes_total) == (8, {"1001": 8})
            waits = [client.messages[0]["reconnect_ms"] for client in clients]
            assert len(set(waits)) == 8

    run(scenario())


def test_while_it_drains_it_is_not_ready_says_so_and_refuses_who_was_in_the_door() -> None:
    async def scenario() -> None:
        async with world(configured(drain_s=20.0)) as here, here.client() as client:
            await flowing(here, TICKER)
            await eventually(lambda: here.gateway.readiness() == [])
            front = here.gateway._front
            assert front is not None
            known = len(front._doorway.connections)
            with socket.create_connection(here.address) as waiting, socket.create_connection(here.address):
                await eventually(lambda: len(front._doorway.connections) == known + 2)
                stopping = asyncio.ensure_future(here.gateway.stop())
                assert (await client.next())["op"] == "goaway"
                assert here.gateway.readiness() == ["draining"]
                assert here.gateway.statistics().draining
                waiting.setblocking(False)
                with pytest.raises(InvalidStatus, match="503"):
                    await connect(here.ws_url, sock=waiting)
                with pytest.raises(OSError, match="Connect call failed"):
                    await asyncio.open_connection(*here.address)
                await client.connection.close()
                await stopping  # though somebody has connected and says nothing

    run(scenario())


def test_what_waits_for_a_client_still_comes_before_it_is_closed() -> None:
    async def scenario() -> None:
        async with world(configured(drain_s=0.2)) as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            client.connection.transport.pause_reading()
            (known,) = here.gateway._hub._clients
            while not known.pending:
                here.normalizer.publish(TICKER, list(range(1000)))
                await here.caught_up(TICKER)
            newest = here.normalizer.model.streams[TICKER].position.seq
            stopping = asyncio.ensure_future(here.gateway.stop())
            await eventually(lambda: known.leaving)
            here.normalizer.publish(TICKER, [1])
            client.checks = False
            client.connection.transport.resume_reading()
            async with asyncio.timeout(20):
                seqs = []
                try:
                    while True:
                        message = await client.next()
                        if message["op"] == "incr":
                            seqs.append(message["data"]["seq"])
                except ConnectionClosed:
                    pass
            assert seqs == list(range(4, newest + 1)), "all of it, and nothing more"
            assert client.connection.close_code == 1001
            assert client.messages[-1]["op"] == "goaway"
            assert epoch
            await stopping

    run(scenario())


def test_who_reads_nothing_does_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        async with world(configured(drain_s=0.0)) as here, here.client() as client:
            await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            client.connection.transport.pause_reading()
            (known,) = here.gateway._hub._clients
            while not known.pending:
                here.normalizer.publish(TICKER, list(range(1000)))
                await here.caught_up(TICKER)
            await here.gateway.stop()
            assert here.gateway.statistics().clients == 0
            client.connection.transport.abort()

    run(scenario())


def test_peers_of_other_roles_and_shards_are_left_alone() -> None:
    async def scenario() -> None:
        async with world() as here:
            record = here.normalizer.record
            strangers = [
                ServiceRecord(Role.INGESTOR, "ingestor-A", 1, {"requests": "tcp://127.0.0.1:1"}, "0", 1, "localhost"),
                ServiceRecord(Role.NORMALIZER, "normalizer-9", 1, record.endpoints, "0", 1, "localhost", 9),
                ServiceRecord(Role.NORMALIZER, "half", 1, {"requests": "tcp://127.0.0.1:1"}, "0", 1, "localhost", 0),
            ]
            here.gateway.on_peers([*here.peers(), *strangers])
            followed = {entry["peer"] for entry in here.supervisor.events("following")}
            assert followed == {"normalizer-0", "snapshotter-0"}

    run(scenario())
