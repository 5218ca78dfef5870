"""Which processes a mesh has, and the links between them. Pure: names, addresses and configuration as values.

A *link* is named by the two instances that it joins, `gateway-0=normalizer-1`, in alphabetical order; the exchange
is `venue`. Every socket of a link belongs to it, whoever connects.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from lfmesh.types import Line, Role

VENUE = "venue"
HOST = "127.0.0.1"


class TopologyName(StrEnum):
    """The meshes that are put to the test."""

    SINGLE = "single"
    """One ingestor, a normalizer and a snapshotter for each of two shards, two gateways, two registry replicas."""
    PAIRS = "pairs"
    """Two of everything, for one shard: ingestors A and B, a standby normalizer, a second snapshotter."""


@dataclass(frozen=True, slots=True)
class SocketUse:
    """A socket that `owner` binds and `connector` connects to. Of the directions, those in which messages may vanish
    (up: from the connector)."""

    connector: str
    owner: str
    name: str
    drop_up: bool
    drop_down: bool

    @property
    def link(self) -> str:
        """The link that it belongs to."""
        return link_of(self.connector, self.owner)


def link_of(one: str, other: str) -> str:
    """The name of the link between two instances."""
    return "=".join(sorted((one, other)))


@dataclass(frozen=True, slots=True)
class Unit:
    """One process. `ports`: what it binds at `host`, by socket; `ops` serves /metrics (of a gateway all HTTP)."""

    role: Role
    name: str
    shard: int | None = None
    line: Line | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    host: str = HOST

    def endpoint(self, socket: str) -> str:
        """The ZeroMQ address of one of its sockets, as it announces it."""
        return f"tcp://{self.host}:{self.ports[socket]}"

    @property
    def http(self) -> str:
        """Base URL of its HTTP port."""
        return f"http://{self.host}:{self.ports['ops']}"


SOCKETS: Mapping[Role, tuple[str, ...]] = {
    Role.REGISTRY: ("requests", "changes", "telemetry", "ops"),
    Role.INGESTOR: ("requests", "telemetry", "ops"),
    Role.NORMALIZER: ("raw", "market_data", "requests", "telemetry", "ops"),
    Role.SNAPSHOTTER: ("requests", "telemetry", "ops"),
    Role.GATEWAY: ("telemetry", "ops"),
}
"""What each role binds."""

_USES: Mapping[tuple[Role, Role], tuple[tuple[str, bool, bool], ...]] = {
    (Role.INGESTOR, Role.NORMALIZER): (("raw", True, False),),
    (Role.NORMALIZER, Role.INGESTOR): (("requests", True, True),),
    (Role.NORMALIZER, Role.SNAPSHOTTER): (("requests", True, True),),
    (Role.NORMALIZER, Role.NORMALIZER): (("market_data", False, True), ("requests", True, True)),
    (Role.SNAPSHOTTER, Role.NORMALIZER): (("market_data", False, True), ("requests", True, True)),
    (Role.GATEWAY, Role.NORMALIZER): (("market_data", False, True), ("requests", True, True)),
    (Role.GATEWAY, Role.SNAPSHOTTER): (("requests", True, True),),
}
"""Who connects to what, by (connector, owner): socket, and in which directions a message may vanish without breaking
what ZeroMQ itself promises (a subscription on a live connection is never lost)."""
_REGISTRY_USES = (("requests", True, True), ("changes", False, True))


@dataclass(frozen=True, slots=True)
class Topology:
    """A mesh: its units, in the order in which they are started, and its products."""

    name: TopologyName
    shards: int
    products: tuple[str, ...]
    units: tuple[Unit, ...]

    def at(self, hosts: Mapping[str, str]) -> "Topology":
        """The same mesh with its units at these addresses."""
        return replace(self, units=tuple(replace(unit, host=hosts[unit.name]) for unit in self.units))

    def of(self, role: Role) -> list[Unit]:
        """The units of a role."""
        return [unit for unit in self.units if unit.role is role]

    def unit(self, name: str) -> Unit:
        """A unit by its name; KeyError."""
        for unit in self.units:
            if unit.name == name:
                return unit
        raise KeyError(name)

    def uses(self) -> Iterator[SocketUse]:
        """Every (connector, socket) of the mesh, telemetry and the venue left out."""
        for connector in self.units:
            for owner in self.units:
                if connector.name == owner.name or not _meet(connector, owner):
                    continue
                uses = _REGISTRY_USES if owner.role is Role.REGISTRY else _USES.get((connector.role, owner.role), ())
                for socket, drop_up, drop_down in uses:
                    yield SocketUse(connector.name, owner.name, socket, drop_up, drop_down)

    def links(self) -> list[str]:
        """The names of all links, that to the exchange among them."""
        venue = [link_of(VENUE, unit.name) for unit in self.of(Role.INGESTOR)]
        return sorted({use.link for use in self.uses()}) + venue


def _meet(connector: Unit, owner: Unit) -> bool:
    if connector.role is Role.REGISTRY:
        return False
    return connector.shard is None or owner.shard is None or connector.shard == owner.shard


def sockets_needed(name: TopologyName) -> int:
    """How many ports `build` takes."""
    return sum(len(SOCKETS[unit.role]) for unit in _units(name))


def build(name: TopologyName, products: Sequence[str], ports: Sequence[int]) -> Topology:
    """A topology whose sockets are bound to these ports, in order."""
    remaining = iter(ports)
    units = tuple(
        Unit(unit.role, unit.name, unit.shard, unit.line, {socket: next(remaining) for socket in SOCKETS[unit.role]})
        for unit in _units(name)
    )
    return Topology(name, _shards(name), tuple(products), units)


def _shards(name: TopologyName) -> int:
    return 2 if name is TopologyName.SINGLE else 1


def _units(name: TopologyName) -> list[Unit]:
    registries = [Unit(Role.REGISTRY, f"registry-{number}") for number in range(2)]
    gateways = [Unit(Role.GATEWAY, f"gateway-{number}") for number in range(2)]
    sharded: list[Unit] = []
    for role in (Role.NORMALIZER, Role.SNAPSHOTTER):
        match name:
            case TopologyName.SINGLE:
                sharded += [Unit(role, f"{role}-{shard}", shard) for shard in range(2)]
            case TopologyName.PAIRS:
                sharded += [Unit(role, f"{role}-0{letter}", 0) for letter in "ab"]
    lines: tuple[Line, ...] = ("A",) if name is TopologyName.SINGLE else ("A", "B")
    ingestors = [Unit(Role.INGESTOR, f"ingestor-{line}", None, line) for line in lines]
    return [*registries, *sharded, *gateways, *ingestors]


Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a unit's configuration needs to know beyond itself: `registries` and `venue` are addresses of its own."""

    registries: Sequence[str]
    venue: str
    data_dir: Path


