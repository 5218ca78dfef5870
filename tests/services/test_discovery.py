"""What discovery does beside plain watching: names, replicas without changes, peers of the configuration."""

from pathlib import Path

import pytest

from lfmesh.config import RegistrySection, StaticPeer
from lfmesh.errors import BadEndpoint, ConfigError
from lfmesh.services.discovery import static_peers
from lfmesh.services.registry import RegistryService
from lfmesh.services.resolve import is_numeric
from lfmesh.services.runtime import running
from lfmesh.types import Role
from tests.aio import eventually, run
from tests.services.registry.mesh import Watcher, record, replica_config, watching


def watcher_of(endpoint: str) -> Watcher:
    return Watcher(RegistrySection(endpoints=(endpoint,), lease_ttl_s=0.6, announce_interval_s=0.1))


def test_replicas_are_found_by_name(tmp_path: Path) -> None:
    config = replica_config(tmp_path, "a").override({"registry": {"bind_requests": "tcp://127.0.0.1:0"}})

    async def scenario() -> None:
        async with running(RegistryService, config, Role.REGISTRY) as replica:
            assert replica.record is not None
            port = replica.record.endpoints["requests"].rpartition(":")[2]
            watcher = watcher_of(f"tcp://localhost:{port}")
            watcher.discovery.start()
            watcher.discovery.announce(record("gateway-0"))
            await eventually(lambda: watcher.names() == [("gateway-0", 1)])
            watcher.close()

    run(scenario())


@pytest.mark.parametrize(
    ("endpoint", "numeric"),
    [("tcp://127.0.0.1:1", True), ("tcp://[::1]:1", True), ("ipc:///tmp/x", True), ("tcp://registry:7400", False)],
)
def test_names_are_told_from_addresses(endpoint: str, numeric: bool) -> None:
    assert is_numeric(endpoint) is numeric


def test_without_the_replicas_changes_lookups_keep_the_view_up_to_date(tmp_path: Path) -> None:
    # It says that its changes are published where nobody listens.
    config = replica_config(tmp_path, "a").override(
        {"registry": {"bind_changes": "tcp://0.0.0.0:0"}, "mesh": {"advertise_host": "127.0.0.255"}}
    )

    async def scenario() -> None:
        async with (
            running(RegistryService, config, Role.REGISTRY),
            watching(tmp_path, "a") as watcher,
            watching(tmp_path, "a") as service,
        ):
            await eventually(lambda: watcher.replicas() == ["registry-a"])
            assert watcher.discovery.peers[0].endpoints["changes"].startswith("tcp://127.0.0.255:")
            service.discovery.announce(record("gateway-0"))
            await eventually(lambda: watcher.names() == [("gateway-0", 1)])
            await service.discovery.leave()
            await eventually(lambda: watcher.names() == [])
            assert "registry replica lost" not in watcher.events()

    run(scenario())


def test_a_replica_that_does_not_answer_is_complained_of_once_and_floods_nobody_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watching(tmp_path, "a") as service:
            service.discovery.announce(record("gateway-0"))
            await eventually(lambda: "registry replica does not answer" in service.events(), timeout=20)
            async with running(RegistryService, replica_config(tmp_path, "a"), Role.REGISTRY) as replica:
                await eventually(lambda: service.names() == [("gateway-0", 1)])
                # Of all that was asked in vain, only what the last socket asked arrives.
                assert replica.service.figures().messages_in_total <= 4
            assert service.events().count("registry replica does not answer") == 1

    run(scenario())


def test_an_address_of_a_replica_that_is_none_is_told_at_the_start() -> None:
    async def scenario() -> None:
        watcher = watcher_of("tcp://127.0.0.1")
        with pytest.raises(BadEndpoint, match=r"cannot connect to tcp://127\.0\.0\.1: "):
            watcher.discovery.start()
        watcher.close()

    run(scenario())


def test_peers_of_the_configuration_become_records() -> None:
    peer = StaticPeer(role=Role.NORMALIZER, instance="normalizer-1", shard=1, endpoints={"raw": "tcp://10.0.0.5:7500"})
    (found,) = static_peers(RegistrySection(static_peers=(peer,)))
    assert (found.role, found.instance, found.shard) == (Role.NORMALIZER, "normalizer-1", 1)
    assert found.endpoints == {"raw": "tcp://10.0.0.5:7500"}


def test_a_peer_of_the_configuration_without_a_port_is_a_clear_error() -> None:
    peer = StaticPeer(role=Role.NORMALIZER, instance="normalizer-1", endpoints={"raw": "tcp://10.0.0.5"})
    with pytest.raises(ConfigError, match=r"raw of normalizer-1 must be tcp://HOST:PORT .* 'tcp://10.0.0.5'"):
        static_peers(RegistrySection(static_peers=(peer,)))
