"""Processes and links as values."""

import tomllib
from pathlib import Path

import pytest

from lfmesh.config import Config
from lfmesh.types import Role
from loadgen.chaos.topology import Surroundings, Topology, TopologyName, build, sections, sockets_needed, toml

PRODUCTS = ("BTC-USD", "ETH-USD")


def topology(name: TopologyName) -> Topology:
    return build(name, PRODUCTS, range(20_000, 20_000 + sockets_needed(name)))


@pytest.mark.parametrize("name", TopologyName)
def test_every_unit_has_a_configuration_that_the_mesh_takes(name: TopologyName, tmp_path: Path) -> None:
    mesh = topology(name)
    around = Surroundings(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"], "127.0.0.1:3", tmp_path)
    for unit in mesh.units:
        config = Config.model_validate(tomllib.loads(toml(sections(mesh, unit, around))))
        assert config.mesh.products == PRODUCTS
        assert config.mesh.shards == mesh.shards
        assert getattr(config, unit.role).instance == unit.name


@pytest.mark.parametrize("name", TopologyName)
def test_no_port_is_used_twice(name: TopologyName) -> None:
    ports = [port for unit in topology(name).units for port in unit.ports.values()]
    assert len(ports) == len(set(ports)) == sockets_needed(name)


def test_links_join_what_talks_to_each_other() -> None:
    single, pairs = topology(TopologyName.SINGLE), topology(TopologyName.PAIRS)
    assert "gateway-0=normalizer-1" in single.links()
    assert "ingestor-A=venue" in single.links()
    assert "normalizer-0=snapshotter-1" not in single.links(), "shards have nothing to do with each other"
    assert "normalizer-0a=normalizer-0b" in pairs.links()
    assert "ingestor-B=registry-1" in pairs.links()
    assert not any("gateway-0=gateway-1" in link for link in pairs.links())


def test_pairs_have_two_lines() -> None:
    assert [unit.line for unit in topology(TopologyName.PAIRS).of(Role.INGESTOR)] == ["A", "B"]


def test_subscriptions_never_vanish() -> None:
    for use in topology(TopologyName.PAIRS).uses():
        if use.name in ("market_data", "changes"):
            assert (use.drop_up, use.drop_down) == (False, True)
