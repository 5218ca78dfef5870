"""The durable copy: batches to a state store and back, off the event loop.

All calls of the store are made by one worker thread, at most one is under way. While the store cannot be used the mesh
goes on: the keeper closes it, tries again with growing pauses, and then writes everything as it then is (the file
may be a new one).
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from lfmesh.core.backoff import Backoff
from lfmesh.errors import BadMeshFrame, StoreUnavailable
from lfmesh.ports import Context, StateStore, StoredState
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.types import StreamKey

_RETRY_BASE_S = 0.5
_RETRY_MAX_S = 10.0
_RETRY_MAX_NS = 10_000_000_000

OpenStore = Callable[[], StateStore]
"""Opens the store, in the worker thread; StoreUnavailable."""


class StateKeeper:
    """Writes what `intake` holds; `adopt` gets what the store held when it could first be read."""

    def __init__(
        self,
        open_store: OpenStore,
        intake: Intake,
        context: Context,
        adopt: Callable[[Iterable[StoredState]], None],
    ) -> None:
        self._open_store = open_store
        self._intake = intake
        self._context = context
        self._adopt = adopt
        self._log = context.log
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state-store")
        self._store: StateStore | None = None
        self._opened: StateStore | None = None  # belongs to the worker thread
        self._loaded = False
        self._down = False
        self._fault = "not opened yet"
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

    async def open(self) -> None:
        """Open and read the store for the first time; a store that is down is only noted."""
        await self._reopen()

    def beat(self, now: int) -> None:
        """Begin what is due, unless something is under way."""
        if self._begun or self._closed or 0 < self._retry_at - now <= _RETRY_MAX_NS:
            return  # a longer way off than the longest pause: the clock was set back
        if self._store is None or len(self._intake.schedule):
            self._begun = True
            self._context.spawn(self._work(now))

    async def close(self) -> None:
        """Write everything that has changed and close the store; idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._idle.wait()
        if self._loaded or len(self._intake.state):
            await self._last_write()
        await self._close_store()
        self._worker.shutdown()

    # Inside -----------------------------------------------------------------------------------------------------

    async def _work(self, now: int) -> None:
        if self._closed:
            return
        self._idle.clear()
        try:
            if self._store is None:
                await self._reopen()
            else:
                await self._write(self._store, self._intake.schedule.due(now))
        finally:
            self._begun = False
            self._idle.set()

    async def _in_worker[**P, T](self, call: Callable[P, T], *args: P.args, **_: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, call, *args)

    async def _reopen(self) -> None:
        try:
            store, stored = await self._in_worker(self._open_and_load, not self._loaded)
        except StoreUnavailable as error:
            await self._failed(error)
            return
        self._store = store
        if not self._loaded:
            self._loaded = True
            self._adopt(stored)
        if self._down:
            self._down = False
            now = self._context.clock()
            for state in self._intake.state:
                self._intake.schedule.changed(state.key, now)
            self._log.info("the state store can be used again")
        self._fault = ""
        self._backoff.reset()

    def _open_and_load(self, load: bool) -> tuple[StateStore, list[StoredState]]:
        store = self._opened = self._open_store()
        return store, list(store.load()) if load else []

    async def _close_store(self) -> None:
        self._store = None
        try:
            await self._in_worker(self._close_opened)
        except StoreUnavailable as error:
            self._log.warning("the state store did not close in order", error=str(error))

    def _close_opened(self) -> None:
        store, self._opened = self._opened, None
        if store is not None:
            store.close()

    async def _write(self, store: StateStore, taken: Mapping[StreamKey, int]) -> None:
        batch = self._batch(taken)
        if not batch:
            return
        started = self._context.clock()
        try:
            written = await self._in_worker(store.write, batch)
        except StoreUnavailable as error:
            self._intake.schedule.again(taken)
            await self._failed(error)
        except asyncio.CancelledError:
            self._intake.schedule.again(taken)
            raise
        else:
            self._count(batch, written, started, min(taken.values()))

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
            await self._write(self._store, schedule.everything())
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

    def _count(self, batch: list[StoredState], written: int, started: int, since: int) -> None:
        now = self._context.clock()
        counters = self._intake.counters
        counters.store_writes_total += 1
        counters.store_states_written_total += written
        counters.store_states_ignored_total += len(batch) - written
        counters.store_bytes_written_total += sum(len(stored.state) for stored in batch)
        counters.store_write_ms = (now - started) / 1e6
        counters.store_write_max_ms = max(counters.store_write_max_ms, counters.store_write_ms)
        counters.store_batch_states = len(batch)
        counters.store_lag_ms = (now - since) / 1e6
