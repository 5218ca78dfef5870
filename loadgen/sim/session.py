"""One WebSocket connection: its outbox, what is put on it by faults, its subscriptions."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from loadgen.sim.audience import VenueChannel
from loadgen.sim.frames import framed, payload_of
from loadgen.sim.impair import Chain, Outgoing, Stage


class Outlet(Protocol):
    """Where sessions report that they have something to write, or that they were too slow."""

    buffer_limit_bytes: int

    def ready(self, session: "Session") -> None:
        """The session's outbox has become non-empty."""

    def overflowed(self) -> None:
        """A slow consumer was dropped."""


class Session:
    """Frames for one connection gather in an outbox and are written together once a turn.

    Nothing here waits: what the socket does not take is buffered by the transport up to `buffer_limit_bytes`, past
    which the connection is broken, as the venue does with slow consumers. Frames are written to the transport ready
    framed, past the library's serializer; with compression they go through it.
    """

    def __init__(self, connection: ServerConnection, number: int, products: tuple[str, ...], outlet: Outlet) -> None:
        self.number = number
        self.subscriptions: dict[VenueChannel, dict[int, None]] = {}
        self.slow_since_ns: int | None = None
        self._connection = connection
        self._products = products
        self._outlet = outlet
        self._outbox: list[bytes] = []
        self._chain = Chain()
        self._compressed = bool(connection.protocol.extensions)

    def push(self, frame: bytes, channel: VenueChannel, index: int) -> None:
        """Take one frame of a stream."""
        if self._chain:
            product = None if channel is VenueChannel.STATUS else self._products[index]
            self._put(self._chain.pass_on(Outgoing(frame, channel, product)))
        else:
            if not self._outbox:
                self._outlet.ready(self)
            self._outbox.append(frame)

    def answer(self, payload: bytes) -> None:
        """Take the answer to a request."""
        self._put(self._chain.pass_on(Outgoing(framed(payload), None, None)))

    def say_verbatim(self, payload: bytes) -> None:
        """Take an injected frame, whatever it holds; no fault touches it."""
        self._put([Outgoing(framed(payload), None, None)])

    def _put(self, items: Iterable[Outgoing]) -> None:
        for item in items:
            if not self._outbox:
                self._outlet.ready(self)
            self._outbox.append(item.frame)

    def flush(self) -> None:
        """Write the outbox to the socket."""
        frames, self._outbox = self._outbox, []
        transport = self._connection.transport
        if not frames or self._connection.state is not State.OPEN or transport.is_closing():
            return
        if self._compressed:
            protocol = self._connection.protocol
            for frame in frames:
                protocol.send_text(payload_of(frame))
            frames = protocol.data_to_send()
        transport.write(b"".join(frames))
        if transport.get_write_buffer_size() > self._outlet.buffer_limit_bytes:
            self._outlet.overflowed()
            transport.abort()

    def unsent_bytes(self) -> int:
        """What the socket has not taken yet; nothing more goes to one that is closing."""
        transport = self._connection.transport
        return 0 if transport.is_closing() else transport.get_write_buffer_size()

    def cut(self) -> None:
        """Break the connection at once, without a closing handshake."""
        self._connection.transport.abort()

    async def close(self, code: int, reason: str, within_s: float) -> None:
        """Close in order; a peer that does not answer in time is cut off."""
        try:
            async with asyncio.timeout(within_s):
                await self._connection.close(code, reason)
        except TimeoutError:
            self.cut()

    def begin_fault(self, number: int, stage: Stage) -> None:
        """Put a fault on the connection."""
        self._chain.add(number, stage)

    def end_fault(self, number: int) -> None:
        """Take it off; what it held back goes out."""
        self._put(self._chain.end(number))

    def listens_to(self, products: Iterable[str]) -> bool:
        """Whether it is subscribed to any of the products."""
        wanted = set(products)
        return any(
            self._products[index] in wanted
            for channel, indexes in self.subscriptions.items()
            if channel is not VenueChannel.STATUS
            for index in indexes
        )
