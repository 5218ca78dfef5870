"""The life of one supervised process: its states, and when it is started again. Time is an argument, in seconds.

    waiting ─► starting ─► running ─► stopping ─► stopped
       ▲          │           │
       └─ pause ◄─┴───────────┘  it died
                  └─► failed     it can't be started

A process that dies is started again at once; one that dies again and again, after a growing pause. What makes a start
impossible (a port in use, a value that can't be used) is not tried for ever: before the first success it ends the
mesh at once, later after `ATTEMPTS` failures in a row.
"""

import signal
from dataclasses import dataclass, field
from typing import Literal

from lfmesh.types import Role

ATTEMPTS = 6
PAUSE_FIRST_S = 0.25
PAUSE_MAX_S = 5.0
STEADY_S = 10.0
"""Who ran for so long has its earlier deaths forgotten."""
HOPELESS = ("ConfigError", "PortInUse", "BadEndpoint", "BadTape")
"""Errors that the next attempt would meet again."""

Changes = dict[str, dict[str, object]]
"""Configuration keys by section."""
UnitState = Literal["waiting", "starting", "running", "pause", "stopping", "stopped", "failed"]
SIMULATOR: Literal["simulator"] = "simulator"
UnitKind = Role | Literal["simulator"]
TapeStart = Literal["client", "now"]
"""When a tape begins: once a client has subscribed, or as soon as the ingestor has."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again after `pause_s`."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It can't be started; the line says why."""

    line: str


@dataclass(frozen=True, slots=True)
class Ended:
    """It ended as it was told to."""


@dataclass(slots=True)
class Unit:
    """One process of the mesh. `name` is its instance; `order` the place in which it is ended, lowest first.

    `after` names the unit that must have started before this one is started for the first time (empty: none).
    `changes` is what its configuration has of its own.
    """

    name: str
    kind: UnitKind
    shard: int | None
    order: int
    state: UnitState = "waiting"
    pid: int | None = None
    restarts: int = 0
    since: float = 0.0
    died_in_a_row: int = 0
    ever_ran: bool = False
    fault: tuple[str, str] | None = None
    note: str = ""
    after: str = ""
    changes: Changes = field(default_factory=dict)
    remembered: Changes = field(default_factory=dict)
    """Configuration keys that keep what the system chose (ports) over restarts."""
    fallback: Changes | None = None
    """What is remembered instead, once, if its port turns out to be in use; None: it must have that port."""

    def forking(self, now: float) -> None:
        """A start has been ordered."""
        self.state, self.since, self.pid, self.fault, self.note = "starting", now, None, None, ""

    def forked(self, pid: int) -> None:
        """It has a process."""
        self.pid = pid

    def started(self, now: float) -> None:
        """Everything is bound; it works."""
        if self.state == "starting":
            self.state, self.since, self.ever_ran, self.note = "running", now, True, ""

    def failed(self, kind: str, line: str) -> None:
        """It says what makes it end: the error's class and its line."""
        self.fault = (kind, line)

    def stopping(self) -> None:
        """It has been told to end."""
        if self.state in ("starting", "running"):
            self.state = "stopping"

    def ended(self, status: int, now: float) -> Restart | GiveUp | Ended:
        """Its process is gone, with this status of `waitpid`."""
        pid, self.pid = self.pid, None
        if self.state in ("stopping", "stopped"):
            self.state = "stopped"
            return Ended()
        if self.fault is not None and self.fault[0] == "PortInUse" and self.fallback is not None:
            self.remembered, self.fallback = self.fallback, None
            self.state, self.since, self.note = "pause", now, f"{self.fault[1]}; it gets another"
            return Restart(0.0)
        ran = self.state == "running"
        if ran and now - self.since >= STEADY_S:
            self.died_in_a_row = 0
        self.died_in_a_row += 1
        why = self.fault[1] if self.fault else describe(status)
        hopeless = self.fault is not None and self.fault[0] in HOPELESS
        at_start = not ran and (hopeless or not self.ever_ran)
        if at_start and (self.died_in_a_row >= ATTEMPTS or (hopeless and not self.ever_ran)):
            self.state, self.note = "failed", why
            return GiveUp(f"{self.name}: {why}" if hopeless else f"{self.name} can't be started: {why}")
        self.state, self.since = "pause", now
        self.restarts += 1
        self.note = f"{why} (pid {pid})"
        return Restart(pause_s(self.died_in_a_row))


def pause_s(died_in_a_row: int) -> float:
    """Pause before the restart that follows so many deaths in a row: the first is at once."""
    return 0.0 if died_in_a_row <= 1 else min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(died_in_a_row - 2, 10))


def describe(status: int) -> str:
    """A status of `waitpid` in words."""
    number = status & 0x7F
    if number:
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"ended with exit code {status >> 8}"
