"""Runs any service in a process of its own: loop, signals, log, and an end that is bounded in time, whatever hangs.

    sys.exit(run_service(GatewayService, config, Role.GATEWAY))

What ends a service: a signal, the death of the supervisor, or a failure: of a task that it spawned, or of one of its
callbacks in the loop.
"""

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from lfmesh.config import Config
from lfmesh.errors import LfmeshError
from lfmesh.messages import ServiceRecord
from lfmesh.observe import log as logs
from lfmesh.services.life import Make, Running, instance_name
from lfmesh.types import Role

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["EXIT_FAILED", "EXIT_UNEXPECTED", "Make", "Running", "instance_name", "run_service", "running"]

EXIT_FAILED = 1
"""The service could not start, or failed in a way that its last log line explains (a LfmeshError)."""
EXIT_UNEXPECTED = 70
"""An exception that nobody expected; its traceback is in the log (EX_SOFTWARE of sysexits.h)."""

STOP_TIMEOUT_S = 5.0
"""An end takes no longer than this, if nothing else is said."""
_LAST_RESORT_S = 1.0
_GC_THRESHOLDS = (10_000, 20, 500)
"""Python's own look through all objects again and again, which costs as much as the work where a thousand clients join
at once, and a tenth of a second at a time where there are ten thousand. Nothing here leaves cycles as it works (closed
connections, rings and joins are freed at once), so the young are collected in pieces of a millisecond, the old
seldom."""
_PARENT_INTERVAL_S = 0.25


def run_service(
    make: Make,
    config: Config,
    role: Role,
    shard: int | None = None,
    *,
    on_started: Callable[[ServiceRecord], None] | None = None,
    on_failed: Callable[[LfmeshError], None] | None = None,
    parent_pid: int | None = None,
    stop_timeout_s: float = STOP_TIMEOUT_S,
) -> int:
    """Run one service in this process until SIGTERM or SIGINT ends it; returns the process's exit code.

    0 after an orderly end, EXIT_FAILED, EXIT_UNEXPECTED, or 128 + the signal's number when the same signal came twice,
    which ends it at once. (One of each kind is one wish: a terminal's Ctrl-C reaches a supervisor's children too, to
    which the supervisor then sends SIGTERM.) Logs to standard error, by `config.log`.

    `on_started` is called in the loop once everything is bound, with the record that is announced (its `endpoints` and
    `http` hold the ports that the system chose); `on_failed` with the error that makes a start impossible. With
    `parent_pid` (the supervisor's `os.getpid()`) the service ends in order as soon as that process is its parent no
    longer, however it died. The end takes at most `stop_timeout_s`, and for a gateway its drain before that; past it
    the process ends as it is, with EXIT_FAILED.
    """
    log = _logger(config, role, shard)
    logs.capture_standard_logging(log, config.log)
    drains_s = {Role.GATEWAY: config.gateway.drain_s, Role.SNAPSHOTTER: config.archive.drain_s}
    bound_s = stop_timeout_s + drains_s.get(role, 0.0)
    last_resort = threading.Timer(bound_s + _LAST_RESORT_S, _give_up, (log,))
    last_resort.daemon = True

    def arm(_: object = None) -> None:
        if last_resort.ident is None:
            last_resort.start()

    async def life() -> int:
        ending = _watch(log, parent_pid)
        try:
            service = Running(make, config, role, shard, log)
        except LfmeshError as error:
            return _cannot_start(error, log, on_failed)
        for end in (ending, service.tasks.failed):
            end.add_done_callback(arm)
        code = await _live(service, ending, bound_s / 2, log, on_started, on_failed)
        arm()
        code = max(code, await _end(service, bound_s, log))
        if code == 0:
            log.info("stopped")
        return code

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(life())
    except KeyboardInterrupt:  # before the loop took the signals over, or after it gave them back
        return 128 + signal.SIGINT
    finally:
        last_resort.cancel()


