"""One run of a whole mesh: the supervisor, what its processes tell, the screen, and mesh.json for others."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from lfmesh.cli.interrupts import ending_signals
from lfmesh.cli.options import DEFAULT_HOME
from lfmesh.cli.up.board import Line, Places, Work, line_of, work_of_workers, works_of
from lfmesh.cli.up.plan import Plan
from lfmesh.cli.up.screen import LossTolerantScreen, Screen
from lfmesh.cli.up.simulator import SimulatorWatch
from lfmesh.cli.up.supervisor import Supervisor, read_lines
from lfmesh.cli.up.unit import SIMULATOR, Unit
from lfmesh.cli.up.zygote import Report, Zygote
from lfmesh.client import meshfile
from lfmesh.client.meshfile import MeshFile
from lfmesh.core import topics
from lfmesh.core.addresses import reachable
from lfmesh.core.codec import split_topic
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import decode_telemetry
from lfmesh.observe.http import http_url
from lfmesh.top.state import Row, TopState
from lfmesh.transport import Subscriber, Transport
from lfmesh.types import Role

_SHOW_S = 0.5
_TELEMETRY_HWM = 1000
_LAST_WORDS_S = 0.5
_ONE_WISH_S = 0.3


class Mesh:
    """One mesh; make it in a running loop, and `run` it once. It ends when nobody can see it any more."""

    def __init__(self, plan: Plan, zygote: Zygote, screen: Screen, runtime_dir: Path, transport: Transport) -> None:
        self._plan = plan
        self._zygote = zygote
        self._screen = LossTolerantScreen(screen, lambda: self._stop.set())
        self._runtime_dir = runtime_dir
        self._started_ns = time.time_ns()
        self._loop = asyncio.get_running_loop()
        self._supervisor = Supervisor(plan.units(), zygote, self._on_report)
        self._told = TopState()
        self._telemetry = Subscriber(transport, [topics.TELEMETRY], self._on_telemetry, hwm=_TELEMETRY_HWM)
        self._listened_to: set[str] = set()
        self._gateways: dict[str, Places | None] = {
            unit.name: None for unit in self._supervisor.units.values() if unit.kind == Role.GATEWAY
        }
        self._has_client = False
        self._simulator = SimulatorWatch(plan.config.mesh.products, plan.tape_start, lambda: self._has_client)
        self._ending: str | None = None
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Run until SIGINT, SIGTERM or SIGHUP, or until the mesh can't go on (LfmeshError). No process is left then."""
        try:
            with self._signals():
                await self._run()
        finally:
            self._screen.close()

    async def _run(self) -> None:
        watching = self._loop.create_task(self._supervisor.watch())
        passing_on = self._loop.create_task(self._pass_on())
        background = [self._loop.create_task(work) for work in (self._show(), self._simulator.follow())]
        stop = self._loop.create_task(self._stop.wait())
        failure = self._supervisor.failure
        ends: set[asyncio.Future[Any]] = {stop, watching, failure, *background}
        self._supervisor.start()
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, *background):
            task.cancel()
        await self._end()
        # The last open ends of the pipes are the zygote's: when it is gone, everything has been read.
        await asyncio.wait({watching, passing_on}, timeout=_LAST_WORDS_S)
        for task in (watching, passing_on):
            task.cancel()
        results = await asyncio.gather(watching, passing_on, *background, return_exceptions=True)
        _bury(self._zygote.pid)
        if failure.done():
            raise failure.result()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _end(self) -> None:
        began = self._loop.time()
        self._ending = "ending …"
        self._draw()
        standbys = {row.instance for row in self._told.rows(time.time_ns()) if row.active is False}
        await self._supervisor.end(self._hurry, lambda unit: unit.name in standbys)
        self._telemetry.close()
        self._ending = f"ended in {self._loop.time() - began:.1f} s"
        self._draw()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal ends in order, a later one at once; afterwards they are ignored: all is over.

        One wish can arrive as several signals (`timeout` and others signal the process, then its group), so those
        that follow the first one closely mean nothing more.
        """
        impatient_at = 0.0

        def asked() -> None:
            nonlocal impatient_at
            if not self._stop.is_set():
                impatient_at = self._loop.time() + _ONE_WISH_S
                self._stop.set()
            elif self._loop.time() > impatient_at:
                self._hurry.set()

        numbers = ending_signals()
        for number in numbers:
            self._loop.add_signal_handler(number, asked)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        try:
            yield
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)

    # What comes in -------------------------------------------------------------------------------------------------

    def _on_report(self, unit: Unit, report: Report) -> None:
        if report.event == "started":
            address = report.endpoints.get("telemetry")
            if address is not None and address not in self._listened_to:
                self._listened_to.add(address)
                self._telemetry.connect(address)
            if unit.kind == SIMULATOR:
                self._simulator.started(report.http, report.pid)
            elif unit.kind == Role.GATEWAY:
                home = self._plan.home
                self._gateways[unit.name] = places_of(self._plan.config.gateway.host, report.http, home)
        elif report.event == "ended" and unit.state == "pause":
            self._screen.died(f"{unit.name}: {unit.note}; it is started again")
        self._tell_others()
        self._draw()

    def _on_telemetry(self, frames: list[bytes]) -> None:
        now = time.time_ns()
        for frame in frames:
            try:
                telemetry = decode_telemetry(frame[split_topic(frame)[1] :])
            except BadMeshFrame as error:
                self._screen.output(f"lfmesh: telemetry that can't be read: {error}")
                continue
            self._told.told(telemetry, now)
            if telemetry.role is Role.GATEWAY:
                self._has_client = self._has_client or bool(telemetry.statistics.get("joins_total"))

    async def _pass_on(self) -> None:
        async for line in read_lines(self._zygote.output):
            self._screen.output(line.decode("utf-8", "replace").rstrip("\n"))

    # What goes out -------------------------------------------------------------------------------------------------

    async def _show(self) -> None:
        while True:
            self._draw()
            await asyncio.sleep(_SHOW_S)

    def _draw(self) -> None:
        self._screen.show(self._lines(), self._places(), self._ending)

    def _places(self) -> Places | None:
        """Where clients connect, once every gateway listens."""
        known = [places for places in self._gateways.values() if places is not None]
        if len(known) < len(self._gateways):
            return None
        return msgspec.structs.replace(known[0], others=tuple(places.ws_url for places in known[1:]))

    def _lines(self) -> list[Line]:
        told = works_of([self._with_line(row) for row in self._told.rows(time.time_ns())])
        now = self._loop.time()
        return [line_of(unit, self._work(unit, told), now) for unit in self._supervisor.units.values()]

    def _work(self, unit: Unit, told: Mapping[tuple[str, str], Work]) -> Work | None:
        workers = self._plan.config.gateway.workers
        if unit.kind == SIMULATOR:
            return self._simulator.work()
        if unit.kind == Role.GATEWAY and workers > 1:
            return work_of_workers(told, unit, workers)
        return told.get((unit.kind, unit.name))

    def _with_line(self, row: Row) -> Row:
        """The registry would say which line an ingestor is; here the plan does."""
        unit = self._supervisor.units.get(row.instance)
        line = unit.changes["ingestor"]["line"] if unit is not None and row.role is Role.INGESTOR else None
        return msgspec.structs.replace(row, line=line)

    def _tell_others(self) -> None:
        """Keep mesh.json true, from the moment on that clients can connect and all that it names is known."""
        places = self._places()
        if places is None or (self._plan.simulator is not None and self._simulator.url is None):
            return
        config = self._plan.config
        meshfile.write(
            self._plan.home,
            MeshFile(
                pid=os.getpid(),
                started_ns=self._started_ns,
                gateway_url=places.ws_url,
                http_url=places.http_url,
                registry_endpoints=list(config.registry.endpoints),
                runtime_dir=str(self._runtime_dir),
                simulator_url=self._simulator.url,
                gateway_urls=[places.ws_url, *places.others],
                pids={unit.name: unit.pid for unit in self._supervisor.units.values() if unit.pid is not None},
            ),
        )


def places_of(host: str, announced: str, home: Path) -> Places:
    """Where people of this machine reach a gateway that listens on `host`, at the port of the URL it announces."""
    port = urlsplit(announced).port
    base = reachable(http_url(host, port or 0), "127.0.0.1")
    told = "" if home == Path(DEFAULT_HOME) else str(home)
    return Places(ws_url=f"ws{base.removeprefix('http')}/ws", http_url=base, data_dir=told)


def _bury(pid: int) -> None:
    """See the zygote out: it has ended, or is held up by something and is killed."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
