"""Start, refusals and the end."""

import asyncio

import pytest
from websockets.exceptions import ConnectionClosed

from lfmesh.errors import PortInUse
from lfmesh.messages import ServiceRecord
from lfmesh.ports import ServesHttp, Service
from lfmesh.services.gateway import GatewayService
from lfmesh.types import Role
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, configured, place, world
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
                assert 0 <= goaway["reconnect_ms"] < 1000
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
