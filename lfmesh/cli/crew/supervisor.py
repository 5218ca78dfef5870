"""The supervisor of a gateway's workers: it forks them, starts again who dies, and ends them in order.

One loop over signals and the workers' lines, without asyncio, threads or ZeroMQ, so that a fork is safe at every moment
and a worker that died is back in milliseconds. It serves no client. What its workers ask of it is in
`lfmesh.services.gateway.crew_desk`, when one that died is started again in `lfmesh.cli.up.unit`.

    SIGTERM, SIGINT     the port is closed, every worker drains; a second one of the same kind ends all at once
    its own death       workers notice that their parent is another, and drain
"""

import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, NoReturn, assert_never

import msgspec

from lfmesh.cli.crew.line import LineEnd
from lfmesh.cli.up.unit import Ended, GiveUp, Restart, Unit
from lfmesh.core.admission import Admissions
from lfmesh.messages import ServiceRecord
from lfmesh.observe import process
from lfmesh.observe.metrics import statistics_text
from lfmesh.services.gateway.crew_desk import Desk, Letter
from lfmesh.services.gateway.crew_member import Member
from lfmesh.services.gateway.crew_messages import Admit, Answer, Ask, Failed, Leave, Started
from lfmesh.services.runtime import EXIT_FAILED
from lfmesh.types import Role

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_PARENT_INTERVAL_S = 0.25
_FORK_AGAIN_S = 1.0
_GRACE_S = 1.2
"""Workers bound their own end; past that, and this, they are killed."""
_ENDING = (signal.SIGTERM, signal.SIGINT)

RunWorker = Callable[[str, Member], int]
"""Runs the worker of a name in a fresh process until it ends; the exit code."""


def _note(text: str, label: str = "") -> msgspec.Meta:
    return msgspec.Meta(description=text, extra_json_schema={"label": label} if label else None)


class CrewStatistics(msgspec.Struct, frozen=True):
    """The supervisor's own figures, which /metrics has under the gateway's name beside those of each worker."""

    workers: Annotated[int, _note("Worker processes that there are to be")]
    workers_running: Annotated[int, _note("Worker processes that serve clients")]
    worker_restarts_total: Annotated[dict[str, int], _note("Starts of a worker after it had died", "worker")]
    admitted_connections: Annotated[int, _note("Client connections that count towards max_clients, of all workers")]
    supervisor_dropped_total: Annotated[int, _note("Messages to a worker that did not read, past the bound")]
    supervisor_cpu_seconds_total: Annotated[float, _note("User and system CPU time of the supervisor")]
    supervisor_resident_memory_bytes: Annotated[int, _note("Resident memory of the supervisor")]


@dataclass(slots=True)
class _Worker:
    unit: Unit
    listener: socket.socket
    line: LineEnd | None = None
    start_at: float | None = None
    """When it is to be forked; None: it is not."""

    @property
    def alive(self) -> bool:
        return self.unit.pid is not None


@dataclass(slots=True)
class _End:
    """The crew ends: why, with which exit code, and when patience with the workers does."""

    code: int
    killed_at: float
    killed: bool = field(default=False)


