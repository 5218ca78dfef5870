"""The simulator beside the mesh, seen and driven by its control endpoints: its rate, and the moment its tape begins."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lfmesh.cli.up.board import Work
from lfmesh.cli.up.unit import TapeStart
from lfmesh.client.http import fetch_json
from lfmesh.errors import LfmeshError

_POLL_S = 1.0
_POLL_BEFORE_TAPE_S = 0.1
_NEEDED = (("ticker",), ("matches",), ("level2", "level2_batch"))


@dataclass(frozen=True, slots=True)
class Figures:
    """What the simulator says of itself. `listened`: every product that is wanted is subscribed at it."""

    sent: int
    playing: bool
    finished: bool
    listened: bool


def figures_of(status: Mapping[str, Any], products: Collection[str]) -> Figures:
    """From the answer of /control/status."""
    subscribed: Mapping[str, list[str]] = status["subscribed"]
    listened = all(any(set(products) <= set(subscribed.get(channel, ())) for channel in either) for either in _NEEDED)
    return Figures(status["sent"], status["playing"], status["finished"], listened)


def note_of(figures: Figures | None, tape_start: TapeStart | None, *, started: bool) -> str:
    """What an operator should know of a tape."""
    if tape_start is None or figures is None:
        return ""
    if figures.finished:
        return "the tape has ended"
    if started or figures.playing:
        return "the tape plays"
    return "the tape waits for the first client" if tape_start == "client" else "the tape waits for the ingestor"


class SimulatorWatch:
    """Follows one simulator over its restarts. `has_client` tells whether a client has subscribed at the gateway."""

    def __init__(self, products: Collection[str], tape_start: TapeStart | None, has_client: Callable[[], bool]) -> None:
        self.url: str | None = None
        self._products = products
        self._tape_start = tape_start
        self._has_client = has_client
        self._pid = 0
        self._figures: Figures | None = None
        self._asked_at = 0.0
        self._rate: float | None = None
        self._tape_started = False

    def started(self, url: str, pid: int) -> None:
        """A process of it listens; a tape begins anew with it."""
        self.url, self._pid = url, pid
        self._figures, self._rate, self._tape_started = None, None, False

    def work(self) -> Work | None:
        """For the board; None before it has answered."""
        if self._figures is None:
            return None
        note = note_of(self._figures, self._tape_start, started=self._tape_started)
        return Work(self._pid, "ready", [note] if note else [], None, self._rate)

    async def follow(self) -> None:
        """Ask it again and again, and start its tape when that is due."""
        while True:
            if self.url is not None:
                try:
                    await self._ask(self.url)
                except LfmeshError:
                    self._figures, self._rate = None, None  # it has died, or is about to be there
            waiting = self._tape_start is not None and not self._tape_started
            await asyncio.sleep(_POLL_BEFORE_TAPE_S if waiting or self._figures is None else _POLL_S)

    async def _ask(self, url: str) -> None:
        pid, now = self._pid, time.monotonic()
        figures = figures_of(await fetch_json(f"{url}/control/status"), self._products)
        if pid != self._pid:
            return
        before, asked_at = self._figures, self._asked_at
        if before is None or now - asked_at >= _POLL_S:
            self._asked_at = now
            if before is not None:
                self._rate = max(0, figures.sent - before.sent) / (now - asked_at)
            self._figures = figures
        due = self._tape_start == "now" or self._has_client()
        if self._tape_start is not None and not self._tape_started and due and figures.listened:
            await fetch_json(f"{url}/control/start")
            self._tape_started = True
