"""A WebSocket client of bare sockets: it sees every byte, and can send what no library would.

What comes is held to RFC 6455 frame by frame: see `RawClient.frame`.
"""

import asyncio
import base64
import os
import socket
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0
RSV1 = 4
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


class Frame(NamedTuple):
    """One frame as it came: `fin` and opcode, mask bit, payload (decompressed where RSV1 is set)."""

    fin: bool
    reserved: int
    opcode: int
    masked: bool
    payload: bytes


class RawClient:
    """The client's end of one connection, after the opening handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: bytes) -> None:
        self.reader = reader
        self.writer = writer
        self.response = response
        self.deflates = b"permessage-deflate" in response
        self.closing = False
        """True once a close frame has come: nothing may follow it but answers to pings."""
        self.sent_close = False

    def send(
        self, opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, reserved: int = 0
    ) -> None:
        """Queue one frame."""
        self.sent_close |= opcode == CLOSE
        self.writer.write(made(opcode, payload, fin=fin, mask=mask, reserved=reserved))

    async def frame(self, timeout: float = 10.0) -> Frame | None:
        """The next frame; None at the end of the stream, which may only come between frames.

        Servers don't mask (5.1), use the shortest length (5.2), the reserved bits only as negotiated, don't divide
        control frames or make them longer than 125 bytes (5.5), and send no data after a close frame (5.5.1). This one
        divides no message, either, and compresses each text on its own (RFC 7692, 7.1.1.1 and 7.2.2).
        """
        async with asyncio.timeout(timeout):
            start = await self.reader.read(1)
            if not start:
                return None
            first, second = start[0], (await self.reader.readexactly(1))[0]
            size = second & 0x7F
            assert not second & 0x80, "a masked frame"
            if size >= 126:
                least = 126 if size == 126 else 65536
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
                assert size >= least, "a length that could be shorter"
            payload = await self.reader.readexactly(size)
        frame = Frame(bool(first & 0x80), first >> 4 & 0x7, first & 0xF, False, payload)
        assert frame.fin, "a fragment"
        assert frame.opcode in (TEXT, CLOSE, PING, PONG), f"opcode {frame.opcode}"
        if frame.opcode == TEXT:
            frame = self._inflated(frame)
            frame.payload.decode()
        else:
            assert frame.reserved == 0
            assert size <= 125, "a long control frame"
        assert frame.opcode == PONG or not self.closing, "a frame after a close frame"
        self.closing |= frame.opcode == CLOSE
        return frame

    async def next(self) -> Frame:
        """The next frame; there must be one."""
        frame = await self.frame()
        assert frame is not None, "the end of the stream"
        return frame

    async def frames(self) -> list[Frame]:
        """Everything up to the end of the stream; a close frame is answered (5.5.1), our own end is closed (7.1.1)."""
        found = []
        while (frame := await self.frame()) is not None:
            found.append(frame)
            if self.closing and not self.sent_close:
                self.send(CLOSE, frame.payload)
        self.writer.close()
        return found

    def reset(self) -> None:
        """End the connection with an RST, whatever is under way."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def _inflated(self, frame: Frame) -> Frame:
        if not frame.reserved:
            return frame
        assert frame.reserved == RSV1
        assert self.deflates, "RSV1 without an extension"
        inflate = zlib.decompressobj(-12)
        payload = inflate.decompress(frame.payload + b"\0\0\xff\xff")
        assert not inflate.unconsumed_tail
        assert not inflate.unused_data
        return frame._replace(payload=payload)


def made(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    """The bytes of one frame."""
    first = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    bit = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        length = bytes([bit | size])
    elif size < 65536:
        length = bytes([bit | 126]) + size.to_bytes(2)
    else:
        length = bytes([bit | 127]) + size.to_bytes(8)
    if not mask:
        return first + length + payload
    key = os.urandom(4)
    pad = key * (size // 4 + 1)
    body = int.from_bytes(payload) ^ int.from_bytes(pad[:size])
    return first + length + key + body.to_bytes(size)


def handshake(address: tuple[str, int], extra: str = "") -> bytes:
    """An opening request."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /ws HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    ).encode()


@asynccontextmanager
async def raw_socket(
    address: tuple[str, int], *, rcvbuf: int = 0, local: str = ""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, from `local` if that is given; a small `rcvbuf` makes a client that is soon full."""
    plain = socket.socket()
    if rcvbuf:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    if local:
        plain.bind((local, 0))
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, address)
    reader, writer = await asyncio.open_connection(sock=plain, limit=65536 if not rcvbuf else 4096)
    try:
        yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def raw_client(
    address: tuple[str, int], extra: str = "", *, rcvbuf: int = 0, local: str = ""
) -> AsyncIterator[RawClient]:
    """Connect and shake hands."""
    async with raw_socket(address, rcvbuf=rcvbuf, local=local) as (reader, writer):
        writer.write(handshake(address, extra))
        yield RawClient(reader, writer, await reader.readuntil(b"\r\n\r\n"))
