"""CPU and memory of the mesh's processes while a load runs, from each one's /metrics, and the gateways' counters.

A role that has no /metrics to ask is looked up by its process id, on this machine. One worker of a gateway answers for
all of them and for their supervisor: each is shown by its own name, and the gateway, by its name, as their sum.
"""

import asyncio
import http.client
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from lfmesh.errors import LfmeshError
from loadgen.load.proc import Usage, of

_TIMEOUT_S = 2.0
_GATEWAY = "lfmesh_gateway_"
_SUPERVISOR = "supervisor"
_MAX_BYTES = 16 * 1024 * 1024
_instance = re.compile(r'[{,]instance="([^"]*)"').search
_usage = re.compile(r"_(process|supervisor)_(cpu_seconds_total|resident_memory_bytes)(?:\{|$)").search


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
    """What is told at one moment of `whole`: usage of its processes by name, a gateway's figures by name and labels."""

    at: float
    whole: str
    usages: dict[str, Usage]
    figures: dict[str, float]


def metrics(text: str) -> dict[str, float]:
    """The samples of a /metrics text, by name and labels but instance, shard and worker, over which they are summed."""
    found: dict[str, float] = {}
    for name, value in _samples(text):
        short = _short(name)
        found[short] = found.get(short, 0.0) + value
    return found


def usages(text: str, asked: str) -> tuple[str, dict[str, Usage]]:
    """Who is told of in the /metrics of `asked`: the name of all together, and what each process uses."""
    whole, seen = asked, dict[str, dict[str, float]]()
    for name, value in _samples(text):
        found = _usage(name)
        if found is None:
            continue
        labelled = _instance(name)
        instance = labelled[1] if labelled is not None else asked
        if found[1] == _SUPERVISOR:
            whole, instance = instance, f"{instance}.{_SUPERVISOR}"
        seen.setdefault(instance, {})[found[2]] = value
    if len(seen) == 1:
        seen = dict(zip([asked], seen.values(), strict=True))
    elif whole in seen:
        whole = whole.rpartition(".")[0] or whole  # a supervisor who does not answer tells no name
    return whole, {
        instance: Usage(values.get("cpu_seconds_total", 0.0), int(values.get("resident_memory_bytes", 0)))
        for instance, values in seen.items()
    }


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            with suppress(ValueError):
                yield name, float(value)


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
            text = _get(address.http.rstrip("/") + "/metrics")
            kept = {
                name.removeprefix(_GATEWAY): value for name, value in metrics(text).items() if name.startswith(_GATEWAY)
            }
            return Sample(time.monotonic(), *usages(text, address.instance), kept)
    usage = of(address.pid) if address.pid else None
    return None if usage is None else Sample(time.monotonic(), address.instance, {address.instance: usage}, {})


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
        for seen in found:
            if seen is None:
                continue
            told = self._last.get(seen.whole)
            if told is not None and told.figures and not seen.figures:
                continue  # a supervisor's process id, of whom the workers have told with themselves
            self._last[seen.whole] = seen
            for process, usage in seen.usages.items():
                self._most_rss[process] = max(self._most_rss.get(process, 0), usage.rss_bytes)

    def usage(self) -> dict[str, RoleUsage]:
        """Between the first and the latest look."""
        found: dict[str, RoleUsage] = {}
        for whole, last in sorted(self._last.items()):
            first = self._first.get(whole, last)
            span = last.at - first.at
            parts = {}
            for process, usage in sorted(last.usages.items()):
                used = usage.cpu_s - first.usages.get(process, usage).cpu_s
                cpu = 100 * used / span if span > 0 else 0.0
                parts[process] = RoleUsage(round(cpu, 1), round(self._most_rss[process] / 1e6, 1))
            if len(parts) > 1:
                found[whole] = RoleUsage(
                    round(sum(part.cpu_percent for part in parts.values()), 1),
                    round(sum(part.rss_mb for part in parts.values()), 1),
                )
            found.update(parts)
        return found

    def grown(self) -> dict[str, float]:
        """By how much the gateways' counters grew."""
        grown: dict[str, float] = {}
        for whole, last in self._last.items():
            first = self._first.get(whole, last)
            for name, value in last.figures.items():
                if name.partition(".")[0].endswith("_total"):
                    more = max(0.0, value - first.figures.get(name, 0.0))
                    grown[name] = round(grown.get(name, 0.0) + more, 3)
        return grown
