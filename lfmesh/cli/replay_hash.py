"""The state hash of a replay, by several processes: streams are independent of each other, each is one's work."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait

from lfmesh.archive.digest import StreamDigest, TradesDigest, digest, hash_of
from lfmesh.archive.reader import Archive
from lfmesh.cli.archive import open_archive
from lfmesh.config import Config
from lfmesh.errors import LfmeshError
from lfmesh.types import StreamKey

Window = tuple[int | None, int | None]
"""From and to, in ns, both inclusive; None: no bound."""

_LINES_WORTH_A_PROCESS = 50_000
"""Fewer are digested sooner than another process has started."""


@dataclass(frozen=True, slots=True)
class ReplayHash:
    """What a replay came to. `messages` are increments; `holes` places where some are missing."""

    state_hash: str
    streams: int
    messages: int
    snapshots: int
    trades: int
    holes: int
    seconds: float
    jobs: int


def replay_hash(
    config: Config, archive: Archive, streams: Sequence[StreamKey], window: Window, jobs: int | None = None
) -> ReplayHash:
    """Replay these streams as fast as it goes. `jobs`: processes, None for one a core. StoreUnavailable, BadArchive."""
    began = time.perf_counter()
    sizes = {stream: archive.size(stream, *window) for stream in streams}
    worthwhile = 1 + sum(sizes.values()) // _LINES_WORTH_A_PROCESS
    jobs = max(1, min(jobs or _cores(), len(streams), worthwhile))
    # The largest first: so no process is left alone with a large one at the end.
    ordered = sorted(streams, key=lambda stream: sizes[stream], reverse=True)
    if jobs == 1:
        digests = [digest(archive, stream, *window) for stream in ordered]
    else:
        digests = _in_processes(config, ordered, window, jobs)
    trades = [found.state.count for found in digests if isinstance(found.state, TradesDigest)]
    return ReplayHash(
        hash_of(digests),
        len(digests),
        sum(found.messages for found in digests),
        sum(found.snapshots for found in digests),
        sum(trades),
        sum(found.holes for found in digests),
        time.perf_counter() - began,
        jobs,
    )


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(config: Config, streams: Sequence[StreamKey], window: Window, jobs: int) -> list[StreamDigest]:
    # A fork is ready at once; but where there are threads, it could inherit a lock that nobody opens.
    context = multiprocessing.get_context("fork" if threading.active_count() == 1 else "spawn")
    before = multiprocessing.active_children()
    with _interruptible(), ProcessPoolExecutor(jobs, context, _begin, (config,)) as pool:
        try:
            return list(pool.map(partial(_digest, window=window), streams))
        except BrokenProcessPool as error:
            raise LfmeshError("a process of the replay has died: too little memory? --jobs 1 needs least") from error
        except BaseException:
            for process in multiprocessing.active_children():
                if process not in before:
                    process.terminate()
            raise


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt in the block: its processes are to be ended with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


_archive: list[Archive] = []
"""A worker's own reader."""


def _begin(config: Config) -> None:
    """In a worker: it ends when its parent says so, or is no more; Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _archive.append(open_archive(config, quiet=True))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _digest(stream: StreamKey, window: Window) -> StreamDigest:
    return digest(_archive[0], stream, *window)
