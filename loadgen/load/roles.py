"""CPU and memory of the mesh's processes while a load runs, from each one's /metrics, and the gateways' counters.

A role that has no /metrics to ask is looked up by its process id, on this machine.
"""

import asyncio
import http.client
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from lfmesh.errors import LfmeshError
from loadgen.load.proc import Usage, of

_TIMEOUT_S = 2.0
_CPU = "_process_cpu_seconds_total"
_RSS = "_process_resident_memory_bytes"
_GATEWAY = "lfmesh_gateway_"
_MAX_BYTES = 16 * 1024 * 1024


class RoleAddress(msgspec.Struct, frozen=True):
    """Where a process tells of itself: the base of its HTTP, or its process id (0: unknown)."""

    instance: str
    http: str = ""
    pid: int = 0


class RoleUsage(msgspec.Struct, frozen=True):
    """`cpu_percent` of one core, on average; `rss_mb`: resident memory, the most that was seen, in 10^6 bytes."""

    cpu_percent: float = 0.0
    rss_mb: float = 0.0


class Sample(NamedTuple):
    """What one process tells at one moment: its usage, and a gateway's figures by name (and labels)."""

    at: float
    usage: Usage
    figures: dict[str, float]


def metrics(text: str) -> dict[str, float]:
    """The samples of a /metrics text, by name and labels but instance, shard and worker, over which they are summed."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        with suppress(ValueError):
            found[_short(name)] = found.get(_short(name), 0.0) + float(value)
    return found


def _short(name: str) -> str:
    base, brace, labels = name.partition("{")
    if not brace:
        return base
    kept = [
        value.strip('"')
        for label, _, value in (one.partition("=") for one in labels.rstrip("}").split(","))
        if label not in ("instance", "shard", "worker")
    ]
    return ".".join([base, *kept])


def sample(address: RoleAddress) -> Sample | None:
    """Ask one process; None if it does not tell. Blocks."""
    if address.http:
        with suppress(OSError, http.client.HTTPException, LfmeshError):
            figures = metrics(_get(address.http.rstrip("/") + "/metrics"))
            cpu = sum(value for name, value in figures.items() if name.endswith(_CPU))
            rss = sum(value for name, value in figures.items() if name.endswith(_RSS))
            kept = {name.removeprefix(_GATEWAY): value for name, value in figures.items() if name.startswith(_GATEWAY)}
            return Sample(time.monotonic(), Usage(cpu, int(rss)), kept)
    usage = of(address.pid) if address.pid else None
    return None if usage is None else Sample(time.monotonic(), usage, {})


def _get(url: str) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", parts.path, headers={"Connection": "close"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise LfmeshError(f"{url} answers HTTP {answer.status}")
        return answer.read(_MAX_BYTES).decode("utf-8", "replace")
    finally:
        connection.close()


class RoleWatch:
    """Asks all processes at the start, now and then, and at the end; `gateways` are those under load."""

    def __init__(self, addresses: Sequence[RoleAddress]) -> None:
        self._addresses = addresses
        self._first: dict[str, Sample] = {}
        self._last: dict[str, Sample] = {}
        self._most_rss: dict[str, int] = {}

    async def start(self) -> None:
        """The first look: what is counted, counts from here."""
        await self.look()
        self._first = dict(self._last)

    async def look(self) -> None:
        """Ask all of them."""
        found = await asyncio.gather(*(asyncio.to_thread(sample, address) for address in self._addresses))
        for address, seen in zip(self._addresses, found, strict=True):
            if seen is not None:
                self._last[address.instance] = seen
                most = max(self._most_rss.get(address.instance, 0), seen.usage.rss_bytes)
                self._most_rss[address.instance] = most

    def usage(self) -> dict[str, RoleUsage]:
        """Between the first and the latest look."""
        found = {}
        for instance, last in self._last.items():
            first = self._first.get(instance, last)
            span = last.at - first.at
            cpu = 100 * (last.usage.cpu_s - first.usage.cpu_s) / span if span > 0 else 0.0
            found[instance] = RoleUsage(round(cpu, 1), round(self._most_rss[instance] / 1e6, 1))
        return found

    def grown(self) -> dict[str, float]:
        """By how much the gateways' counters grew; what did not grow is left out."""
        grown: dict[str, float] = {}
        for instance, last in self._last.items():
            first = self._first.get(instance, last)
            for name, value in last.figures.items():
                more = value - first.figures.get(name, 0.0)
                if name.partition(".")[0].endswith("_total") and more > 0:
                    grown[name] = round(grown.get(name, 0.0) + more, 3)
        return grown
