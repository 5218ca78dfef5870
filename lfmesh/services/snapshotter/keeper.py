"""The durable copy: batches to a state store and back, off the event loop.

All calls of the store are made by one worker thread, at most one is under way. While the store cannot be used the mesh
goes on: the keeper closes it, tries again with growing pauses, and then writes everything as it then is (the file
may be a new one). A store that is misconfigured at the start ends the service.

What is written to the store has been journaled before (`before_write`): the journal is never behind the states.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from lfmesh.core.backoff import Backoff
from lfmesh.errors import BadMeshFrame, StatesLeft, StoreMisconfigured, StoreUnavailable
from lfmesh.ports import Context, StateStore, StoredState
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.services.snapshotter.workers import Workers
from lfmesh.types import StreamKey

_RETRY_BASE_S = 0.5
_RETRY_MAX_S = 10.0
_RETRY_MAX_NS = 10_000_000_000
_OPEN_PATIENCE_S = 2.0

OpenStore = Callable[[], StateStore]
"""Opens the store, in the worker thread; StoreUnavailable."""


class _Taken(NamedTuple):
    """What one batch is made of: streams and since when each waits (ns), and when its ticks were published."""

    streams: Mapping[StreamKey, int]
    ticks: Sequence[int]


async def _nothing() -> None:
    pass


async def _ended(task: asyncio.Future[None]) -> None:
    await task


class StateKeeper:
    """Writes what `intake` holds; `adopt` gets what the store held when it could first be read.

    `before_write` is awaited before each batch. While `may_write` is False another snapshotter writes to the store:
    what changes waits, for the time when that one is gone.
    """

    def __init__(
        self,
        open_store: OpenStore,
        intake: Intake,
        context: Context,
        adopt: Callable[[Iterable[StoredState]], None],
        before_write: Callable[[], Awaitable[None]] = _nothing,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._open_store = open_store
        self._intake = intake
        self._context = context
        self._adopt = adopt
        self._before_write = before_write
        self._may_write = may_write
        self._log = context.log
        self._worker = Workers("state-store")
        self._store: StateStore | None = None
        self._opened: StateStore | None = None  # belongs to the worker thread
        self._loaded = False
        self._down = False
        self._fault = "not opened yet"
        self._refused: set[StreamKey] = set()
        self._retry_at = 0
        self._backoff = Backoff(_RETRY_BASE_S, _RETRY_MAX_S, random.random, first_at_once=False)
        self._begun = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def fault(self) -> str:
        """Why the store can't be used, empty while it can."""
        return self._fault

    async def open(self, patience_s: float = _OPEN_PATIENCE_S) -> None:
        """Open and read the store for the first time; one that is down, or takes longer, is only noted.

        StoreMisconfigured; where that shows later, it ends the service.
        """
        opening = asyncio.ensure_future(self._reopen(at_start=True))
        self._begun = True
        self._idle.clear()
        opening.add_done_callback(self._opened_at_last)
        await asyncio.wait((opening,), timeout=patience_s)
        if opening.done():
            opening.result()
        else:
            self._context.spawn(_ended(opening))

    def _opened_at_last(self, _: asyncio.Future[None]) -> None:
        self._begun = False
        self._idle.set()

    def beat(self, now: int) -> None:
        """Begin what is due, unless something is under way."""
        if self._begun or self._closed or 0 < self._retry_at - now <= _RETRY_MAX_NS:
            return  # a longer way off than the longest pause: the clock was set back
        if self._store is None or (len(self._intake.schedule) and self._may_write()):
            self._begun = True
            self._context.spawn(self._work(now))

    async def close(self, timeout_s: float = 10.0) -> None:
        """Write everything that has changed and close the store, within this time; idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
                if (self._loaded or len(self._intake.state)) and self._may_write():
                    await self._last_write()
                await self._close_store()
        except TimeoutError:
            waiting = len(self._intake.schedule)
            self._log.error("the state store does not answer; the latest state was not written", streams=waiting)
        finally:
            self._worker.close()

    # Inside -----------------------------------------------------------------------------------------------------

    async def _work(self, now: int) -> None:
        if self._closed:
            return
        self._idle.clear()
        try:
            if self._store is None:
                await self._reopen()
            else:
                intake = self._intake
                await self._write(self._store, _Taken(intake.schedule.due(now), intake.latency.take()))
        finally:
            self._begun = False
            self._idle.set()

    async def _reopen(self, *, at_start: bool = False) -> None:
        try:
            store, stored = await self._worker.run(self._open_and_load, not self._loaded)
        except StoreUnavailable as error:
            if at_start and isinstance(error, StoreMisconfigured):
                raise
            await self._failed(error)
            return
        self._store = store
        if not self._loaded:
            self._loaded = True
            self._adopt(stored)
        if self._down:
            now = self._context.clock()
            for state in self._intake.state:
                self._intake.schedule.changed(state.key, now)
            if len(self._intake.schedule):
                return  # that it can be opened says little: the next write tells
        self._works()

    def _works(self) -> None:
        """The store can be used."""
        if self._down:
            self._down = False
            self._log.info("the state store can be used again")
        if not self._refused:
            self._fault = ""
        self._backoff.reset()

    def _open_and_load(self, load: bool) -> tuple[StateStore, list[StoredState]]:
        store = self._opened = self._open_store()
        return store, list(store.load()) if load else []

    async def _close_store(self) -> None:
        self._store = None
        try:
            await self._worker.run(self._close_opened)
        except StoreUnavailable as error:
            self._log.warning("the state store did not close in order", error=str(error))

    def _close_opened(self) -> None:
        store, self._opened = self._opened, None
        if store is not None:
            store.close()

    async def _write(self, store: StateStore, taken: _Taken) -> None:
        batch = self._batch(taken.streams)
        if not batch:
            self._intake.latency.again(taken.ticks)
            return
        started = self._context.clock()
        try:
            await self._before_write()
            written = await self._worker.run(store.write, batch)
        except StatesLeft as error:
            self._works()
            self._wait_for(error, taken)
            self._count([one for one in batch if one.stream not in error.streams], error.written, started, taken)
        except StoreUnavailable as error:
            self._again(taken)
            await self._failed(error)
        except asyncio.CancelledError:
            self._again(taken)
            raise
        else:
            self._refused.difference_update(taken.streams)
            self._works()
            self._count(batch, written, started, taken)

    def _wait_for(self, error: StatesLeft, taken: _Taken) -> None:
        """The store can be used, but not for these: they wait for their next turn, and nothing else does."""
        self._intake.counters.store_errors_total += 1
        if not self._refused:
            self._log.error("some states cannot be stored", error=str(error))
        self._fault = str(error)
        self._refused.difference_update(taken.streams)
        for key, since in taken.streams.items():
            if key in error.streams:
                self._refused.add(key)
                self._intake.schedule.changed(key, since)

    def _again(self, taken: _Taken) -> None:
        self._intake.schedule.again(taken.streams)
        self._intake.latency.again(taken.ticks)

    def _batch(self, taken: Mapping[StreamKey, int]) -> list[StoredState]:
        batch = []
        for key in taken:
            state = self._intake.state.get(key)
            if state is None:
                continue
            try:
                batch.append(self._intake.stored(state))
            except BadMeshFrame as error:
                self._intake.discard(key, str(error))
        return batch

    async def _last_write(self) -> None:
        schedule = self._intake.schedule
        if not len(schedule):
            return
        if self._store is None:
            await self._reopen()
        if self._store is not None:
            await self._write(self._store, _Taken(schedule.everything(), self._intake.latency.take()))
        if len(schedule):
            self._log.error("the latest state was not written", streams=len(schedule), error=self._fault)

    async def _failed(self, error: StoreUnavailable) -> None:
        self._intake.counters.store_errors_total += 1
        if str(error) != self._fault:
            self._log.error("the state store cannot be used; the mesh goes on without it", error=str(error))
        self._down = True
        self._fault = str(error)
        self._retry_at = self._context.clock() + round(self._backoff.next_pause() * 1e9)
        await self._close_store()

    def _count(self, batch: list[StoredState], written: int, started: int, taken: _Taken) -> None:
        now = self._context.clock()
        counters = self._intake.counters
        counters.store_writes_total += 1
        counters.store_states_written_total += written
        counters.store_states_ignored_total += len(batch) - written
        counters.store_bytes_written_total += sum(len(stored.state) for stored in batch)
        counters.store_write_ms = (now - started) / 1e6
        counters.store_write_max_ms = max(counters.store_write_max_ms, counters.store_write_ms)
        counters.store_batch_states = len(batch)
        counters.store_lag_ms = (now - min(taken.streams.values())) / 1e6
        self._intake.latency.stored(taken.ticks, now)
