"""A bare WebSocket client that costs little: thousands of them read into one buffer and take nothing apart.

    wire = await connect("ws://127.0.0.1:8000/ws", tally)       tally: anything with `feed`, see `loadgen.load.tally`
    wire.send(b'{"op":"subscribe",...}')
    ...
    await wire.close()                                          the close handshake; `cut` just ends the connection
    wire.end                                                    how it ended, None while it lasts

It answers pings and a close, and can stop reading, or read no faster than so many bytes a second. Any WebSocket server
and path will do; nothing is offered (no compression, no subprotocol unless `headers` say so).

The masking key is zero: a key as good as any against a server, and free.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, cast

from loadgen.load.tally import BINARY, CLOSE, PING, PONG, TEXT, BadStream, Control, Reader
from loadgen.load.upgrade import (
    END_OF_HEAD,
    NotConnected,
    Target,
    check_answer,
    frame,
    new_key,
    target_of,
    upgrade_request,
)

ABNORMAL = 1006
"""The close code of a connection that ended without a close frame (RFC 6455, section 7.1.5)."""

READ_BYTES = 256 * 1024
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0

_MAX_HEAD_BYTES = 64 * 1024
_PACES_PER_S = 10
_NO_CODE_SENT = (1005, 1006)
_SEGMENT_BYTES = 1448
"""As on an Ethernet. The 64 KB segments of loopback overrun a small receive buffer that nobody reads: the system drops
them, and the server sends them again up to minutes later, long after reading has gone on."""


class End(NamedTuple):
    """How a connection ended: the peer's close code (`ABNORMAL` without one) and reason; `ours`: by our own doing."""

    code: int
    reason: str
    ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to connect. `source`: local address, "" for the system's choice. `receive_buffer_bytes`: of the socket, 0 for
    the system's; set small, the server soon feels a reader that does not read. `on_end` is called once, at the end.
    """

    source: str = ""
    receive_buffer_bytes: int = 0
    headers: Mapping[str, str] | None = None
    open_timeout_s: float = OPEN_TIMEOUT_S
    buffer: bytearray | None = None
    on_end: Callable[[], None] | None = None


def shared_buffer(size: int = READ_BYTES) -> bytearray:
    """One buffer for all connections of a loop, which are read one after the other."""
    return bytearray(size)


class Wire(asyncio.BufferedProtocol):
    """One connection; made by `connect`."""

    __slots__ = (
        "_buffer", "_closing", "_head", "_key", "_left", "_options", "_pace", "_pace_bytes", "_stopped", "_target",
        "_transport", "_view", "end", "ended", "opened", "reader",
    )  # fmt: skip

    def __init__(self, target: Target, reader: Reader, options: Options) -> None:
        self.reader = reader
        self.end: End | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._target = target
        self._options = options
        self._buffer = options.buffer if options.buffer is not None else shared_buffer()
        self._view = memoryview(self._buffer)
        self._transport: asyncio.Transport | None = None
        self._head: bytearray | None = bytearray()
        """What came of the answer to the handshake; None after it."""
        self._key = new_key()
        self._pace: asyncio.TimerHandle | None = None
        self._pace_bytes = 0
        self._left = 0
        self._stopped = False
        self._closing = False

    # What the user does ----------------------------------------------------------------------------------------

    def send(self, text: bytes) -> None:
        """Send one text message."""
        self.write(frame(TEXT, text))

    def send_binary(self, payload: bytes) -> None:
        """Send one binary message."""
        self.write(frame(BINARY, payload))

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; the pong goes to nobody."""
        self.write(frame(PING, payload))

    def write(self, data: bytes) -> None:
        """Write bytes as they are, frames or not; nothing once the connection is over."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        """Read no more until `resume`."""
        self._stopped = True
        self._hold()

    def resume(self) -> None:
        """Read again, at the pace that is set."""
        self._stopped = False
        if not self._pace_bytes or self._left > 0:
            self._go()

    def pace(self, bytes_per_s: float) -> None:
        """Read no faster from now on; 0: as fast as it comes."""
        if self._pace is not None:
            self._pace.cancel()
            self._pace = None
        self._pace_bytes = max(1, int(bytes_per_s / _PACES_PER_S)) if bytes_per_s else 0
        if self._pace_bytes:
            self._next_pace()
        elif not self._stopped:
            self._go()

    def cut(self) -> None:
        """End the connection without a word."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    async def wait_ended(self) -> End:
        """Wait until the connection is over; how it ended."""
        await asyncio.wait([self.ended])
        assert self.end is not None
        return self.end

    async def close(self, code: int = 1000, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close with the handshake of RFC 6455; cut when there is no answer in time."""
        if self.end is None:
            self._closing = True
            self.write(frame(CLOSE, code.to_bytes(2)))
            self.pace(0)
            self.resume()
            await asyncio.wait([self.ended], timeout=timeout_s)
            if self.end is None:
                self.cut()
                await self.ended

    # What the transport does -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio's
        transport.write(upgrade_request(self._target, self._key, self._options.headers or {}))

    def get_buffer(self, sizehint: int) -> memoryview:
        """The shared buffer, or as much of it as may be read now."""
        del sizehint
        return self._view[: max(1, self._left)] if self._pace_bytes and self._head is None else self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Pass what came to the reader, and answer what must be answered."""
        if self._head is not None:
            nbytes = self._answered(self._head, nbytes)
            if not nbytes:
                return
        try:
            controls = self.reader.feed(self._buffer, nbytes)
        except BadStream as error:
            self._fail(NotConnected(str(error)))
            return
        if controls:
            for control in controls:
                self._obey(control)
        if self._pace_bytes:
            self._left -= nbytes
            if self._left <= 0:
                self._hold()

    def eof_received(self) -> bool:
        """The peer sends no more: neither do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if self._pace is not None:
            self._pace.cancel()
        if self.end is None:
            self.end = End(ABNORMAL, str(exc or "connection lost"), self._closing)
        if not self.opened.done():
            self.opened.set_exception(NotConnected(f"the server has ended the connection: {self.end.reason}"))
        if not self.ended.done():
            self.ended.set_result(None)
        if self._options.on_end is not None:
            self._options.on_end()

    # Inside ----------------------------------------------------------------------------------------------------

    def _answered(self, head: bytearray, nbytes: int) -> int:
        """Take the answer to the handshake; how many bytes of frames came with it, moved to the buffer's start."""
        head += self._view[:nbytes]
        end = head.find(END_OF_HEAD)
        if end < 0:
            if len(head) > _MAX_HEAD_BYTES:
                self._fail(NotConnected("it does not answer in HTTP"))
            return 0
        try:
            check_answer(bytes(head[:end]), self._key)
        except NotConnected as error:
            self._fail(error)
            return 0
        rest = bytes(head[end + len(END_OF_HEAD) :])
        self._buffer[: len(rest)] = rest
        self._head = None
        self.opened.set_result(None)
        return len(rest)

    def _obey(self, control: Control) -> None:
        if control.opcode == PING:
            self.write(frame(PONG, control.payload))
        elif control.opcode == CLOSE and self.end is None:
            self.end = End(control.code, control.reason, self._closing)
            if not self._closing:
                code = b"" if control.code in _NO_CODE_SENT else control.code.to_bytes(2)
                self.write(frame(CLOSE, code))
            if self._transport is not None:
                self._transport.close()

    def _fail(self, error: NotConnected) -> None:
        """End a connection whose peer speaks otherwise."""
        if self.end is None:
            self.end = End(ABNORMAL, str(error), self._closing)
        if not self.opened.done():
            self.opened.set_exception(error)
        self.cut()

    def _next_pace(self) -> None:
        """A new interval has begun: what was read beyond its share counts for it, what was not is not saved up."""
        self._left = min(self._pace_bytes, self._left + self._pace_bytes)
        if self._left > 0 and not self._stopped:
            self._go()
        self._pace = asyncio.get_running_loop().call_later(1 / _PACES_PER_S, self._next_pace)

    def _hold(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def _go(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()


async def connect(url: str, reader: Reader, options: Options | None = None) -> Wire:
    """Connect and do the opening handshake; NotConnected."""
    options = options or Options()
    target = target_of(url)
    wire = Wire(target, reader, options)
    try:
        async with asyncio.timeout(options.open_timeout_s):
            await _open(wire, target, options)
            await wire.opened
    except NotConnected as error:
        raise NotConnected(f"cannot connect to {url}: {error}", error.status) from error
    except TimeoutError as error:
        wire.cut()
        raise NotConnected(f"cannot connect to {url}: no answer within {options.open_timeout_s:g} s") from error
    except OSError as error:
        raise NotConnected(f"cannot connect to {url}: {_why(error)}") from error
    except asyncio.CancelledError:
        wire.cut()
        raise
    return wire


async def _open(wire: Wire, target: Target, options: Options) -> None:
    loop = asyncio.get_running_loop()
    family, address = await _resolved(target)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if options.receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer_bytes)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
        if options.source:
            sock.bind((options.source, 0))
        await loop.sock_connect(sock, address)
        secure = ssl.create_default_context() if target.secure else None
        await loop.create_connection(
            lambda: wire, sock=sock, ssl=secure, server_hostname=target.host if target.secure else None
        )
    except BaseException:
        sock.close()
        raise


async def _resolved(target: Target) -> tuple[int, tuple[str, int]]:
    """Family and address; a numeric one costs no question."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, target.host)
            return family, (target.host, target.port)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    return found[0][0], (str(found[0][4][0]), target.port)


def _why(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: is the mesh running?"
    if error.errno == errno.EMFILE:
        return "too many open files: raise the limit with ulimit -n"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no source port is left: give more source addresses"
    return error.strerror or str(error)
