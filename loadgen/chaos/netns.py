"""A network namespace for every process, joined by one bridge: links that swallow packets, as a broken switch does.

    root namespace      bridge, its own address and one for each link; here are the relays, the exchange and the clients
    each process        a namespace with one address

A link is cut by pointing both ends' neighbour entries for the link's address to a station that does not exist: no
packet arrives, no acknowledgement, no refusal, and an attempt to connect hears nothing. Needs root, `ip` and a kernel
with namespaces, bridges and veth pairs. What a killed harness has left is removed by the next one.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lfmesh.errors import LfmeshError

_NOBODY = "02:00:00:00:de:ad"
_PREFIX = "lfm"
_FIRST_UNIT, _FIRST_LINK = 10, 60
_MOST_LINKS = 250 - _FIRST_LINK


def unavailable() -> str | None:
    """Why namespaces can't be used on this machine; None if they can. Tries it, and leaves nothing behind."""
    if shutil.which("ip") is None:
        return "there is no `ip`"
    if os.geteuid() != 0:
        return "it takes root"
    name, veth = f"{_PREFIX}{os.getpid()}-try", f"{_PREFIX}t{os.getpid()}"
    tries = (
        ("netns", "add", name),
        ("link", "add", f"{veth}b", "type", "bridge"),
        ("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name),
    )
    try:
        for arguments in tries:
            found = _ip(*arguments)
            if found.returncode:
                return found.stderr.strip() or f"`ip {' '.join(arguments)}` fails"
        return None
    finally:
        _ip("netns", "del", name)
        _ip("link", "del", f"{veth}b")


class Namespaces:
    """The namespaces of these units and the addresses of these links; an async context manager."""

    def __init__(self, units: Sequence[str], links: Sequence[str]) -> None:
        if len(links) > _MOST_LINKS or len(units) > _FIRST_LINK - _FIRST_UNIT:
            raise LfmeshError(f"{len(units)} processes and {len(links)} links are too many for one network")
        self._mark = f"{_PREFIX}{os.getpid()}"
        self._net = ""
        self._units = {unit: number for number, unit in enumerate(units, _FIRST_UNIT)}
        self._links = {link: number for number, link in enumerate(links, _FIRST_LINK)}

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._build)
        except BaseException:
            await asyncio.to_thread(self._remove)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._remove)

    @property
    def host(self) -> str:
        """The address of the root namespace."""
        return f"{self._net}.1"

    def host_of(self, unit: str) -> str:
        """A unit's address."""
        return f"{self._net}.{self._units[unit]}"

    def host_of_link(self, link: str) -> str:
        """The address in the root namespace through which a link goes."""
        return f"{self._net}.{self._links[link]}"

    def command(self, unit: str) -> list[str]:
        """What has to stand before a unit's command."""
        return ["ip", "netns", "exec", self._name(unit)]

    async def swallow(self, ends: Mapping[str, Sequence[str]], *, cut: bool) -> None:
        """Let every packet between these units and the root namespace vanish, or pass again; units by link."""
        orders: dict[str, list[str]] = {}
        for link, units in ends.items():
            entry = f"{self.host_of_link(link)} dev eth0"
            for unit in units:
                order = f"neigh replace {entry} lladdr {_NOBODY} nud permanent" if cut else f"neigh del {entry}"
                orders.setdefault(self._name(unit), []).append(order)
        await asyncio.gather(*(asyncio.to_thread(_batch, lines, name) for name, lines in orders.items()))

    # ---------------------------------------------------------------------------------------------------------------

    def _name(self, unit: str) -> str:
        return f"{self._mark}-{unit}"

    def _build(self) -> None:
        _sweep()
        self._net = _free_network()
        bridge = f"{self._mark}b"
        lines = [f"link add {bridge} type bridge", f"addr add {self.host}/24 dev {bridge}"]
        lines += [f"addr add {self._net}.{number}/24 dev {bridge}" for number in self._links.values()]
        lines.append(f"link set {bridge} up")
        for unit, number in self._units.items():
            name, veth = self._name(unit), f"{self._mark}v{number}"
            lines.append(f"netns add {name}")
            lines.append(f"link add {veth} type veth peer name eth0 netns {name}")
            lines.append(f"link set {veth} master {bridge} up")
        _batch(lines)
        for unit, number in self._units.items():
            own = [f"addr add {self._net}.{number}/24 dev eth0", "link set lo up", "link set eth0 up"]
            _batch(own, self._name(unit))

    def _remove(self) -> None:
        for unit, number in self._units.items():
            _ip("link", "del", f"{self._mark}v{number}")  # by itself it would go some time after the namespace
            _ip("netns", "del", self._name(unit))
        _ip("link", "del", f"{self._mark}b")


def _ip(*arguments: str, lines: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = ["ip", *arguments]
    return subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)  # noqa: S603 - the system's own, fixed words


def _batch(lines: Sequence[str], name: str = "") -> None:
    """Many orders at the price of one process, in a namespace or (no name) in the root's."""
    done = _ip(*(("-n", name) if name else ()), "-batch", "-", lines=lines)
    if done.returncode:
        raise LfmeshError(f"`ip` fails: {done.stderr.strip()}")


def _free_network() -> str:
    """The first /24 of a rarely used range that no interface is in."""
    taken = _ip("-o", "-4", "addr").stdout
    for number in range(250):
        net = f"10.213.{number}"
        if f" {net}." not in taken:
            return net
    raise LfmeshError("there is no free network in 10.213.0.0/16")


def _sweep() -> None:
    """Remove what harnesses that are gone have left."""
    for line in _ip("netns", "list").stdout.splitlines():
        name = line.split()[0] if line.split() else ""
        if _orphan(name.partition("-")[0]):
            _ip("netns", "del", name)
    for line in _ip("-o", "link", "show", "type", "bridge").stdout.splitlines():
        name = line.split(": ")[1].partition("@")[0]
        if name.endswith("b") and _orphan(name[:-1]):
            _ip("link", "del", name)


def _orphan(mark: str) -> bool:
    pid = mark.removeprefix(_PREFIX)
    return mark.startswith(_PREFIX) and pid.isdigit() and not Path(f"/proc/{pid}").exists()
