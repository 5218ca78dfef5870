"""A client's WebSocket connection: the `websockets` library owns it, prepared frames go beside it to its transport.

Why that is sound (websockets 15 to 17, `asyncio/connection.py` and `protocol.py`): the library's protocol object makes
bytes, and `send_data` hands all of them to the transport in the same call that made them: in `data_received` (pongs,
the answer to a close frame) and in `send_context` (pings, our own close). So between two callbacks of the loop nothing
half-sent is in it, and everything that it writes is whole frames. We write only whole, unfragmented, unmasked text
frames, in one call, and never from inside its methods. What it knows of the outbound side is its state and whether a
fragmented message is being sent (we never send one through it): it keeps no count or context of data frames that bytes
from elsewhere could upset. After a close frame no data frame may follow (RFC 6455, 5.5.1): its state leaves OPEN in the
call that makes the close frame, so `write` looks at the state. `tests/services/gateway/test_framing.py` holds all this
with bare sockets.

With permessage-deflate it holds, too. That is negotiated without context takeover on both sides, so the library keeps
no compressor or window between messages; it would make one for each data message that *it* sends, which it never does,
and control frames are not compressed (RFC 7692, 5.1). A frame with RSV1 set was compressed on its own by `hub_frames`,
within the negotiated window, so that a receiver can read it whatever came before; a plain frame in between is allowed
(section 6). What arrives is decompressed message by message, and what that makes is bounded by `max_size`.

`doorway.py` reaches further into the library: it slices `data_received`, drops frames of failed connections and resumes
reading itself. Its tests, and these, are to be run with each new version of it.

Flow control is the transport's own: past the high-water mark it calls `pause_writing`, and when its buffer has drained
`resume_writing`; the library uses these for its own `drain`, we for the outbox. `drain` has no time limit: a `close` of
a connection that takes nothing would wait for ever, hence the deadline in `ConnectionSink.close`.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

WRITE_HIGH_BYTES = 256 * 1024
WRITE_LOW_BYTES = 64 * 1024
"""The transport's buffer: past the first nothing more is given to it, until it has drained to the second."""
UNSENT_BYTES = 256 * 1024
"""So much the system takes for a connection beyond what it can send at once (tcp(7), TCP_NOTSENT_LOWAT)."""
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
CLOSE_TIMEOUT_S = 2.0
"""A client that does not take our close frame for so long is cut off."""


class Flow(Protocol):
    """Told when a connection's transport takes no more for now, and when it does again."""

    def paused(self) -> None:
        """The buffer is past its high-water mark."""

    def drained(self) -> None:
        """The buffer has drained."""


class ClientConnection(ServerConnection):
    """The library's connection, that also tells `flow` about its transport's buffer."""

    flow: Flow | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The system is to keep little that it can't send: what is slow shows here, and not megabytes later."""
        super().connection_made(transport)
        if _NOTSENT_LOWAT is not None:
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_BYTES)

    def pause_writing(self) -> None:
        """The transport's buffer is past its high-water mark."""
        super().pause_writing()
        if self.flow is not None:
            self.flow.paused()

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        super().resume_writing()
        if self.flow is not None and self.protocol.state is State.OPEN:
            self.flow.drained()


class ConnectionSink:
    """`lfmesh.core.hub_clients.Sink` of a connection. `spawn` starts a supervised task."""

    __slots__ = ("_connection", "_spawn")

    def __init__(self, connection: ClientConnection, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._connection = connection
        self._spawn = spawn

    def write(self, data: bytes) -> None:
        """Queue whole frames; dropped when the connection is closing."""
        connection = self._connection
        if connection.protocol.state is State.OPEN:
            connection.transport.write(data)

    def buffered(self) -> int:
        """Bytes in the transport's buffer."""
        return self._connection.transport.get_write_buffer_size()

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; who does not take part in it is cut off."""
        self._spawn(close(self._connection, code, reason))


async def close(connection: ClientConnection, code: int, reason: str) -> None:
    """Close with a code; cut the connection off if that takes too long."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close(code, reason)
    except TimeoutError:
        connection.transport.abort()