def sections(topology: Topology, unit: Unit, around: Surroundings) -> Sections:
    """The configuration of one unit: the defaults, but for addresses, and for watchdogs that a short round can try."""
    found: Sections = {
        "mesh": {
            "products": list(topology.products),
            "shards": topology.shards,
            "data_dir": str(around.data_dir),
        },
        "registry": {"endpoints": list(around.registries) or [unit.endpoint("requests")]},
        "ops": {"host": unit.host, "port": unit.ports["ops"]},
    }
    own: dict[str, Any] = {"instance": unit.name}
    own |= {f"bind_{socket}": unit.endpoint(socket) for socket in unit.ports if socket != "ops"}
    match unit.role:
        case Role.GATEWAY:
            own |= {"host": unit.host, "port": unit.ports["ops"]}
        case Role.INGESTOR:
            own["line"] = unit.line
            addresses = len(topology.of(Role.INGESTOR))
            found["venue"] = {
                "ws_url": f"ws://{around.venue}",
                "rest_url": f"http://{around.venue}",
                "channels": ["heartbeat", "ticker", "matches", "level2"],
                "watchdog_s": 2.5,
                "ingestors_per_address": addresses,
            }
        case Role.NORMALIZER:
            own["stale_after_s"] = 3.0
        case _:
            pass
    found.setdefault(str(unit.role), {}).update(own)
    return found


def toml(values: Sections) -> str:
    """The sections as TOML: strings, numbers and lists of strings have JSON's form there."""
    lines = []
    for name, keys in values.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        lines.append("")
    return "\n".join(lines)
