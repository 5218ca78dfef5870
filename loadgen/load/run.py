"""A run from beginning to end, in this process or in several.

report = await run(LoadConfig(url="ws://127.0.0.1:8000/ws", clients=200, check=1.0))
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from lfmesh.client.http import fetch_products
from lfmesh.errors import LfmeshError
from loadgen.client.session import http_base
from loadgen.load.config import SILENT, LoadConfig, Progress
from loadgen.load.counts import Counts
from loadgen.load.plan import plan
from loadgen.load.proc import allow_sockets
from loadgen.load.processes import Processes
from loadgen.load.report import LoadReport, report
from loadgen.load.roles import RoleAddress, RoleWatch
from loadgen.load.swarm import Swarm

_LOOK_S = 1.0
_PROGRESS_S = 0.5


@dataclass(frozen=True, slots=True)
class Shown:
    """How far a run is: `phase` is joining, running or settling; `elapsed_s` in it, of `of_s` (0: it depends)."""

    phase: str
    elapsed_s: float
    of_s: float
    progress: Progress


OnProgress = Callable[[Shown], None]


class Drivers(Protocol):
    """What drives the clients: one `Swarm`, or `Processes` of one each."""

    @property
    def refusals(self) -> Sequence[str]:
        """Why connections could not be made."""

    async def join(self) -> None:
        """All join, or it takes too long."""

    def measure(self) -> None:
        """What comes from now on counts."""

    def progress(self) -> Progress:
        """How far it is."""

    async def end(self) -> Sequence[Counts]:
        """Stop counting; what came of it."""


async def run(
    config: LoadConfig,
    *,
    roles: Sequence[RoleAddress] | None = None,
    stop: asyncio.Event | None = None,
    on_progress: OnProgress | None = None,
) -> LoadReport:
    """Run a load; LfmeshError if it can't begin, or nobody could connect.

    `roles` are watched for CPU and memory (None: the gateway alone); `stop` ends it early, with what there is then.
    """
    stop = stop or asyncio.Event()
    config = await resolved(config)
    watch = RoleWatch(roles if roles is not None else [RoleAddress("gateway", http_base(config.url))])
    drivers: AbstractAsyncContextManager[Drivers] = Processes(config) if config.processes > 1 else _swarm(config)
    async with drivers as driver, _Ticker(driver, on_progress) as ticker:
        ticker.phase("joining")
        await _unless(stop, driver.join())
        if not driver.progress().connected and driver.refusals:
            raise LfmeshError(driver.refusals[0])
        await watch.start()
        driver.measure()
        ticker.phase("running", config.duration_s)
        await _look_on(watch, config.duration_s, stop)
        await watch.look()
        ticker.phase("settling")
        parts = await driver.end()
    return report(config, parts, watch.usage(), watch.grown())


async def resolved(config: LoadConfig) -> LoadConfig:
    """The configuration with the products that the gateway knows; LfmeshError if it can't be carried out."""
    known = await fetch_products(http_base(config.url))
    if not known:
        raise LfmeshError(f"the gateway at {config.url} carries no products")
    unknown = [product for product in config.products if product not in known]
    if unknown:
        some = ", ".join(known[:10]) + (" and others" if len(known) > 10 else "")
        raise LfmeshError(f"the gateway does not know {', '.join(unknown)}; it carries {some}")
    config = msgspec.structs.replace(config, products=config.products or tuple(known))
    if not 1 <= config.processes <= config.clients:
        raise LfmeshError(f"{config.clients} clients can't be spread over {config.processes} processes")
    try:
        planned = plan(config)
    except ValueError as error:
        raise LfmeshError(str(error)) from error
    if not any(one.behaviour not in SILENT for one in planned) and config.processes == 1:
        raise LfmeshError("nobody would subscribe to anything: all clients would be silent ones")
    return config


def _swarm(config: LoadConfig) -> Swarm:
    allow_sockets(config.clients)
    return Swarm(config)


class _Ticker:
    """Tells how far a run is, twice a second."""

    def __init__(self, driver: Drivers, on_progress: OnProgress | None) -> None:
        self._driver = driver
        self._tell = on_progress
        self._phase = ("", 0.0)
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "_Ticker":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def phase(self, name: str, of_s: float = 0.0) -> None:
        """Another part of the run begins."""
        self._phase = (name, of_s)
        self._since = asyncio.get_running_loop().time()
        if self._tell is not None and self._timer is None:
            self._tick()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        if self._tell is not None:
            name, of_s = self._phase
            self._tell(Shown(name, loop.time() - self._since, of_s, self._driver.progress()))
        self._timer = loop.call_later(_PROGRESS_S, self._tick)


async def _unless(stop: asyncio.Event, doing: Coroutine[object, object, None]) -> None:
    """Do something, but no longer than until `stop`."""
    task, stopped = asyncio.ensure_future(doing), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for one in (task, stopped):
            one.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


async def _look_on(watch: RoleWatch, duration_s: float, stop: asyncio.Event) -> None:
    """Look at the roles now and then until the time is up, or `stop`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + duration_s
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while (left := deadline - loop.time()) > 0 and not stop.is_set():
            await asyncio.wait([stopped], timeout=min(_LOOK_S, left))
            if left > _LOOK_S and not stop.is_set():
                await watch.look()
    finally:
        stopped.cancel()
