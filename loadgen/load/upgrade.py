"""The opening handshake of a WebSocket client and the frames that it sends (RFC 6455, sections 4.1 and 5.2). Pure."""

import base64
import hashlib
import os
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from lfmesh.errors import LfmeshError

END_OF_HEAD = b"\r\n\r\n"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASKED = 0x80


class NotConnected(LfmeshError):
    """No connection could be made; `status` is the HTTP status that refused it, 0 when there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Target(NamedTuple):
    """Where a WebSocket address leads."""

    host: str
    port: int
    path: str
    secure: bool


@lru_cache(maxsize=64)
def target_of(url: str) -> Target:
    """The parts of a ws:// or wss:// address; NotConnected if it is none."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("ws", "wss") or not parts.hostname or port == -1:
        raise NotConnected(f"{url} is no WebSocket address, such as ws://localhost:8000/ws")
    secure = parts.scheme == "wss"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.hostname, port or (443 if secure else 80), path, secure)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, also one that no server may accept."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    mask = _MASKED if masked else 0
    key = b"\0\0\0\0" if masked else b""
    size = len(payload)
    if size < 126:
        return bytes((first, mask | size)) + key + payload
    if size < 65536:
        return struct.pack(">BBH", first, mask | 126, size) + key + payload
    return struct.pack(">BBQ", first, mask | 127, size) + key + payload


def new_key() -> bytes:
    """A key for one handshake."""
    return base64.b64encode(os.urandom(16))


def upgrade_request(target: Target, key: bytes, headers: Mapping[str, str]) -> bytes:
    """What a client sends first."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [
        f"GET {target.path} HTTP/1.1",
        f"Host: {host}:{target.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + END_OF_HEAD


def check_answer(head: bytes, key: bytes) -> None:
    """The head of the server's answer, without the empty line; NotConnected if it is no upgrade."""
    lines = head.decode("latin-1").split("\r\n")
    status = next(iter(lines[0].split(" ")[1:2]), "")
    if not status.isdigit():
        raise NotConnected("it does not answer in HTTP")
    if status != "101":
        raise NotConnected(f"it answers HTTP {status}", int(status))
    named = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    if named.get("sec-websocket-accept") != accept:
        raise NotConnected("it does not accept WebSocket connections")
