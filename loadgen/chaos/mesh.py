"""A whole mesh as real processes: the simulated exchange, relays on every link, every role with its configuration.

async with Mesh(spec, folder) as mesh:
    await mesh.ready(30)
    await mesh.venue.start()
    await mesh.strike(card)             # returns when the fault is over
"""

import asyncio
import random
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lfmesh.errors import LfmeshError
from lfmesh.types import Role
from loadgen.chaos import figures
from loadgen.chaos.network import Network, Wanted
from loadgen.chaos.plan import ACTIVE, LINK_KINDS, STANDBY, Card, Kind, half_of
from loadgen.chaos.processes import Supervisor
from loadgen.chaos.topology import (
    HOST,
    VENUE,
    Surroundings,
    Topology,
    TopologyName,
    Unit,
    build,
    sections,
    sockets_needed,
    toml,
)
from loadgen.chaos.venue import Venue
from loadgen.sim import products as listed

_LOWEST_PORT, _HIGHEST_PORT = 15_000, 30_000
"""Below what systems give to outgoing connections, so that a killed process finds its port free again."""
_POLL_S = 0.1
_LFMESH = (sys.executable, "-m", "lfmesh.cli")
_HISTORY_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One run's mesh. `rate`: messages a second of the exchange."""

    topology: TopologyName
    rate: int = 5000
    products: int = 10
    seed: int = 1
    network: Wanted = "auto"


class Mesh:
    """See the module's docstring."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.supervisor = Supervisor(folder)
        self._stack = AsyncExitStack()
        self._chance = random.Random(spec.seed)  # noqa: S311 - repeatable, no secret
        self.topology: Topology
        self.venue: Venue
        self._network: Network

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    @property
    def gateways(self) -> tuple[str, ...]:
        """WebSocket addresses."""
        return tuple(f"ws://{unit.host}:{unit.ports['ops']}/ws" for unit in self.topology.of(Role.GATEWAY))

    @property
    def network(self) -> str:
        """How links are broken."""
        return self._network.description

    async def figures(self) -> dict[str, dict[str, float] | None]:
        """Every role's samples, by its name."""
        return await figures.scrape_all(self.topology.units)

    async def unwhole(self) -> list[str]:
        """Why the roles are not whole, by their own figures."""
        samples = await self.figures()
        return [reason for unit in self.topology.units for reason in figures.unwhole(unit, samples[unit.name])]

    async def ready(self, timeout_s: float) -> None:
        """Wait until every role is; LfmeshError names who is not."""
        deadline = time.monotonic() + timeout_s
        while found := await self.unwhole():
            if time.monotonic() > deadline:
                raise LfmeshError(f"the mesh is not ready after {timeout_s:g} s: {'; '.join(found)}")
            await asyncio.sleep(_POLL_S)

    # Faults --------------------------------------------------------------------------------------------------------

    async def strike(self, card: Card) -> str:
        """Let happen what the card says; returns, when it is over, what was hit."""
        if card.kind in (Kind.KILL, Kind.RESTART, Kind.PAUSE):
            name = await self._resolve(card.target)
            await self._hit(card, name)
            return name
        if card.kind in LINK_KINDS:
            await self._weather(card, [card.target])
        elif card.kind is Kind.PARTITION:
            await self._weather(card, self._border())
        else:
            products = list(self.topology.products)
            random.Random(card.seed).shuffle(products)  # noqa: S311 - repeatable, no secret
            await self.venue.misbehave(card.kind, card.seconds, card.amount, products)
        return card.target

    async def _hit(self, card: Card, name: str) -> None:
        match card.kind:
            case Kind.KILL:
                await self.supervisor.kill(name, card.seconds)
            case Kind.RESTART:
                await self.supervisor.restart(name, card.seconds)
            case _:
                self.supervisor.pause(name)
                try:
                    await asyncio.sleep(card.seconds)
                finally:
                    self.supervisor.wake(name)

    async def _weather(self, card: Card, links: Sequence[str]) -> None:
        network = self._network
        try:
            match card.kind:
                case Kind.DELAY:
                    await network.weather(links, delay_s=card.amount)
                case Kind.DROP:
                    await network.weather(links, drop_share=card.amount)
                case _:
                    await network.weather(links, cut=True)
            await asyncio.sleep(card.seconds)
        finally:
            await network.weather(links)

    def _border(self) -> list[str]:
        """The links between the two halves of the mesh."""
        away = {unit.name for unit in half_of(self.topology)}
        return [link for link in self.topology.links() if VENUE not in link and len(away & set(link.split("="))) == 1]

    async def _resolve(self, target: str) -> str:
        if target not in (ACTIVE, STANDBY):
            return target
        normalizers = self.topology.of(Role.NORMALIZER)
        active = figures.active_normalizer(normalizers, await figures.scrape_all(normalizers)) or normalizers[0]
        if target == ACTIVE:
            return active.name
        return next(unit.name for unit in normalizers if unit.name != active.name)

    # Start and end -------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        spec = self.spec
        venue_port, *ports = free_ports(1 + sockets_needed(spec.topology), self._chance)
        topology = build(spec.topology, listed(spec.products), ports)
        self._network = await self._stack.enter_async_context(Network(topology, spec.seed, spec.network))
        self.topology = self._network.topology
        await self._start_venue(self._network.host, venue_port)
        leads = await self._network.open(venue_port)
        for unit in self.topology.units:
            await self._start_unit(unit, leads[unit.name])

    async def _start_venue(self, host: str, port: int) -> None:
        spec = self.spec
        command = [
            *_LFMESH, "sim", "--host", host, "--port", str(port), "--rate", str(spec.rate), "--seed", str(spec.seed),
            "--products", str(spec.products), "--paused", "--trade-history-rows", str(_HISTORY_ROWS),
        ]  # fmt: skip
        await self.supervisor.start(VENUE, command)
        self.venue = Venue(f"http://{host}:{port}")
        await self._venue_answers()

    async def _start_unit(self, unit: Unit, leads: Mapping[str, str]) -> None:
        registries = [leads[other.endpoint("requests")] for other in self.topology.of(Role.REGISTRY)] if leads else []
        around = Surroundings(registries, leads.get(VENUE, ""), self.folder / "data")
        config = self.folder / f"{unit.name}.toml"
        config.write_text(toml(sections(self.topology, unit, around)))
        shard = [] if unit.shard is None else ["--shard", str(unit.shard)]
        command = [*self._network.command(unit.name), *_LFMESH, str(unit.role), "--config", str(config), *shard]
        await self.supervisor.start(unit.name, command)

    async def _venue_answers(self) -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.venue.status()
                except LfmeshError:
                    await asyncio.sleep(_POLL_S)
                else:
                    return

    async def _end(self) -> None:
        names = [unit.name for unit in self.topology.units] if hasattr(self, "topology") else []
        order = [[name for name in names if name.startswith(role)] for role in ("gateway", "ingestor", "normalizer")]
        rest = [name for name in names if not any(name in group for group in order)]
        try:
            for group in (*order, rest, [VENUE]):
                await self.supervisor.end(group)
        finally:
            await self._stack.aclose()


def free_ports(count: int, chance: random.Random) -> list[int]:
    """Ports that nobody listens on now."""
    found: list[int] = []
    candidates = list(range(_LOWEST_PORT, _HIGHEST_PORT))
    chance.shuffle(candidates)
    for port in candidates:
        if len(found) == count:
            return found
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
    raise LfmeshError(f"{HOST} has not {count} free ports")
