"""The venue's WebSocket as batches of frames: what one read of the socket brought is handed over in one call.

It is the asyncio client of `websockets`, past its queue of messages: a coroutine that awaits `recv` pays a switch and a
decode for each message. Of the library's documented surface it overrides asyncio's Protocol callbacks and is given to
`connect` as `create_connection`; beyond that it overrides `process_event`, through which each event of the connection
passes. A test pins that seam.
"""

import asyncio
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State

from lfmesh.config import VenueSection
from lfmesh.ports import Clock

OnFrames = Callable[[int, list[bytes]], None]
"""Called with `ts_ingest` in ns and the frames that have it, in the order of arrival."""

_CLOSE_TIMEOUT_S = 0.25
_TEXT, _BINARY, _CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONT


class FeedSocket(ClientConnection):
    """A client connection whose data frames go to the one who attached; it is never read with `recv`.

    `ts_ingest` is taken before the bytes are looked at. A message that took several reads to arrive has the time of
    the first read that brought nothing but a piece of it.
    """

    def __init__(
        self,
        protocol: ClientProtocol,
        *,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        close_timeout: float | None = None,
        max_queue: int | tuple[int | None, int | None] | None = None,
        write_limit: int | tuple[int, int | None] = 2**15,
    ) -> None:
        super().__init__(
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            write_limit=write_limit,
        )
        self._arrived: list[bytes] = []
        self._partial: bytearray | None = None
        self._eventful = False
        self._piece_at: int | None = None
        self._clock: Clock | None = None
        self._on_frames: OnFrames | None = None
        self._on_lost: Callable[[], None] | None = None
        self._failure: Exception | None = None

    def attach(self, clock: Clock, on_frames: OnFrames, on_lost: Callable[[], None]) -> None:
        """From now on frames go to `on_frames`; `on_lost` is called once, when the connection has ended."""
        self._clock, self._on_frames, self._on_lost = clock, on_frames, on_lost
        self._hand_over(clock())
        if self.state is State.CLOSED:
            on_lost()

    def detach(self) -> None:
        """What still comes is dropped."""
        self._on_frames = None

    @property
    def open(self) -> bool:
        """False as soon as either side has begun to close."""
        return self.state is State.OPEN

    async def ending(self) -> tuple[str, bool]:
        """Close, if that is still to be done; why the connection ended, and whether a frame was too large for it.

        An exception of the one who took the frames is raised here: asyncio itself only logs it and cuts the connection.
        """
        await self.close()
        if self._failure is not None:
            raise self._failure
        try:
            await self.recv()
        except ConnectionClosed as closed:
            cause = f" ({closed.__cause__})" if closed.__cause__ is not None and closed.sent is None else ""
            return f"{closed}{cause}", closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG
        raise AssertionError("a closed connection has received")

    # Called by the event loop --------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes have come; asyncio's Protocol."""
        if self._clock is None:
            super().data_received(data)
            return
        now = self._clock()
        self._eventful = False
        super().data_received(data)
        if self._arrived:
            self._hand_over(now)
        elif not self._eventful and self._piece_at is None:
            self._piece_at = now

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended; asyncio's Protocol."""
        super().connection_lost(exc)
        if self._on_lost is not None:
            self._on_lost()

    def process_event(self, event: Request | Response | Frame) -> None:
        """Take data frames; leave the handshake and control frames to the library."""
        self._eventful = True
        if type(event) is Frame:
            opcode = event.opcode
            if opcode is _TEXT or opcode is _BINARY or opcode is _CONTINUATION:
                if event.fin and self._partial is None:
                    self._arrived.append(bytes(event.data))
                else:
                    self._fragment(event)
                return
        super().process_event(event)

    # Inside ------------------------------------------------------------------------------------------------------

    def _fragment(self, event: Frame) -> None:
        # The library bounds the bytes of a fragmented message; fragments without bytes cost nothing here.
        if self._partial is None:
            self._partial = bytearray()
        self._partial += event.data
        if event.fin:
            self._arrived.append(bytes(self._partial))
            self._partial = None

    def _hand_over(self, now: int) -> None:
        frames, self._arrived = self._arrived, []
        piece_at, self._piece_at = self._piece_at, None
        if self._on_frames is None or not frames:
            return
        try:
            if piece_at is not None:
                self._on_frames(piece_at, frames[:1])
                frames = frames[1:]
            if frames:
                self._on_frames(now, frames)
        except Exception as error:
            self._failure = error
            raise


async def open_socket(venue: VenueSection) -> FeedSocket:
    """A connection after its opening handshake. OSError (TimeoutError too) or a WebSocketException if there is none."""
    async with asyncio.timeout(venue.open_timeout_s):
        connection = await connect(
            venue.ws_url,
            create_connection=FeedSocket,
            compression="deflate" if venue.compression else None,
            max_size=venue.max_frame_bytes,
            proxy=None,
            open_timeout=None,
            close_timeout=_CLOSE_TIMEOUT_S,
            ping_interval=None,  # the watchdog asks for more: data
        )
    assert isinstance(connection, FeedSocket)
    return connection