class Crew:
    """See the module's docstring. `run` it once; `listeners` has a socket for each worker, and the crew closes them.

    `on_started` is called for each start of each worker. The end takes workers `bound_s` at most, past which they are
    killed. With `parent_pid` it begins as soon as that process is our parent no longer.
    """

    def __init__(
        self,
        name: str,
        listeners: Mapping[str, socket.socket],
        admissions: Admissions,
        run_worker: RunWorker,
        log: "FilteringBoundLogger",
        on_started: Callable[[ServiceRecord], None],
        bound_s: float,
        parent_pid: int | None,
    ) -> None:
        self._name = name
        self._run_worker = run_worker
        self._log = log
        self._on_started = on_started
        self._bound_s = bound_s
        self._parent_pid = parent_pid
        self._workers = {
            each: _Worker(Unit(each, Role.GATEWAY, None, 0), listener) for each, listener in listeners.items()
        }
        self._desk = Desk(name, [*listeners], admissions, self._metrics)
        self.fault: tuple[str, str] | None = None
        """Class and line of the error for which a worker could not be started, once that has ended the crew."""
        self._told: list[int] = []
        self._heard: set[int] = set()
        self._complete = False
        self._dropped_total = 0
        self._end: _End | None = None

    def statistics(self) -> CrewStatistics:
        """Its figures."""
        units = [worker.unit for worker in self._workers.values()]
        return CrewStatistics(
            workers=len(units),
            workers_running=sum(unit.state == "running" for unit in units),
            worker_restarts_total={unit.name: unit.restarts for unit in units},
            admitted_connections=self._desk.admitted,
            supervisor_dropped_total=self._dropped_total,
            supervisor_cpu_seconds_total=process.cpu_s(),
            supervisor_resident_memory_bytes=process.rss_bytes(),
        )

    def run(self) -> int:
        """Until a signal, the death of our own supervisor or a worker that can't be started ends it; the exit code."""
        gc.freeze()
        self._wake = socket.socketpair()
        for one in self._wake:
            one.setblocking(False)
        signal.set_wakeup_fd(self._wake[1].fileno(), warn_on_full_buffer=False)
        for number in (*_ENDING, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self._told.append(number))
        first, *_ = self._workers.values()
        first.start_at = time.monotonic()  # the others once it has started: what is wrong for all is said once
        try:
            with selectors.DefaultSelector() as self._selector:
                self._selector.register(self._wake[0], selectors.EVENT_READ)
                while self._end is None or any(worker.alive for worker in self._workers.values()):
                    self._turn()
        finally:
            signal.set_wakeup_fd(-1)
            for one in self._wake:
                one.close()
        if self._end.code == 0:
            self._log.info("stopped")
        return self._end.code

    # The loop --------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        for worker in self._workers.values():
            if worker.start_at is not None and worker.start_at <= time.monotonic():
                self._fork(worker)
        for key, events in self._selector.select(self._pause()):
            if isinstance(key.data, _Worker):
                self._attend(key.data, events)
            else:
                with suppress(BlockingIOError):
                    self._wake[0].recv(4096)
        told, self._told = self._told, []
        for number in told:
            if number != signal.SIGCHLD:
                self._on_signal(number)
        if signal.SIGCHLD in told:  # after the others: who was told to end by Ctrl-C, too, has not died
            self._reap()
        self._deliver(self._desk.expire(time.monotonic()))
        if self._end is None and self._parent_pid is not None and os.getppid() != self._parent_pid:
            self._begin_end("the supervisor is gone", 0)
        if self._end is not None and not self._end.killed and time.monotonic() >= self._end.killed_at:
            self._log.error("workers did not end in time; they are killed")
            self._end.killed, self._end.code = True, EXIT_FAILED
            self._signal_all(signal.SIGKILL)

    def _pause(self) -> float | None:
        now = time.monotonic()
        dues = [worker.start_at for worker in self._workers.values() if worker.start_at is not None]
        if self._desk.due is not None:
            dues.append(self._desk.due)
        if self._end is not None:
            dues.append(self._end.killed_at if not self._end.killed else now + _PARENT_INTERVAL_S)
        elif self._parent_pid is not None:
            dues.append(now + _PARENT_INTERVAL_S)
        return max(0.0, min(dues) - now) if dues else None

    def _attend(self, worker: _Worker, events: int) -> None:
        line = worker.line
        assert line is not None
        if events & selectors.EVENT_WRITE:
            line.flush()
        if events & selectors.EVENT_READ:
            asked: list[Admit | Leave | Ask | Answer] = []
            for message in line.receive():
                match message:
                    case Started():
                        self._started(worker, message.record)
                    case Failed():
                        worker.unit.failed(message.kind, message.line)
                    case Admit() | Leave() | Ask() | Answer():
                        asked.append(message)
                    case other:
                        assert_never(other)
            if asked:
                self._deliver(self._desk.take(worker.unit.name, asked, time.monotonic()))
        self._watch(worker)

    def _deliver(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            worker = self._workers[letter.to]
            if worker.line is not None:
                self._dropped_total += not worker.line.send(letter.message)
                self._watch(worker)

    def _watch(self, worker: _Worker) -> None:
        """Let the selector tell what is to be told of this line."""
        line = worker.line
        if line is None:
            return
        if not line.open:
            self._hang_up(worker)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.unsent else 0)
        if self._selector.get_key(line.socket).events != events:
            self._selector.modify(line.socket, events, worker)

    def _hang_up(self, worker: _Worker) -> None:
        if worker.line is not None:
            self._selector.unregister(worker.line.socket)
            worker.line.close()
            worker.line = None

    # Lives -----------------------------------------------------------------------------------------------------------

    def _fork(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        unit = worker.unit
        unit.forking(time.monotonic())
        worker.start_at = None
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that comes while the child still has our handlers would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(worker, theirs, ours)
        except OSError as error:
            self._log.error("cannot fork a worker; it is tried again", worker=unit.name, error=error.strerror)
            worker.start_at = time.monotonic() + _FORK_AGAIN_S
            ours.close()
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            theirs.close()
        unit.forked(pid)
        worker.line = LineEnd(ours)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _be_worker(self, worker: _Worker, line_end: socket.socket, ours: socket.socket) -> NoReturn:
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the runtime takes it over; SIGTERM follows from us
            self._selector.close()
            for one in (ours, *self._wake):
                one.close()
            for other in self._workers.values():
                if other.line is not None:
                    other.line.close()
                if other is not worker:
                    other.listener.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            member = Member(worker.unit.name, self._name, line_end, worker.listener)
            code = self._run_worker(worker.unit.name, member)
        except BaseException:  # noqa: BLE001 - the last line of defence: show it, and end this process only
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _started(self, worker: _Worker, record: ServiceRecord) -> None:
        now = time.monotonic()
        worker.unit.started(now)
        self._desk.started(worker.unit.name)
        self._on_started(record)
        if self._end is not None:
            return
        for other in self._workers.values():
            if other.unit.state == "waiting" and other.start_at is None:
                other.start_at = now
        if not self._complete and all(other.unit.ever_ran for other in self._workers.values()):
            self._complete = True
            self._log.info("started", pid=os.getpid(), http=record.http, workers=len(self._workers))

    def _reap(self) -> None:
        for worker in self._workers.values():
            if worker.unit.pid is None:
                continue
            pid, status = os.waitpid(worker.unit.pid, os.WNOHANG)
            if pid:
                if worker.line is not None:
                    self._attend(worker, selectors.EVENT_READ)  # what it still had to say
                self._hang_up(worker)
                self._ended(worker, status)

    def _ended(self, worker: _Worker, status: int) -> None:
        unit, now = worker.unit, time.monotonic()
        never_ran, fault = not unit.ever_ran, unit.fault
        code = os.waitstatus_to_exitcode(status)
        pause = unit.ended(status, now)
        self._deliver(self._desk.lost(unit.name, unit.note or "it has ended"))
        if self._end is not None:
            clean = code in (0, -signal.SIGTERM)  # by the signal: it had not come so far as to end in order
            self._end.code = max(self._end.code, code, 0 if clean else EXIT_FAILED)
            return
        if never_ran and code > 0:
            # The next attempt would meet it again. Its own last line says what it is.
            self.fault = fault
            self._begin_end(f"{unit.name} cannot be started", code)
            return
        match pause:
            case Restart(pause_s):
                worker.start_at = now + pause_s
                self._log.warning("worker died; it is started again", worker=unit.name, why=unit.note, pause_s=pause_s)
            case GiveUp(line):
                self._log.error("worker cannot be started again", error=line)
                self._begin_end(f"{unit.name} cannot be started", code if code > 0 else EXIT_FAILED)
            case Ended():
                pass
            case other:
                assert_never(other)

    # The end ---------------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if number in self._heard:
            self._log.warning("ending at once", reason=f"second {name}")
            self._signal_all(signal.SIGKILL)
            os._exit(128 + number)
        self._heard.add(number)
        if self._end is None:
            self._begin_end(name, 0)
        else:
            self._log.info("ending already", reason=name)

    def _begin_end(self, reason: str, code: int) -> None:
        self._log.info("stopping", reason=reason)
        self._end = _End(code, time.monotonic() + self._bound_s + _GRACE_S)
        for worker in self._workers.values():
            worker.listener.close()
            worker.start_at = None
            worker.unit.stopping()
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        for worker in self._workers.values():
            if worker.unit.pid is not None:
                os.kill(worker.unit.pid, number)

    def _metrics(self) -> str:
        return statistics_text(f"lfmesh_{Role.GATEWAY}_", {"instance": self._name}, self.statistics()).decode()
