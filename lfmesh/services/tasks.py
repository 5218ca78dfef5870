"""Supervised tasks: none is orphaned, and one that fails is noticed at once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from lfmesh.core.repeat import Repeats
from lfmesh.errors import LfmeshError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class Tasks:
    """Tasks of one service. The first failure settles `failed`, which the runtime waits for."""

    def __init__(self, log: "FilteringBoundLogger") -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._repeats = Repeats()
        self.failed: asyncio.Future[BaseException] = self._loop.create_future()

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Start a task; after `close` nothing is started any more."""
        if self._closed:
            coro.close()
            return
        task = self._loop.create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def fail(self, error: BaseException, where: str) -> None:
        """Something failed that is to end the service: log it, with its traceback unless it is one of ours."""
        if isinstance(error, LfmeshError):
            self._log.error("service failed", error=str(error))
        else:
            self._log.error("unexpected failure", where=where, exc_info=error)
        if not self.failed.done():
            self.failed.set_result(error)

    def watch_callbacks(self) -> Callable[[], None]:
        """Treat a failure of a callback in the loop as one of a task; returns what undoes this.

        What else the loop complains of (a connection that broke, no more file descriptors) is logged, and ends nothing.
        Where several services share a loop, the first one takes it.
        """
        if self._loop.get_exception_handler() is not None:
            return lambda: None

        def on_complaint(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error, message = context.get("exception"), str(context.get("message"))
            if error is not None and "handle" in context:
                self.fail(error, message)
                return
            held_back = self._repeats.admit(message, int(self._loop.time() * 1e9))
            if held_back is not None:
                self._log.error("event loop complains", message=message, held_back=held_back, exc_info=error)

        self._loop.set_exception_handler(on_complaint)
        return lambda: self._loop.set_exception_handler(None)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        self._closed = True
        while self._tasks:
            running = tuple(self._tasks)
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            self._tasks.difference_update(running)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error, getattr(task.get_coro(), "__qualname__", task.get_name()))
