"""Threads for calls that block, so that the loop never does.

They are daemons: an end is not held up by a call that hangs. Whoever needs a call to have ended awaits it.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue


class Workers:
    """`threads` of them; calls are begun in the order in which they come."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(self._calls,), name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        self._closed = False

    async def run[**P, T](self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the call returns or raises. Cancelled, a call that has not begun is not made."""
        if self._closed:
            raise RuntimeError("these workers have been closed")
        made: Future[T] = Future()

        def make() -> None:
            if not made.set_running_or_notify_cancel():
                return
            try:
                made.set_result(call(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is raised where the call is awaited
                made.set_exception(error)

        self._calls.put(make)
        return await asyncio.wrap_future(made)

    def close(self) -> None:
        """Nothing is begun any more once what was asked for before has been done; does not wait. Idempotent."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._calls.put(None)


def _work(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # what it holds is not kept until the next one comes
