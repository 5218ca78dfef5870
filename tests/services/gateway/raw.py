"""A WebSocket client of bare sockets: it sees every byte, and can send what no library would."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0


class Frame(NamedTuple):
    """One frame as it came: `fin` and opcode, mask bit, payload."""

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

    def send(
        self, opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, reserved: int = 0
    ) -> None:
        """Queue one frame."""
        first = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
        bit = 0x80 if mask else 0
        size = len(payload)
        if size < 126:
            length = bytes([bit | size])
        elif size < 65536:
            length = bytes([bit | 126]) + size.to_bytes(2)
        else:
            length = bytes([bit | 127]) + size.to_bytes(8)
        key = os.urandom(4)
        body = key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload)) if mask else payload
        self.writer.write(first + length + body)

    async def frame(self, timeout: float = 10.0) -> Frame | None:
        """The next frame; None at the end of the stream."""
        async with asyncio.timeout(timeout):
            start = await self.reader.read(1)
            if not start:
                return None
            first, second = start[0], (await self.reader.readexactly(1))[0]
            size = second & 0x7F
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            payload = await self.reader.readexactly(size)
        return Frame(bool(first & 0x80), first >> 4 & 0x7, first & 0xF, bool(second & 0x80), payload)

    async def frames(self) -> list[Frame]:
        """Everything up to the end of the stream; then our own end is closed, as RFC 6455 7.1.1 has it."""
        found = []
        while (frame := await self.frame()) is not None:
            found.append(frame)
        self.writer.close()
        return found


@asynccontextmanager
async def raw_client(address: tuple[str, int], extra: str = "", *, rcvbuf: int = 0) -> AsyncIterator[RawClient]:
    """Connect and shake hands; a small `rcvbuf` makes a client that is soon full."""
    import socket

    made = socket.socket()
    if rcvbuf:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, address)
    reader, writer = await asyncio.open_connection(sock=made, limit=65536 if not rcvbuf else 4096)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n".encode()
    )
    try:
        yield RawClient(reader, writer, await reader.readuntil(b"\r\n\r\n"))
    finally:
        writer.close()
