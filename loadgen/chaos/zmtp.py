"""One direction of a ZeroMQ connection (ZMTP 3, rfc.zeromq.org/spec/23) cut into whole messages.

    greeting   64 bytes
    frame      flags:1 (1 more, 2 long, 4 command), size:1 or 8 bytes, body
    message    frames up to and including the first one without `more`

A `Framer` is in one of two moods, and may change at any byte: `skip` only follows along (the bytes go on as they are),
`split` takes them apart. Pure: bytes in, bytes out.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

_GREETING_BYTES = 64
_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_HEAD, _LONG_HEAD = 2, 9
_MAX_SHORT = 255


class Unit(NamedTuple):
    """Bytes that belong together. `rest` is the end of something whose beginning has already gone on."""

    kind: Literal["greeting", "command", "message", "rest"]
    raw: bytes


class Framer:
    """Follows one direction of a connection from its first byte."""

    __slots__ = ("_head", "_left", "_more", "_unit")

    def __init__(self) -> None:
        self._left = _GREETING_BYTES  # bytes of the current frame that have not come yet
        self._head = b""  # of a frame whose header is not complete
        self._more = False  # the current message goes on after the current frame
        self._unit: bytearray | None = None  # what `split` keeps back; None: nothing of it is kept back

    def skip(self, data: bytes) -> None:
        """Follow along; the caller passes `data` on. Call `release` first when `split` was called last."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                continue
            head = self._head + data[at : at + _LONG_HEAD - len(self._head)]
            size = head_size(head)
            if size is None:
                self._head = head
                return
            at += size - len(self._head)
            self._head = b""
            self._left = _body_size(head)
            self._more = bool(head[0] & _MORE)

    def split(self, data: bytes) -> list[Unit]:
        """Whole units that end in `data`; what is not complete is kept back."""
        units: list[Unit] = []
        if self._unit is None:
            data = self._finish(data, units)
            if self._unit is None:
                return units
        unit = self._unit
        unit += data
        at = 0
        while True:
            end = unit_end(unit, at)
            if end is None:
                break
            kind: Literal["command", "message"] = "command" if unit[at] & _COMMAND else "message"
            units.append(Unit(kind, bytes(unit[at:end])))
            at = end
        del unit[:at]
        return units

    def release(self) -> bytes:
        """What `split` kept back, to be passed on now; from here `skip` may follow."""
        kept, self._unit = self._unit, None
        if not kept:
            return b""
        raw = bytes(kept)
        self.skip(raw)
        return raw

    def _finish(self, data: bytes, units: list[Unit]) -> bytes:
        """Let what has begun to pass come to its end; the bytes after it. `_unit` is set once it has."""
        kind: Literal["greeting", "rest"] = "greeting" if self._left == _GREETING_BYTES and not self._head else "rest"
        at = 0
        while (self._left or self._head or self._more) and at < len(data):
            # As far as the next border between frames, header bytes one by one.
            step = min(self._left, len(data) - at) or 1
            self.skip(data[at : at + step])
            at += step
        if at:
            units.append(Unit(kind, data[:at]))
        if not (self._left or self._head or self._more):
            self._unit = bytearray()
        return data[at:]


def head_size(head: bytes | bytearray, at: int = 0) -> int | None:
    """Bytes of the frame header at `at`; None while it is not complete."""
    if len(head) <= at:
        return None
    size = _LONG_HEAD if head[at] & _LONG else _SHORT_HEAD
    return size if len(head) - at >= size else None


def _body_size(head: bytes | bytearray, at: int = 0) -> int:
    return int.from_bytes(head[at + 1 : at + _LONG_HEAD]) if head[at] & _LONG else head[at + 1]


def unit_end(data: bytes | bytearray, at: int = 0) -> int | None:
    """Where the message or command that begins at `at` ends; None while it is not complete."""
    while True:
        size = head_size(data, at)
        if size is None:
            return None
        more = data[at] & _MORE
        at += size + _body_size(data, at)
        if at > len(data):
            return None
        if not more:
            return at


def parts_of(message: bytes) -> list[bytes]:
    """The frames' bodies of a whole message."""
    parts, at = [], 0
    while at < len(message):
        size = head_size(message, at)
        assert size is not None
        end = at + size + _body_size(message, at)
        parts.append(message[at + size : end])
        at = end
    return parts


def message_of(parts: Sequence[bytes]) -> bytes:
    """A message of these frames."""
    raw = bytearray()
    for number, part in enumerate(parts, 1):
        flags = _MORE if number < len(parts) else 0
        if len(part) > _MAX_SHORT:
            raw.append(flags | _LONG)
            raw += len(part).to_bytes(8)
        else:
            raw += bytes((flags, len(part)))
        raw += part
    return bytes(raw)
