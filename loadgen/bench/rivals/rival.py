"""What rivals have in common: a publisher in a process of its own that is told to publish and to rest."""

from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from loadgen.bench.counters import Counters, Pace
from loadgen.bench.process import Worker, cpu_seconds

PAUSE_S = 0.0005


class NotInstalled(Exception):
    """A rival's program is not here; the message names it."""


class Seats(NamedTuple):
    """The clients of a rival: their counters, and the size of what is published to them (the payload alone)."""

    counters: Path
    slots: slice
    message: bytes

    @property
    def clients(self) -> int:
        """How many they are."""
        count: int = self.slots.stop - self.slots.start
        return count


class Rival:
    """A `Contender` whose publisher is a worker; `server_pid` is the process that serves its clients."""

    def __init__(self, name: str, seats: Seats, each: int, publisher: Worker, server_pid: int) -> None:
        self.name = name
        self.slots = seats.slots
        self.each = each
        self._publisher = publisher
        self._server_pid = server_pid

    def start(self) -> None:
        """Publish as fast as the clients take it."""
        self._publisher.ask("publish")

    def rest(self) -> None:
        """Stop publishing."""
        self._publisher.ask("rest")

    def cpu_s(self) -> float:
        """The server's, threads and processes together."""
        return cpu_seconds(self._server_pid)


def publish(control: Connection, seats: Seats, each: int, window: int, burst: int, send: Callable[[int], None]) -> None:
    """A publisher's life: `send(n)` n messages at a time, at most `burst`, while the clients are within the window."""
    with Counters(seats.counters) as counters:
        received = counters.values[seats.slots]
        pace: Pace | None = None
        try:
            while True:
                room = 0 if pace is None else min(pace.room(), burst)
                if pace is not None and room > 0:
                    send(room)
                    pace.sent += room
                if control.poll(0 if room > 0 else None if pace is None else PAUSE_S):
                    (request,) = control.recv()
                    pace = Pace(received, each, window) if request == "publish" else None
                    control.send(request)
        except (EOFError, ConnectionResetError):
            return
        finally:
            received.release()
