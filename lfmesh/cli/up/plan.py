"""What `lfmesh up` is to run: the units, their order, and a configuration in which they have private addresses."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lfmesh.cli.up.unit import SIMULATOR, TapeStart, Unit
from lfmesh.config import Config, endpoint
from lfmesh.errors import ConfigError
from lfmesh.types import Role

if TYPE_CHECKING:
    from loadgen.sim import SimConfig

MAX_SOCKET_PATH_BYTES = 100
"""A UNIX socket's path has 104 bytes on macOS and 108 on Linux, the final NUL included."""
SIMULATED = "simulated"
_DRAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A mesh to run. `simulator` is None when the venue itself is the source; `tape_start` is None without a tape.

    `home` is the data folder: its lock and mesh.json are there. States (mesh.data_dir of the configuration) are kept
    in it too, but for those of a simulated exchange: that begins anew with each run, and what is known of an earlier
    one would make its trades look old. They have a folder of their own, `SIMULATED`, which is emptied at the start.
    `source` says in words where the data comes from.
    """

    home: Path
    config: Config
    source: str
    simulator: "SimConfig | None"
    tape_start: TapeStart | None

    def units(self) -> list[Unit]:
        """Every process, in the order of the data's way; their `order` is the one in which they are ended.

        The gateway ends first, so that clients hear of it while everything works. Normalizers go before the ingestor,
        to which that is nothing, whereas the loss of the feed is worth a warning to them; snapshotters write when
        nothing comes any more; the registry is of use to all.
        """
        config, shards = self.config, range(self.config.mesh.shards)
        simulator = [Unit(SIMULATOR, SIMULATOR, None, 3)] if self.simulator else []
        normalizers = [
            Unit(endpoint(config.normalizer.instance, shard=shard), Role.NORMALIZER, shard, 1) for shard in shards
        ]
        snapshotters = [
            Unit(endpoint(config.snapshotter.instance, shard=shard), Role.SNAPSHOTTER, shard, 2) for shard in shards
        ]
        return [
            Unit(config.registry.instance, Role.REGISTRY, None, 4),
            *simulator,
            Unit(config.ingestor.instance, Role.INGESTOR, None, 2),
            *normalizers,
            *snapshotters,
            Unit(config.gateway.instance, Role.GATEWAY, None, 0),
        ]


def with_private_addresses(config: Config, runtime_dir: Path) -> Config:
    """The configuration with every ZeroMQ address in a private folder, and ops ports that the system chooses.

    So two meshes on one machine never meet, nobody else on the machine gets in, and a role keeps its addresses when
    it is started again. ConfigError if the folder's path is too long for sockets or can't stand in an address.
    """

    def at(name: str) -> str:
        return f"ipc://{runtime_dir}/{name}"

    longest = f"{runtime_dir}/normalizer-9999.market_data"
    if len(longest.encode()) > MAX_SOCKET_PATH_BYTES or any(character in longest for character in " {}\t\n"):
        raise ConfigError(
            f"{runtime_dir} can't hold sockets: its path is too long, or has blanks; set TMPDIR to another"
        )
    return config.override(
        {
            "registry": {
                "endpoints": (at("registry.requests"),),
                "bind_requests": at("registry.requests"),
                "bind_changes": at("registry.changes"),
                "bind_telemetry": at("registry.telemetry"),
                "static_peers": (),
            },
            "ingestor": {"bind_requests": at("ingestor.requests"), "bind_telemetry": at("ingestor.telemetry")},
            "normalizer": {
                "bind_raw": at("normalizer-{shard}.raw"),
                "bind_market_data": at("normalizer-{shard}.market_data"),
                "bind_requests": at("normalizer-{shard}.requests"),
                "bind_telemetry": at("normalizer-{shard}.telemetry"),
            },
            "snapshotter": {
                "bind_requests": at("snapshotter-{shard}.requests"),
                "bind_telemetry": at("snapshotter-{shard}.telemetry"),
            },
            "gateway": {
                "bind_telemetry": at("gateway.telemetry"),
                "drain_s": min(config.gateway.drain_s, _DRAIN_S),
            },
            "ops": {"port": 0},
        }
    )
