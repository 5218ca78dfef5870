"""What `lfmesh up` is to run: the units, their order, and what each one's configuration has of its own."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lfmesh.cli.up.unit import SIMULATOR, Changes, TapeStart, Unit
from lfmesh.config import Config, endpoint
from lfmesh.errors import ConfigError
from lfmesh.types import Line, Role

if TYPE_CHECKING:
    from loadgen.sim import SimConfig

MAX_SOCKET_PATH_BYTES = 100
"""A UNIX socket's path has 104 bytes on macOS and 108 on Linux, the final NUL included."""
MAX_PORT = 65_535
_DRAIN_S = 0.8
"""The most that gateways get, of the 3 s in which all must have ended; the supervisor has patience beyond it."""
_CUT_S = 1.4
"""And the most for cutting and uploading the archive's last part; the next start does the rest."""


@dataclass(frozen=True, slots=True)
class Topology:
    """How many processes share a job. `standby`: two normalizers and two snapshotters a shard."""

    lines: tuple[Line, ...] = ()
    """Ingestors on the same products, each a line of its own; empty: one, of the line that the configuration says."""
    standby: bool = False
    gateways: int = 1
    registries: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A mesh to run. `simulator` is None when the venue itself is the source; `tape_start` is None without a tape.

    `home` is the data folder: its lock and mesh.json are there. States (mesh.data_dir of the configuration) are kept
    in it too, but for those of a simulated exchange: that begins anew with each run, and what is known of an earlier
    one would make its trades look old. They have a folder of their own, `SIMULATED`, which is emptied at the start.
    `source` says in words where the data comes from. `sockets` is the private folder, None before there is one.
    """

    home: Path
    config: Config
    source: str
    simulator: "SimConfig | None"
    tape_start: TapeStart | None
    topology: Topology = Topology()
    sockets: Path | None = None

    def units(self) -> list[Unit]:
        """Every process, in the order of the data's way; their `order` is the one in which they are ended.

        Gateways end first, so that clients hear of it while everything works. Normalizers go before the ingestors,
        to which that is nothing, whereas the loss of the feed is worth a warning to them, and both of a pair together,
        so that none takes over; snapshotters write when nothing comes any more; registries are of use to all.
        """
        simulator = [Unit(SIMULATOR, SIMULATOR, None, 3)] if self.simulator else []
        return [
            *self._registries(),
            *simulator,
            *self._ingestors(),
            *self._of_shards(Role.NORMALIZER, 1),
            *self._of_shards(Role.SNAPSHOTTER, 2),
            *self._gateways(),
        ]

    def _registries(self) -> Iterator[Unit]:
        for number in range(self.topology.registries):
            name = numbered(self.config.registry.instance, number)
            own = self._own(_registry_stem(number), ("requests", "changes", "telemetry"))
            yield Unit(name, Role.REGISTRY, None, 4, changes={"registry": {"instance": name, **own}})

    def _ingestors(self) -> Iterator[Unit]:
        section = self.config.ingestor
        base = re.sub("-[AB]$", "", section.instance)
        for line in self.topology.lines or (section.line,):
            name = f"{base}-{line}" if self.topology.lines else section.instance
            own = self._own(f"ingestor-{line}", ("requests", "telemetry"))
            changes: Changes = {"ingestor": {"instance": name, "line": line, **own}}
            yield Unit(name, Role.INGESTOR, None, 2, changes=changes, after=SIMULATOR if self.simulator else "")

    def _of_shards(self, role: Role, order: int) -> Iterator[Unit]:
        """Normalizers or snapshotters. The second of two starts after the first: so it finds one to stand by."""
        template: str = getattr(self.config, role).instance
        own_sockets = ("raw", "market_data") if role is Role.NORMALIZER else ()
        sockets = (*own_sockets, "requests", "telemetry")
        for shard in range(self.config.mesh.shards):
            first = endpoint(template, shard=shard)
            for name, mark, after in ((first, "", ""), (f"{first}-b", "-b", first))[: 1 + self.topology.standby]:
                own = self._own(f"{role}-{shard}{mark}", sockets)
                yield Unit(name, role, shard, order, changes={str(role): {"instance": name, **own}}, after=after)

    def _gateways(self) -> Iterator[Unit]:
        """The first has the port that was asked for; the others those that follow, or any where these are taken."""
        port = self.config.gateway.port
        for number in range(self.topology.gateways):
            name = numbered(self.config.gateway.instance, number)
            own = self._own(f"gateway-{number}", ("telemetry",))
            follows = port + number if port and port + number <= MAX_PORT else 0
            unit = Unit(name, Role.GATEWAY, None, 0)
            unit.changes = {"gateway": {"instance": name, "port": follows, **own}}
            unit.fallback = {"gateway": {"port": 0}} if number and follows else None
            yield unit

    def _own(self, stem: str, sockets: tuple[str, ...]) -> dict[str, object]:
        """Addresses in the private folder: a role keeps them when it is started again."""
        sockets_dir = self.sockets
        return {} if sockets_dir is None else {f"bind_{name}": _at(sockets_dir, stem, name) for name in sockets}


def with_private_addresses(plan: Plan, sockets: Path) -> Plan:
    """The plan with every ZeroMQ address in a private folder, and ops ports that the system chooses.

    So two meshes on one machine never meet, nobody else on the machine gets in, and a role keeps its addresses when
    it is started again. ConfigError if the folder's path is too long for sockets or can't stand in an address.
    """
    longest = _at(sockets, "normalizer-9999-b", "market_data").removeprefix("ipc://")
    if len(longest.encode()) > MAX_SOCKET_PATH_BYTES or any(character in longest for character in " {}\t\n"):
        raise ConfigError(f"{sockets} can't hold sockets: its path is too long, or has blanks; set TMPDIR to another")
    registries = tuple(_at(sockets, _registry_stem(number), "requests") for number in range(plan.topology.registries))
    common: dict[str, dict[str, object]] = {
        "registry": {"endpoints": registries, "static_peers": ()},
        "gateway": {"drain_s": min(plan.config.gateway.drain_s, _DRAIN_S)},
        "archive": {"drain_s": min(plan.config.archive.drain_s, _CUT_S)},
        "ops": {"port": 0},
    }
    return replace(plan, config=plan.config.override(common), sockets=sockets)


def numbered(name: str, number: int) -> str:
    """The name of one of several: `gateway-0` gives gateway-0, gateway-1, …; `edge` gives edge, edge-1, …"""
    return name if not number else f"{name.removesuffix('-0')}-{number}"


def _registry_stem(number: int) -> str:
    return f"registry-{number}"


def _at(sockets: Path, stem: str, name: str) -> str:
    return f"ipc://{sockets}/{stem}.{name}"
