"""Reading ahead: what is to be played next, from a thread of its own, since reading an archive takes its time.

A reel is opened at a moment: first what holds there, then the lines after it, in blocks. Everything is called in the
loop; the thread runs what `Tape` does, one thing at a time.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import batched
from typing import Protocol

from lfmesh.archive.asof import StateAt
from lfmesh.archive.history import Told
from lfmesh.types import Position, StreamKey

BLOCK_LINES = 2048
BLOCK_BYTES = 1024 * 1024
"""A block ends with the line that reaches one of these."""
BLOCKS = 3
"""So many blocks are read ahead."""
_STATES = 8


class Tape(Protocol):
    """What is played: lines of some streams, from `start` to `end` (ns, both inclusive). Called in one thread.

    Its methods raise StoreUnavailable and BadArchive, from the iterators too.
    """

    @property
    def streams(self) -> Sequence[StreamKey]:
        """The streams, those included of which there is nothing."""

    @property
    def start(self) -> int:
        """The first moment."""

    @property
    def end(self) -> int:
        """The last moment."""

    def state(self, stream: StreamKey, at: int) -> StateAt | None:
        """The state of a stream, with everything of time <= `at` in it; None where none is known."""

    def lines(self, start_ts: int, after: Mapping[StreamKey, Position]) -> Iterator[Told]:
        """Lines of time >= start_ts, of streams in `after` only those after that position, in the order in which they
        happened. The parts of a snapshot follow each other."""


class Reel:
    """See the module's docstring."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._thread = _Thread()
        self._blocks: deque[list[Told]] = deque()
        self._next = 0
        self._lines: Iterator[Told] = iter(())
        self._positions: dict[StreamKey, Position] = {}
        self._time = 0
        self._finished = False

    async def states(self, streams: Sequence[StreamKey], at: int, wanted: Callable[[], bool]) -> list[StateAt] | None:
        """What holds in these streams at this moment; None as soon as it is not `wanted` any more."""
        states: list[StateAt] = []
        for some in batched(streams, _STATES):
            if not wanted():
                return None
            states += await self._thread.run(partial(self._states, some, at))
        return states

    def open(self, states: Sequence[StateAt], at: int) -> None:
        """Go on from these states, which hold at this moment; what was read before is gone."""
        self._positions = {state.stream: state.position for state in states}
        self._time = at + 1
        self._blocks.clear()
        self._next = 0
        self._finished = False
        self.reopen()

    def reopen(self) -> None:
        """Read on from where reading was left off, after a failure."""
        self._lines = self._tape.lines(self._time, dict(self._positions))

    @property
    def wants(self) -> bool:
        """True while more is to be read ahead."""
        return not self._finished and len(self._blocks) < BLOCKS

    async def read(self) -> None:
        """Read the next block. What raises leaves the reel as it was: `reopen` it."""
        lines = self._lines
        block = await self._thread.run(lambda: self._block(lines))
        if lines is not self._lines:
            return  # opened anew meanwhile
        if not block:
            self._finished = True
            return
        self._blocks.append(block)
        positions = self._positions
        for stream, line in block:
            if line.part == line.parts:  # else it is to be read again from its first part on
                positions[stream] = Position(line.epoch, line.seq)
        self._time = block[-1].line.time

    def peek(self) -> Told | None:
        """The next line, if it has been read."""
        return self._blocks[0][self._next] if self._blocks else None

    def pop(self) -> None:
        """The next line has been played."""
        self._next += 1
        if self._next == len(self._blocks[0]):
            self._blocks.popleft()
            self._next = 0

    @property
    def at_end(self) -> bool:
        """True when everything has been played."""
        return self._finished and not self._blocks

    def close(self) -> None:
        """Read nothing more. Does not wait for what is being read."""
        self._thread.end()

    def _states(self, streams: Sequence[StreamKey], at: int) -> list[StateAt]:
        """In the thread."""
        found = (self._tape.state(stream, at) for stream in streams)
        return [state for state in found if state is not None]

    def _block(self, lines: Iterator[Told]) -> list[Told]:
        """In the thread."""
        block: list[Told] = []
        size = 0
        for told in lines:
            block.append(told)
            size += len(told.line.message)
            if len(block) >= BLOCK_LINES or size >= BLOCK_BYTES:
                break
        return block


class _Thread:
    """A thread that does one thing at a time. (An executor's would be waited for at the end of the process.)"""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._do, name="lfmesh replay", daemon=True).start()

    async def run[T](self, work: Callable[[], T]) -> T:
        """Do this there; what it raises is raised here."""
        future: asyncio.Future[T] = self._loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

        def do() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - handed on to who waits for it
                self._tell(settle, None, error)
            else:
                self._tell(settle, result, None)

        self._work.put(do)
        return await future

    def end(self) -> None:
        """Do nothing more."""
        self._work.put(None)

    def _do(self) -> None:
        while (do := self._work.get()) is not None:
            do()

    def _tell[T](
        self, settle: Callable[[T | None, BaseException | None], None], result: T | None, error: BaseException | None
    ) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(settle, result, error)
