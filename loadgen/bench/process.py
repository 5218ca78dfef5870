"""Processes that a benchmark starts: what they cost (proc(5)), free ports for them, and their end by their own pid."""

import multiprocessing
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_spawned = multiprocessing.get_context("spawn")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
END_S = 5.0
"""Who does not end in order within so long is killed."""
DEADLINE_S = 60.0
"""Nothing that a benchmark waits for takes so long on any machine; after it, it fails."""


class BenchmarkFailed(RuntimeError):
    """The benchmark did not do what it was to measure; the message says what went wrong."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that still live (fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS + sum(map(cpu_seconds, children(pid)))


def children(pid: int) -> list[int]:
    """Processes that it has started (not their children)."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(child) for child in found]


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and of its children."""
    own = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return own + sum(map(rss_bytes, children(pid)))


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago, for servers that can't choose one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S, every_s: float = 0.01) -> None:
    """Wait for a condition of another process; BenchmarkFailed, naming `what`, if it does not come."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"waited {deadline_s:.0f} s for {what}")
        time.sleep(every_s)


def listening(port: int) -> bool:
    """True if somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A program that runs; what it writes to standard error is kept for who asks why it has ended."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._name = " ".join(command[-2:])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(  # noqa: S603 - our own commands
            command, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=self._errors
        )
        self.pid = self._process.pid

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition that it brings about; BenchmarkFailed if it ends before."""

        def come() -> bool:
            if self._process.poll() is not None:
                self._errors.seek(0)
                said = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise BenchmarkFailed(f"{self._name} has ended: {said or 'without a word'}")
            return condition()

        until(come, what)

    def end(self) -> None:
        """End it, in order if it can."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Worker:
    """A function of ours in a process of its own, `target(connection, *args)`, which is asked things one at a time.

    It ends when it reads the end of its connection, so it never outlives who started it.
    """

    def __init__(self, target: Callable[..., None], *args: object) -> None:
        self._here, there = _spawned.Pipe()
        self._process = _spawned.Process(target=target, args=(there, *args), daemon=True)
        self._process.start()
        there.close()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, *request: object, deadline_s: float = DEADLINE_S) -> Any:  # noqa: ANN401 - as the request has it
        """Its answer to a request; BenchmarkFailed if it dies or is silent."""
        self.tell(*request)
        if not self._here.poll(deadline_s):
            raise BenchmarkFailed(f"no answer to {request[0]!r}")
        try:
            answer = self._here.recv()
        except (EOFError, ConnectionError) as error:
            raise BenchmarkFailed(f"died of {request[0]!r}") from error
        if isinstance(answer, Exception):
            raise BenchmarkFailed(f"{request[0]!r}: {answer!r}") from answer
        return answer

    def tell(self, *request: object) -> None:
        """A request without an answer."""
        try:
            self._here.send(request)
        except OSError as error:
            raise BenchmarkFailed(f"died before {request[0]!r}") from error

    def end(self) -> None:
        """End it; idempotent."""
        self._here.close()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def requests(connection: Connection) -> Iterator[tuple[Any, ...]]:
    """What a worker is asked, until who started it is gone."""
    while True:
        try:
            request = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        yield request


def median(figures: Iterable[float]) -> float:
    """Of an odd number of figures the middle one, of an even number the lower of the two."""
    ordered = sorted(figures)
    return ordered[(len(ordered) - 1) // 2]
