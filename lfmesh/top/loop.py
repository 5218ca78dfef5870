"""Listens to a mesh: the registry's view, and every process's telemetry; shows it live, or once."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
from structlog.typing import EventDict

from lfmesh.config import RegistrySection
from lfmesh.core import topics
from lfmesh.errors import BadMeshFrame, LfmeshError
from lfmesh.messages import ServiceRecord
from lfmesh.services.discovery import Discovery, static_peers
from lfmesh.services.telemetry import unpack
from lfmesh.top.render import render
from lfmesh.top.slowest import SlowRow
from lfmesh.top.state import Row, TopState
from lfmesh.transport import Subscriber, Transport

_REFRESH_S = 0.5
_FIRST_VIEW_S = 3.0
_FIGURES_S = 3.0
_ASK_AGAIN_S = 1.0
_TELEMETRY_HWM = 10_000


class Look(NamedTuple):
    """What is known at one moment; `registries`: how many replicas answer, of how many (0 of 0: static peers)."""

    rows: list[Row]
    slowest: list[SlowRow]
    registries: tuple[int, int]


class Listener:
    """A subscription to every process of a mesh; `state` is what is known. Make it in a running loop."""

    def __init__(self, section: RegistrySection, transport: Transport) -> None:
        self.state = TopState()
        self.heard = asyncio.Event()
        """Set whenever anything has been heard."""
        self.section = section
        self._transport = transport
        self._telemetry: dict[str, tuple[str, Subscriber]] = {}
        self._discovery: Discovery | None = None

    def start(self) -> None:
        """Begin to listen; BadEndpoint if the registry's address is none."""
        if self.section.static_peers:
            self._on_peers(static_peers(self.section))
            return
        # What happens to registry replicas is on the screen; a log beside it would only tear it.
        silent = structlog.wrap_logger(None, [_drop], structlog.make_filtering_bound_logger(logging.CRITICAL))
        self._discovery = Discovery(self.section, self._transport, log=silent, on_peers=self._on_peers)
        self._discovery.start()

    def follow(self, section: RegistrySection) -> None:
        """Ask other registries from now on; what is known stays until they, or silence, say otherwise."""
        if section != self.section:
            self.close()
            self.section = section
            self.start()

    def close(self) -> None:
        """Listen no more."""
        if self._discovery is not None:
            self._discovery.close()
            self._discovery = None

    def look(self) -> list[Row]:
        """The rows now."""
        if self._discovery is not None:
            self.state.registries = self._discovery.replicas()
        return self.state.rows(time.time_ns())

    def slowest(self) -> list[SlowRow]:
        """The slowest clients of all gateways now."""
        return self.state.slowest(time.time_ns())

    def _on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        self.state.listed(peers, time.time_ns())
        self.heard.set()
        for name, address in self.state.endpoints().items():
            known = self._telemetry.get(name)
            if known is None or known[0] != address:
                if known is not None:
                    known[1].close()
                subscriber = Subscriber(self._transport, [topics.TELEMETRY], self._on_telemetry, hwm=_TELEMETRY_HWM)
                subscriber.connect(address)
                self._telemetry[name] = (address, subscriber)

    def _on_telemetry(self, frames: list[bytes]) -> None:
        now = time.time_ns()
        self.heard.set()
        for frame in frames:
            try:
                self.state.told(unpack(frame), now)
            except BadMeshFrame:
                continue  # from a process of another version: it is shown as silent


async def once(section: RegistrySection) -> Look:
    """Every process with its rates, after about a second; LfmeshError if no registry answers, or nobody is there."""
    with Transport() as transport:
        listener = Listener(section, transport)
        listener.start()
        try:
            await _until(listener, lambda: bool(listener.look()), _FIRST_VIEW_S)
            if not listener.look():
                raise LfmeshError(nobody(section, listener.state.registries))
            await _until(listener, listener.state.complete, _FIGURES_S)
            return Look(listener.look(), listener.slowest(), listener.state.registries)
        finally:
            listener.close()


async def live(section: RegistrySection, stop: asyncio.Event, again: Callable[[], RegistrySection]) -> None:
    """Show every process on the terminal until `stop`; `again` says where to ask when no registry answers."""
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Transport() as transport, Live(console=console, auto_refresh=False, screen=True) as screen:
        listener = Listener(section, transport)
        listener.start()
        began = asked = time.monotonic()
        try:
            while not stop.is_set():
                rows, now = listener.look(), time.monotonic()
                if not listener.state.registries[0] and now - asked >= _ASK_AGAIN_S:
                    asked = now
                    listener.follow(again())
                shown: RenderableType = render(rows, listener.state.registries, listener.slowest(), width=console.width)
                if not rows and now - began > _FIRST_VIEW_S:
                    shown = Group(shown, Text(nobody(listener.section, listener.state.registries), style="red"))
                screen.update(shown, refresh=True)
                try:
                    async with asyncio.timeout(_REFRESH_S):
                        await stop.wait()
                except TimeoutError:
                    continue
        finally:
            listener.close()


def nobody(section: RegistrySection, registries: tuple[int, int]) -> str:
    """Why there is nothing to show."""
    where = ", ".join(section.endpoints)
    if section.static_peers:
        return "none of the static peers has an endpoint named telemetry"
    if not registries[0]:
        return f"no registry answers at {where}: is the mesh running? (lfmesh up, or --registry)"
    return f"the registry at {where} knows nobody yet"


async def _until(listener: Listener, condition: Callable[[], bool], patience_s: float) -> None:
    """Until something that was heard has made it true, or patience ends."""
    try:
        async with asyncio.timeout(patience_s):
            while not condition():
                listener.heard.clear()
                await listener.heard.wait()
    except TimeoutError:
        return


def _drop(_logger: object, _method: str, _event: EventDict) -> EventDict:
    raise structlog.DropEvent
