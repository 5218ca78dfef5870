"""The links of a mesh, and what can happen to them: relays, between network namespaces where those are allowed.

The relays lose whole messages and delay them. A cut is a relay that passes nothing on; between namespaces no packet
passes either, so that even an attempt to connect hears nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Literal, Self

from lfmesh.errors import LfmeshError
from lfmesh.types import Role
from loadgen.chaos.netns import Namespaces, unavailable
from loadgen.chaos.relay import Post
from loadgen.chaos.relays import Relays
from loadgen.chaos.topology import HOST, VENUE, Topology, link_of

Wanted = Literal["auto", "netns", "loopback"]


class Network:
    """An async context manager. `topology` has its units at the addresses where they are to listen."""

    def __init__(self, topology: Topology, seed: int, wanted: Wanted) -> None:
        self.topology = topology
        self.description = "links through loopback relays"
        self._relays = Relays(seed)
        self._namespaces: Namespaces | None = None
        self._stack = AsyncExitStack()
        self._wanted = wanted
        self._swallowed: set[str] = set()

    async def __aenter__(self) -> Self:
        why_not = None if self._wanted == "loopback" else unavailable()
        if self._wanted == "netns" and why_not is not None:
            raise LfmeshError(f"no network namespaces: {why_not}")
        try:
            if self._wanted != "loopback" and why_not is None:
                await self._separate()
            elif why_not is not None:
                self.description += f" (no network namespaces: {why_not})"
            await self._stack.enter_async_context(self._relays)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def host(self) -> str:
        """Where what is no unit listens: the exchange."""
        return HOST if self._namespaces is None else self._namespaces.host

    def command(self, unit: str) -> list[str]:
        """What has to stand before a unit's command."""
        return [] if self._namespaces is None else self._namespaces.command(unit)

    async def open(self, venue_port: int) -> dict[str, dict[str, str]]:
        """Open a relay for each use of a socket. For each unit: where it finds what others announce, and `venue`."""
        posts: dict[str, tuple[Post, str]] = {}
        for use in self.topology.uses():
            owner = self.topology.unit(use.owner)
            name = f"{use.connector}>{use.owner}.{use.name}"
            post = Post(
                name, use.link, use.connector, owner.host, owner.ports[use.name], self._via(use.link),
                drop_up=use.drop_up, drop_down=use.drop_down, rewrites=owner.role is Role.REGISTRY,
            )  # fmt: skip
            posts[name] = (post, owner.endpoint(use.name))
        for unit in self.topology.of(Role.INGESTOR):
            link = link_of(unit.name, VENUE)
            name = f"{unit.name}>{VENUE}"
            posts[name] = (Post(name, link, unit.name, self.host, venue_port, self._via(link), zmtp=False), VENUE)
        ports = await self._relays.open([post for post, _ in posts.values()])
        leads: dict[str, dict[str, str]] = {unit.name: {} for unit in self.topology.units}
        for name, (post, endpoint) in posts.items():
            scheme = "tcp://" if post.zmtp else ""
            leads[post.connector][endpoint] = f"{scheme}{post.via or HOST}:{ports[name]}"
        await self._relays.lead(leads)
        return leads

    async def weather(
        self, links: Sequence[str], *, cut: bool = False, delay_s: float = 0.0, drop_share: float = 0.0
    ) -> None:
        """Set what these links have from now on; nothing: they are whole."""
        changed = {link: _ends(link) for link in links if cut != (link in self._swallowed)}
        if self._namespaces is not None and changed:
            await self._namespaces.swallow(changed, cut=cut)
            (self._swallowed.update if cut else self._swallowed.difference_update)(changed)
        for link in links:
            await self._relays.weather(link, cut=cut, delay_s=delay_s, drop_share=drop_share)

    def _via(self, link: str) -> str:
        return "" if self._namespaces is None else self._namespaces.host_of_link(link)

    async def _separate(self) -> None:
        units = [unit.name for unit in self.topology.units]
        namespaces = await self._stack.enter_async_context(Namespaces(units, self.topology.links()))
        self._namespaces = namespaces
        hosts: Mapping[str, str] = {unit: namespaces.host_of(unit) for unit in units}
        self.topology = self.topology.at(hosts)
        self.description = "links through relays between network namespaces"


def _ends(link: str) -> list[str]:
    return [end for end in link.split("=") if end != VENUE]
