"""A worker's end of the line to its supervisor: admission over all workers, and what the others say.

The supervisor (`lfmesh.cli.crew`) makes the socket pair and the listening socket before it forks the worker. If the
line ends, the supervisor is gone, and the runtime ends the worker: until then nobody more is admitted.
"""

import asyncio
import itertools
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import assert_never, cast

from lfmesh.errors import LfmeshError
from lfmesh.messages import ServiceRecord
from lfmesh.services.gateway.crew_messages import (
    ASK_TIMEOUT_S,
    Admit,
    Admitted,
    Answer,
    Answers,
    Ask,
    Failed,
    FromWorker,
    Leave,
    Lines,
    Started,
    Told,
    What,
    decode_to_worker,
    line,
)

_PATIENCE_S = 2 * ASK_TIMEOUT_S
"""The supervisor answers within half of it, unless it is held up itself: then nobody is let in."""


class Member(asyncio.Protocol):
    """See the module's docstring; `lfmesh.ports.Admission` for the front door. `name` is the worker's instance.

    `listener` is the socket that it is to serve; the server owns it from then on.
    """

    def __init__(self, name: str, supervisor: str, line_end: socket.socket, listener: socket.socket) -> None:
        self.name = name
        self.listener = listener
        self._supervisor = supervisor
        self._socket = line_end
        self._transport: asyncio.Transport | None = None
        self._lines = Lines()
        self._numbers = itertools.count(1)
        self._admissions: dict[int, tuple[str, asyncio.Future[str]]] = {}
        self._asked: dict[What, tuple[int, asyncio.Future[list[Told]]]] = {}
        self._say: dict[What, Callable[[], list[str]]] = {}

    async def open(self, ready: Callable[[], list[str]], metrics: Callable[[], str]) -> None:
        """Begin to listen to the supervisor; what the service says when it is asked."""
        self._loop = asyncio.get_running_loop()
        self._say = {"ready": ready, "metrics": lambda: [metrics()]}
        await self._loop.create_unix_connection(lambda: self, sock=self._socket)

    def close(self) -> None:
        """The service has ended: what was still to be sent is sent. Idempotent."""
        if self._transport is not None:
            self._transport.close()

    def started(self, record: ServiceRecord) -> None:
        """Tell that everything is bound."""
        self._send(Started(record))

    def failed(self, error: LfmeshError) -> None:
        """Tell why it can't be started, however far it has come."""
        message = Failed(type(error).__name__, str(error))
        if self._transport is not None:
            self._send(message)
            return
        with suppress(OSError):  # the supervisor is gone, too
            self._socket.sendall(line(message))

    # Admission -------------------------------------------------------------------------------------------------------

    async def admit(self, address: str) -> str:
        """Ask for one more connection; empty, or why not. Whoever no longer waits for the answer is not counted."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._admit(address)
        except TimeoutError:
            return "full"

    async def _admit(self, address: str) -> str:
        if self._transport is None:
            return "full"
        number = next(self._numbers)
        future: asyncio.Future[str] = self._loop.create_future()
        self._admissions[number] = (address, future)
        self._send(Admit(number, address))
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and not future.result():  # the answer had come, and was not looked at any more
                self.leave(address)
            raise

    def leave(self, address: str) -> None:
        """A connection that was admitted has ended."""
        self._send(Leave(address))

    # Questions -------------------------------------------------------------------------------------------------------

    async def others(self, what: What) -> list[Told]:
        """What every other worker says now, in their order; who asks meanwhile shares the answer."""
        if self._transport is None:
            return [Told(self._supervisor, silence="the supervisor is gone")]
        if what not in self._asked:
            number = next(self._numbers)
            self._asked[what] = (number, self._loop.create_future())
            self._send(Ask(number, what))
        _, future = self._asked[what]
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.shield(future)
        except TimeoutError:
            return [Told(self._supervisor, silence="the supervisor does not answer")]

    # asyncio.Protocol ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The line is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """What the supervisor says."""
        for text in self._lines.feed(data):
            message = decode_to_worker(text)
            match message:
                case Admitted():
                    self._admitted(message)
                case Ask():
                    self._send(Answer(message.number, self._say[message.what]()))
                case Answers():
                    self._answered(message)
                case other:
                    assert_never(other)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        """The supervisor is gone, or we are: who waits is answered."""
        self._transport = None
        for _, admission in self._admissions.values():
            if not admission.done():
                admission.set_result("full")
        self._admissions.clear()
        gone = [Told(self._supervisor, silence="the supervisor is gone")]
        for _, answers in self._asked.values():
            if not answers.done():
                answers.set_result(gone)
        self._asked.clear()

    def _admitted(self, message: Admitted) -> None:
        address, future = self._admissions.pop(message.number)
        if not future.done():
            future.set_result(message.refusal)
        elif not message.refusal:
            self.leave(address)

    def _answered(self, message: Answers) -> None:
        for what, (number, future) in tuple(self._asked.items()):
            if number == message.number:
                del self._asked[what]
                if not future.done():
                    future.set_result(message.told)

    def _send(self, message: FromWorker) -> None:
        if self._transport is not None:
            self._transport.write(line(message))