@asynccontextmanager
async def running(
    make: Make, config: Config, role: Role, shard: int | None = None, *, clock: Callable[[], int] = time.time_ns
) -> AsyncIterator[Running]:
    """Run a service inside the current loop, without signal handlers, for tests and several roles in one process.

    Leaving the block ends the service in order. A failure of one of its tasks is raised there.
    """
    service = Running(make, config, role, shard, _logger(config, role, shard), clock)
    try:
        await service.start()
        yield service
    finally:
        await service.stop()
    if service.tasks.failed.done():
        raise service.tasks.failed.result()


def _logger(config: Config, role: Role, shard: int | None) -> "FilteringBoundLogger":
    bound: dict[str, str | int] = {"role": str(role), "instance": instance_name(config, role, shard)}
    if shard is not None:
        bound["shard"] = shard
    return logs.logger(config.log, **bound)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return None
    return uvloop.new_event_loop


async def _live(
    service: Running,
    ending: asyncio.Future[str],
    patience_s: float,
    log: "FilteringBoundLogger",
    on_started: Callable[[ServiceRecord], None] | None,
    on_failed: Callable[[LfmeshError], None] | None,
) -> int:
    """Start the service and wait for what ends it; the exit code so far."""
    failed = service.tasks.failed
    start = asyncio.ensure_future(service.start())
    await asyncio.wait((start, ending, failed), return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        # Half-started services are hard to end in order: let it come to its senses, but not for ever.
        await asyncio.wait((start,), timeout=patience_s)
        start.cancel()
        await asyncio.wait((start,))
    if start.cancelled():
        return 0
    if (error := start.exception()) is not None:
        return _cannot_start(error, log, on_failed)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    if on_started is not None and service.record is not None:
        asyncio.get_running_loop().call_soon(on_started, service.record)  # its failure is a callback's
    await asyncio.wait((ending, failed), return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping", reason="failure" if failed.done() else ending.result())
    return 0


async def _end(service: Running, bound_s: float, log: "FilteringBoundLogger") -> int:
    """End the service in order, within a bound; the exit code of that."""
    failed = service.tasks.failed
    stop = asyncio.ensure_future(service.stop())
    await asyncio.wait((stop,), timeout=bound_s)
    if not stop.done():
        log.error("did not end in time; what was not yet written or sent is lost", bound_s=bound_s)
        stop.cancel()
        await asyncio.wait((stop,))
        code = EXIT_FAILED
    elif (error := stop.exception()) is not None:
        code = _explain("did not end in order", error, log)
    else:
        code = 0
    if failed.done():
        return EXIT_FAILED if isinstance(failed.result(), LfmeshError) else EXIT_UNEXPECTED
    return code


def _cannot_start(
    error: BaseException, log: "FilteringBoundLogger", on_failed: Callable[[LfmeshError], None] | None
) -> int:
    if on_failed is not None and isinstance(error, LfmeshError):
        on_failed(error)
    return _explain("cannot start", error, log)


def _explain(event: str, error: BaseException, log: "FilteringBoundLogger") -> int:
    """Log an error: one line if it is ours, else with its traceback; the exit code for it."""
    if isinstance(error, LfmeshError):
        log.error(event, error=str(error))
        return EXIT_FAILED
    log.error(event, exc_info=error)
    return EXIT_UNEXPECTED


def _watch(log: "FilteringBoundLogger", parent_pid: int | None) -> asyncio.Future[str]:
    """A future that is settled, with the reason, when the process is told to end or its supervisor is gone."""
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[str] = loop.create_future()
    seen: set[int] = set()

    def end(reason: str) -> None:
        if not ending.done():
            ending.set_result(reason)

    def on_signal(number: int) -> None:
        name = signal.Signals(number).name
        if number in seen:
            log.warning("ending at once", reason=f"second {name}")
            os._exit(128 + number)
        if seen:
            log.info("ending already", reason=name)
        seen.add(number)
        end(name)

    def look_for_parent() -> None:
        if os.getppid() != parent_pid:
            end("the supervisor is gone")
        else:
            loop.call_later(_PARENT_INTERVAL_S, look_for_parent)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    if parent_pid is not None:
        look_for_parent()
    return ending


def _give_up(log: "FilteringBoundLogger") -> None:
    # On a thread of its own: whatever holds the loop or the interpreter's end up does not hold this up.
    log.error("hangs while it ends; ended by force")
    os._exit(EXIT_FAILED)
