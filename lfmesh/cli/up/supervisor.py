"""Starts the units, watches them, starts again what dies, and ends all in order. What it shows is in `screen`."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import assert_never
from urllib.parse import urlsplit

import msgspec

from lfmesh.cli.up.unit import SIMULATOR, Changes, Ended, GiveUp, Restart, Unit
from lfmesh.cli.up.zygote import Report, Zygote
from lfmesh.errors import LfmeshError
from lfmesh.types import Role

_GROUP_ENDS_S = (1.4, 1.8, 2.1, 2.5, 2.65)
"""When the patience with each group ends, in the order in which they are ended: all within 3 s, kills included."""
_STANDBY_S = 0.2
"""So much of a group's time is left to the others once those that stand by have had theirs."""
_KILL_S = 0.25
_OUTPUT_LINE_BYTES = 1024 * 1024


class Supervisor:
    """The processes of one mesh. `on_report` is called after each change, with what was reported."""

    def __init__(self, units: Sequence[Unit], zygote: Zygote, on_report: Callable[[Unit, Report], None]) -> None:
        self.units = {unit.name: unit for unit in units}
        self.failure: asyncio.Future[LfmeshError] = asyncio.get_running_loop().create_future()
        """Set when the mesh can't go on."""
        self._zygote = zygote
        self._on_report = on_report
        self._loop = asyncio.get_running_loop()
        self._venue: Changes = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ending = False
        self._moved = asyncio.Event()

    def start(self) -> None:
        """Start every unit, but those that wait for another one's start."""
        for unit in self.units.values():
            if not unit.after:
                self._fork(unit)

    async def watch(self) -> None:
        """Take the zygote's reports until it ends."""
        async for line in read_lines(self._zygote.reports):
            report = msgspec.json.decode(line, type=Report)
            unit = self.units[report.name]
            self._take(unit, report)
            self._on_report(unit, report)
            self._moved.set()
        if not self._ending:
            self._fail("the process that starts the roles has died")

    async def end(self, hurry: asyncio.Event, stands_by: Callable[[Unit], bool]) -> None:
        """End all units in their order, within 3 s; at once when `hurry` is set.

        Of those that end together, who stands by ends before the others: it must not take over from them.
        """
        self._ending = True
        for timer in self._timers.values():
            timer.cancel()
        for unit in self.units.values():
            if unit.state in ("waiting", "pause"):
                unit.state = "stopped"
        began = self._loop.time()
        for order, until_s in enumerate(_GROUP_ENDS_S):
            group = [unit for unit in self.units.values() if unit.order == order and unit.state != "stopped"]
            first = [unit for unit in group if stands_by(unit)]
            if first:
                self._tell_to_end(first)
                await self._gone(first, began + until_s - _STANDBY_S, hurry)
            self._tell_to_end(unit for unit in group if unit not in first)
            await self._gone(group, began + until_s, hurry)
        alive = self.alive()
        for unit in alive:
            self._zygote.signal(unit.name, signal.SIGKILL)
        await self._gone(alive, self._loop.time() + _KILL_S, None)
        os.close(self._zygote.orders)

    def _tell_to_end(self, units: Iterable[Unit]) -> None:
        for unit in units:
            unit.stopping()
            self._zygote.signal(unit.name, signal.SIGTERM)

    def alive(self) -> list[Unit]:
        """Units that have, or are about to have, a process."""
        return [unit for unit in self.units.values() if unit.state in ("starting", "running", "stopping")]

    # ---------------------------------------------------------------------------------------------------------------

    def _fork(self, unit: Unit) -> None:
        self._timers.pop(unit.name, None)
        if self._ending:
            return
        unit.forking(self._loop.time())
        self._zygote.fork(unit.name, self._changes(unit))

    def _changes(self, unit: Unit) -> Changes:
        venue = self._venue if unit.kind == Role.INGESTOR else {}
        return {**venue, **unit.remembered}

    def _take(self, unit: Unit, report: Report) -> None:
        now = self._loop.time()
        match report.event:
            case "forked":
                unit.forked(report.pid)
            case "started":
                unit.started(now)
                self._started(unit, report)
            case "failed":
                unit.failed(report.kind, report.line)
            case "ended":
                self._ended(unit, report.status, now)
            case other:
                raise ValueError(f"unknown report {other}")

    def _started(self, unit: Unit, report: Report) -> None:
        port = urlsplit(report.http).port
        if port is not None:
            section = {SIMULATOR: "simulator", Role.GATEWAY: "gateway"}.get(unit.kind, "ops")
            unit.remembered = {section: {"port": port}}
            # Should somebody take its ops port while it is away, any other will do; clients know a gateway's.
            unit.fallback = {} if section == "ops" else None
        if unit.kind == SIMULATOR:
            self._venue = {"venue": {"ws_url": report.endpoints["ws"], "rest_url": report.http}}
        for other in self.units.values():
            if other.after == unit.name and other.state == "waiting":
                self._fork(other)

    def _ended(self, unit: Unit, status: int, now: float) -> None:
        match unit.ended(status, now):
            case Restart(pause_s):
                if not self._ending:
                    self._timers[unit.name] = self._loop.call_later(pause_s, self._fork, unit)
            case GiveUp(line):
                self._fail(line)
            case Ended():
                pass
            case other:
                assert_never(other)

    def _fail(self, line: str) -> None:
        if not self.failure.done():
            self.failure.set_result(LfmeshError(line))

    async def _gone(self, units: Sequence[Unit], until: float, hurry: asyncio.Event | None) -> None:
        """Wait until these have ended, or it is time, or haste is asked for."""
        hurried = None if hurry is None else self._loop.create_task(hurry.wait())
        try:
            async with asyncio.timeout_at(until):
                while any(unit.state != "stopped" for unit in units) and not (hurried and hurried.done()):
                    self._moved.clear()
                    moved = self._loop.create_task(self._moved.wait())
                    try:
                        await asyncio.wait(
                            {moved, *([hurried] if hurried else [])}, return_when=asyncio.FIRST_COMPLETED
                        )
                    finally:
                        moved.cancel()
        except TimeoutError:
            return
        finally:
            if hurried is not None:
                hurried.cancel()


async def read_lines(descriptor: int) -> AsyncIterator[bytes]:
    """Lines from a pipe until every writer has closed it; the descriptor is closed then."""
    reader = asyncio.StreamReader(limit=_OUTPUT_LINE_BYTES)
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than the limit: what was read of it is dropped
                continue
            if not line:
                return
            yield line
    finally:
        transport.close()
