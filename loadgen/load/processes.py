"""Several processes of clients, each a `Swarm`, told what to do by lines of JSON and answering in such.

this process  →  Begin, Measure, End        on standard input, whose end ends the process
each process  →  Joined, At, Ended, Failed
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from lfmesh.errors import LfmeshError
from loadgen.load.config import LoadConfig, Progress
from loadgen.load.counts import Counts
from loadgen.load.proc import allow_sockets
from loadgen.load.swarm import Swarm

_PROGRESS_S = 0.5
_MAX_LINE_BYTES = 64 * 1024 * 1024
_END_S = 10.0


class Begin(msgspec.Struct, tag=True):
    """Join the clients of this process."""

    config: LoadConfig
    process: int


class Measure(msgspec.Struct, tag=True):
    """What comes from now on counts."""


class End(msgspec.Struct, tag=True):
    """Stop counting, and tell what came."""


class Joined(msgspec.Struct, tag=True):
    """All clients of the process have joined, or it took too long."""

    progress: Progress
    refusals: list[str]


class At(msgspec.Struct, tag=True):
    """How far it is."""

    progress: Progress


class Ended(msgspec.Struct, tag=True):
    """What came of it."""

    counts: Counts


class Failed(msgspec.Struct, tag=True):
    """It can't be done."""

    reason: str


Order = Begin | Measure | End
Answer = Joined | At | Ended | Failed

_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_encode = msgspec.json.Encoder().encode


class Processes:
    """What drives them; see `loadgen.load.run.Drivers`."""

    def __init__(self, config: LoadConfig) -> None:
        self._config = config
        self._workers: list[_Worker] = []

    async def __aenter__(self) -> Self:
        try:
            for process in range(self._config.processes):
                self._workers.append(await _Worker.start(self._config, process))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(worker.close() for worker in self._workers))

    @property
    def refusals(self) -> Sequence[str]:
        """Why connections could not be made."""
        return [reason for worker in self._workers for reason in worker.refusals]

    async def join(self) -> None:
        """All join, or it takes too long; LfmeshError if a process can't go on."""
        await asyncio.gather(*(worker.joined for worker in self._workers))

    def measure(self) -> None:
        """What comes from now on counts."""
        for worker in self._workers:
            worker.tell(Measure())

    def progress(self) -> Progress:
        """How far all of them are."""
        parts = [worker.progress for worker in self._workers]
        return Progress(*(sum(getattr(part, name) for part in parts) for name in Progress.__struct_fields__))

    async def end(self) -> list[Counts]:
        """Stop counting; what came of it."""
        for worker in self._workers:
            worker.tell(End())
        return list(await asyncio.gather(*(worker.ended for worker in self._workers)))


class _Worker:
    """One process, from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        self.progress = Progress()
        self.refusals: list[str] = []
        self.joined: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Counts] = loop.create_future()
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, config: LoadConfig, process: int) -> "_Worker":
        """Start a process, and have it begin."""
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadgen.load.processes",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_MAX_LINE_BYTES,
        )  # fmt: skip
        worker = cls(started)
        worker.tell(Begin(config, process))
        return worker

    def tell(self, order: Order) -> None:
        """Send an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(_encode(order) + b"\n")

    async def close(self) -> None:
        """End it, and wait until it has gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading
        for future in (self.joined, self.ended):
            if future.done() and not future.cancelled():
                future.exception()
            future.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            match _answers.decode(line):
                case Joined(progress, refusals):
                    self.progress, self.refusals = progress, refusals
                    if not self.joined.done():
                        self.joined.set_result(None)
                case At(progress):
                    self.progress = progress
                case Ended(counts):
                    if not self.ended.done():
                        self.ended.set_result(counts)
                case Failed(reason):
                    self._fail(reason)
        self._fail("a process of clients has ended")

    def _fail(self, reason: str) -> None:
        for future in (self.joined, self.ended):
            if not future.done():
                future.set_exception(LfmeshError(reason))


# In each process ------------------------------------------------------------------------------------------------


async def _serve(orders: asyncio.StreamReader, answer: Callable[[bytes], object]) -> None:
    """Carry out orders until they end."""

    def say(what: Answer) -> None:
        answer(_encode(what) + b"\n")

    begin = _orders.decode(await orders.readline())
    assert isinstance(begin, Begin)
    try:
        allow_sockets(begin.config.clients // begin.config.processes + 1)
        async with Swarm(begin.config, begin.process) as swarm, asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(_tell(swarm, say))
            joining = tasks.create_task(_join(swarm, say))
            while line := await orders.readline():
                match _orders.decode(line):
                    case Measure():
                        joining.cancel()
                        gc.freeze()  # what stays for the whole run need not be looked through again and again
                        swarm.measure()
                    case End():
                        (counts,) = await swarm.end()
                        say(Ended(counts))
                    case Begin():
                        break
            telling.cancel()
            joining.cancel()
    except LfmeshError as error:
        say(Failed(str(error)))


async def _join(swarm: Swarm, say: Callable[[Joined], None]) -> None:
    await swarm.join()
    say(Joined(swarm.progress(), list(swarm.refusals)))


async def _tell(swarm: Swarm, say: Callable[[At], None]) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_S)
        say(At(swarm.progress()))


async def _main() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)

    def answer(line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    await _serve(orders, answer)


if __name__ == "__main__":
    import uvloop

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this, and ends it by and by
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
