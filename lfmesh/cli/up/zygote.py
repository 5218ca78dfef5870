"""A process that imports everything once, then forks the units of the mesh on demand.

It is forked from the supervisor before that has a loop, threads or sockets, and itself never has any, so that a fork of
it is safe at every moment: a unit starts in milliseconds, also when it is started again.

    supervisor ──orders──► zygote ──fork──► unit, unit, …
        ▲ ▲                  │                │
        │ └─────reports──────┴────────────────┤     one JSON object a line, each short enough to be written whole
        └───────output────────────────────────┘     what units write to stdout and stderr

Orders are JSON lines too: start a unit, or send it a signal. When they end (the supervisor is gone, however it ended)
every unit is told to end, and killed if it does not, and `clean` is called: a supervisor that is killed leaves nothing
behind. The zygote has a session of its own: Ctrl-C on the terminal reaches the supervisor alone, which ends the
units in their order.
"""

import contextlib
import gc
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from lfmesh.cli.up.unit import Changes

MAX_REPORT_BYTES = 4096
"""POSIX's PIPE_BUF on Linux: a longer write could be mixed with another process's."""
_ORPHAN_GRACE_S = 2.5
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened to a unit: `forked`, `started` (what it is reached at), `failed` (class and line of the error)
    or `ended` (status of waitpid)."""

    event: str
    name: str
    pid: int
    status: int = 0
    kind: str = ""
    line: str = ""
    endpoints: dict[str, str] = {}
    http: str = ""


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """Start the unit `fork` with these changes of the configuration, or send `signal` to the unit `name`."""

    fork: str = ""
    changes: Changes = {}
    signal: int = 0
    name: str = ""


_own_pid = 0


def parent_pid() -> int:
    """In a unit: the zygote's pid. (Its parent's would be another one, if the zygote has died since the fork.)"""
    return _own_pid or os.getppid()


Reporter = Callable[[Report], None]
RunUnit = Callable[[str, Changes, Reporter], int]
"""Runs a unit in a fresh process until it ends, from its name and changes of the configuration; the exit code."""


@dataclass(frozen=True, slots=True)
class Zygote:
    """The supervisor's end: `reports` and `output` are file descriptors to read."""

    pid: int
    orders: int
    reports: int
    output: int

    def fork(self, name: str, changes: Changes) -> None:
        """Order a start; a report follows."""
        self._order(Order(fork=name, changes=changes))

    def signal(self, name: str, number: int) -> None:
        """Order a signal to a unit; nothing happens if it is gone."""
        self._order(Order(signal=number, name=name))

    def _order(self, order: Order) -> None:
        # Once the zygote is gone its reports have ended, which the supervisor acts on.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.orders, msgspec.json.encode(order) + b"\n")


def start(preload: Callable[[], None], run_unit: RunUnit, clean: Callable[[], None]) -> Zygote:
    """Fork the zygote; call it in a process without loop and threads."""
    orders_read, orders_write = os.pipe()
    reports_read, reports_write = os.pipe()
    output_read, output_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(orders_write)
        os.close(reports_read)
        terminal = os.dup(2)
        os.dup2(output_write, 1)
        os.dup2(output_write, 2)
        os.close(output_write)
        _leave(_Nursery(orders_read, reports_write, output_read, terminal, run_unit), preload, clean)
    for descriptor in (orders_read, reports_write, output_write):
        os.close(descriptor)
    return Zygote(pid, orders_write, reports_read, output_read)


def _leave(nursery: "_Nursery", preload: Callable[[], None], clean: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        preload()
        gc.freeze()
        nursery.serve()
        code = 0
    except BaseException:  # noqa: BLE001 - the last line of defence: show it, and end this process only
        traceback.print_exc()
    finally:
        try:
            clean()
        finally:
            os._exit(code)


class _Nursery:
    """The zygote's own half: one loop over orders and dead children, without threads."""

    def __init__(self, orders: int, reports: int, output: int, terminal: int, run_unit: RunUnit) -> None:
        self._orders = orders
        self._reports = reports
        self._output = output
        self._terminal = terminal
        self._run_unit = run_unit
        self._pids: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._rest = b""
        self._ending = False

    def serve(self) -> None:
        """Fork and reap until the orders end, then see every unit out."""
        global _own_pid
        _own_pid = os.getpid()
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write, self._orders):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._told_to_end)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        with selectors.DefaultSelector() as selector:
            selector.register(self._orders, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            while not self._ending:
                for key, _ in selector.select():
                    if key.fd == self._orders:
                        self._take_orders()
                    else:
                        _drain(wake_read)
                self._reap()
            selector.unregister(self._orders)
            self._see_out(selector, wake_read)

    def _told_to_end(self, *_: object) -> None:
        self._ending = True

    def _take_orders(self) -> None:
        data = os.read(self._orders, 65536)
        if not data:
            self._ending = True
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            order = msgspec.json.decode(line, type=Order)
            if order.fork:
                self._fork(order.fork, order.changes)
            elif order.name in self._pids:
                _send(self._pids[order.name], order.signal)

    def _fork(self, name: str, changes: Changes) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_unit(name, changes)
        # A group of its own (made on both sides, so that it is there at once): a unit that is killed takes with it
        # what it has started itself.
        with contextlib.suppress(ProcessLookupError):
            os.setpgid(pid, pid)
        self._pids[name] = pid
        self._names[pid] = name
        self._report(Report("forked", name, pid))

    def _be_unit(self, name: str, changes: Changes) -> NoReturn:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.close(self._orders)
        os.close(self._output)
        os.close(self._terminal)
        code = 70
        try:
            code = self._run_unit(name, changes, self._report)
        except BaseException:  # noqa: BLE001 - the last line of defence: show it, and end this process only
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._names:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name = self._names.pop(pid)
            del self._pids[name]
            self._report(Report("ended", name, pid, status=status))

    def _report(self, report: Report) -> None:
        line = msgspec.json.encode(report) + b"\n"
        assert len(line) <= MAX_REPORT_BYTES
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more: we are about to be told so
            os.write(self._reports, line)

    def _see_out(self, selector: selectors.BaseSelector, wake: int) -> None:
        """End every unit; what they have to say goes to where the supervisor's own errors went."""
        self._signal_all(signal.SIGTERM)
        selector.register(self._output, selectors.EVENT_READ)
        deadline = time.monotonic() + _ORPHAN_GRACE_S
        while self._names and time.monotonic() < deadline:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                if key.fd == wake:
                    _drain(wake)
                else:
                    _forward(self._output, self._terminal)
            self._reap()
        self._signal_all(signal.SIGKILL)
        while self._names:
            pid, _ = os.waitpid(-1, 0)
            self._names.pop(pid, None)

    def _signal_all(self, number: int) -> None:
        for pid in self._names:
            _send(pid, number)


def _send(pid: int, number: int) -> None:
    """Signal a unit; kill it with all that belongs to it."""
    if number == signal.SIGKILL:
        os.killpg(pid, number)
    else:
        os.kill(pid, number)


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _forward(source: int, target: int) -> None:
    data = os.read(source, 65536)
    with contextlib.suppress(OSError):  # the terminal may be gone as well
        os.write(target, data)
