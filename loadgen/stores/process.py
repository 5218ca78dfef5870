"""Processes that outlive who started them, ended by their own id and never by name.

An id alone can come to belong to somebody else; with the time of its start it can't.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import msgspec

_STAT_STATE, _STAT_STARTED = 0, 19  # fields after the name's closing parenthesis (proc_pid_stat(5))
_PAUSE_S = 0.02


class Process(msgspec.Struct, frozen=True):
    """A process: its id, and when it was started as the system tells it."""

    pid: int
    started: str

    def alive(self) -> bool:
        """True while it runs; one that ended and was not waited for does not."""
        return bool(self.started) and _started(self.pid) == self.started

    def end(self, patience_s: float) -> None:
        """SIGTERM, and SIGKILL if it is still there after `patience_s` (0: at once). Returns when it is gone."""
        if patience_s > 0:
            self._signal(signal.SIGTERM)
            self._gone(patience_s)
        while self.alive():
            self._signal(signal.SIGKILL)
            self._gone(5.0)
        with suppress(ChildProcessError):  # somebody else's child
            os.waitpid(self.pid, os.WNOHANG)

    def _signal(self, number: signal.Signals) -> None:
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _gone(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while self.alive() and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)


def process(pid: int) -> Process | None:
    """The process of an id, None if there is none."""
    started = _started(pid)
    return Process(pid, started) if started else None


def spawn(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> Process:
    """Start a command in a session of its own, so that Ctrl-C in a terminal does not reach it, and without what
    tells of AWS in our environment: servers make users of that."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603 - our own commands
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=inherited | environment,
        )  # fmt: skip
    child.returncode = 0  # it outlives this object: Popen must not warn of that, and `end` waits for it
    return Process(child.pid, _started(child.pid))


def _started(pid: int) -> str:
    """When a process was started; empty if there is none, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self").exists() else _listed(pid)
    return "" if fields[_STAT_STATE] == "Z" else fields[_STAT_STARTED]


def _listed(pid: int) -> str:
    """The same where there is no /proc."""
    line = subprocess.run(  # noqa: S603 - our own command
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return "" if line.startswith("Z") else line.partition(" ")[2].strip()
