"""The processes of a run and their supervisor: what dies is started again, at the same addresses.

Each process has a session of its own (Ctrl-C is for the harness, which ends them in order), dies with the harness where
the system can promise that, and writes to a log of its own. Only processes that were started here are signalled, by
their own ids.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

_RESTART_S, _LONGEST_RESTART_S = 0.25, 2.0
"""Pause before something that died by itself is started again; it grows with each time."""
_STOP_S = 8.0
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Death:
    """A process that ended without having been told to, or did not end when it had."""

    name: str
    code: int
    why: str

    def __str__(self) -> str:
        return f"{self.name} {self.why}, exit code {self.code}"


@dataclass(slots=True)
class _Child:
    name: str
    command: Sequence[str]
    process: asyncio.subprocess.Process | None = None
    wanted: bool = True
    paused: bool = False
    watch: asyncio.Task[None] | None = None
    started: int = 0
    crashes: int = 0


@dataclass(slots=True)
class Supervisor:
    """Runs named commands; `deaths` are those that nobody asked for."""

    folder: Path
    deaths: list[Death] = field(default_factory=list)
    _children: dict[str, _Child] = field(default_factory=dict)

    async def start(self, name: str, command: Sequence[str]) -> None:
        """Start a command under a name."""
        child = self._children[name] = _Child(name, tuple(command))
        await self._spawn(child)

    def log_of(self, name: str) -> Path:
        """Where a process writes."""
        return self.folder / f"{name}.log"

    def running(self, name: str) -> bool:
        """Whether it is there, paused or not."""
        process = self._children[name].process
        return process is not None and process.returncode is None

    async def kill(self, name: str, away_s: float) -> None:
        """SIGKILL; it is started again after `away_s`. Returns when it has been."""
        await self._cycle(name, signal.SIGKILL, away_s)

    async def restart(self, name: str, away_s: float) -> None:
        """SIGTERM, wait for its end, start it again after `away_s`."""
        await self._cycle(name, signal.SIGTERM, away_s)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self._children[name].paused = True
        self._signal(name, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """SIGCONT."""
        self._children[name].paused = False
        self._signal(name, signal.SIGCONT)

    async def end(self, names: Sequence[str]) -> None:
        """SIGTERM to these, at once; SIGKILL to what is still there after a while."""
        children = [self._children[name] for name in names if name in self._children]
        for child in children:
            child.wanted = False
            if child.paused:
                self.wake(child.name)
            self._signal(child.name, signal.SIGTERM)
        await asyncio.gather(*(self._gone(child) for child in children))

    # ---------------------------------------------------------------------------------------------------------------

    async def _cycle(self, name: str, number: signal.Signals, away_s: float) -> None:
        child = self._children[name]
        child.wanted = False
        self._signal(name, number)
        await self._gone(child)
        await asyncio.sleep(away_s)
        child.wanted = True
        await self._spawn(child)

    async def _gone(self, child: _Child) -> None:
        process = child.process
        if process is None:
            return
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            self.deaths.append(Death(child.name, -signal.SIGKILL, f"did not end within {_STOP_S:g} s and was killed"))
            self._signal(child.name, signal.SIGKILL)
            await process.wait()
        if child.watch is not None:
            child.watch.cancel()

    async def _spawn(self, child: _Child) -> None:
        child.started += 1
        with self.log_of(child.name).open("ab") as log:
            log.write(f"--- start {child.started} of {child.name} at {time.time():.3f}\n".encode())
            log.flush()
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(_die_with, os.getpid()) if sys.platform == "linux" else None,
            )
        child.watch = asyncio.create_task(self._watch(child, child.process))

    async def _watch(self, child: _Child, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if not child.wanted or child.process is not process:
            return
        self.deaths.append(Death(child.name, code, "died by itself"))
        child.crashes += 1
        await asyncio.sleep(min(_RESTART_S * child.crashes, _LONGEST_RESTART_S))
        if child.wanted:
            await self._spawn(child)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._children[name].process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with(parent: int) -> None:
    # Called between fork and exec: a harness that is killed itself leaves nothing behind.
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
