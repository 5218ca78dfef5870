"""Counts what a WebSocket server sends, at near the speed at which it can be read. Pure: bytes in, counts out.

    tally = Tally()
    for control in tally.feed(buffer, size):     each read, from one buffer that all connections may share
        ...                                      pings to answer, a close
    tally.messages, tally.bytes

`Tally` is for servers whose data frames are unfragmented, uncompressed text, each a JSON object, as a gateway's are.
It looks for two things only, and takes no message apart:

 - a marker that stands in each message to be counted once, and nowhere else: `"op":"incr"` can't stand in a JSON
   string, whose quotes are escaped. The longer the marker, the more the search can skip.
 - the first byte of a ping, pong or close. In such a stream it follows a closing brace; the only other byte that can do
   so with this value is one of a length, and the two or eight bytes of a length have a header before them that JSON
   can't contain.

So its counts are exact whatever the reads' boundaries, which a property test compares with `Walk`, the plain reading of
each header for any server's frames. Measured with messages of 284 bytes (CPython 3.13, one of two
shared cores): `Tally` 80 ns a message, 3.5 GB/s; `Walk` 300 ns.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

INCREMENT = b'{"op":"incr","data":{"v":1,"type":"'
"""How every increment of a gateway begins."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NO_STATUS = 1005
"""The code of a close frame without one (RFC 6455, section 7.1.5)."""

_CONTROLS = (b"\x88", b"\x89", b"\x8a")
_BRACE = 0x7D
_MAX_CONTROL = 125
_LENGTH_CONTEXT = 10
"""So many bytes before a byte tell whether it is part of a length."""


class BadStream(ValueError):
    """The server sent what is no WebSocket frame."""


class Control(NamedTuple):
    """A ping, pong or close frame."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of a close: its code."""
        return int.from_bytes(self.payload[:2]) if len(self.payload) > 1 else NO_STATUS

    @property
    def reason(self) -> str:
        """Of a close: its reason."""
        return self.payload[2:].decode("utf-8", "replace")


class Reader(Protocol):
    """What takes the reads of one connection."""

    def feed(self, buffer: bytearray, size: int) -> Sequence[Control]:
        """The next `size` bytes are at the start of `buffer`, which is used again; the control frames completed."""


class Tally:
    """See the module. `messages` counts `marker`, `bytes` all bytes, headers and control frames included."""

    __slots__ = ("_control", "_marker", "_tail", "bytes", "messages", "reads")

    def __init__(self, marker: bytes = INCREMENT) -> None:
        self.messages = 0
        self.bytes = 0
        self.reads = 0
        self._marker = marker
        self._tail = b"}"
        """The end of what came of data frames; where a frame must begin, a brace."""
        self._control = bytearray()

    def feed(self, buffer: bytearray, size: int) -> Sequence[Control]:
        """Count one read; BadStream."""
        self.bytes += size
        self.reads += 1
        start = 0
        found: list[Control] = []
        if self._control:
            start = self._go_on(buffer, 0, size, found)
        while start < size:
            end = self._next_control(buffer, start, size)
            self._count(buffer, start, end)
            start = end if end == size else self._go_on(buffer, end, size, found)
        return found

    def _count(self, buffer: bytearray, start: int, end: int) -> None:
        """Count markers in data frames' bytes, and those that began in what came before."""
        marker = self._marker
        self.messages += buffer.count(marker, start, end)
        straddle = len(marker) - 1
        keep = max(straddle, _LENGTH_CONTEXT)
        tail = self._tail
        if straddle:
            self.messages += (tail[-straddle:] + buffer[start : min(end, start + straddle)]).count(marker)
        fresh = bytes(buffer[max(start, end - keep) : end])
        self._tail = fresh if len(fresh) == keep else (tail + fresh)[-keep:]

    def _next_control(self, buffer: bytearray, start: int, size: int) -> int:
        """Where the next control frame begins, `size` if none does."""
        first = size
        for opcode in _CONTROLS:
            at = buffer.find(opcode, start, first)
            while at >= 0:
                if self._begins_frame(buffer, start, at):
                    first = at
                    break
                at = buffer.find(opcode, at + 1, first)
        return first

    def _begins_frame(self, buffer: bytearray, start: int, at: int) -> bool:
        before = bytes(buffer[max(start, at - _LENGTH_CONTEXT) : at])
        if len(before) < _LENGTH_CONTEXT:
            before = self._tail + before
        if before[-1] != _BRACE:
            return False
        # Lengths below 2^24: five zero bytes, which JSON can't contain, then the three that count.
        return before[-3:-1] != b"\x81\x7e" and b"\x81\x7f\x00\x00\x00\x00\x00" not in before[-9:]

    def _go_on(self, buffer: bytearray, start: int, size: int, found: list[Control]) -> int:
        """Take what there is of the control frame that is under way; where the next frame begins."""
        control = self._control
        if not control:
            control.append(buffer[start])
            start += 1
        if len(control) == 1:
            if start == size:
                return size
            control.append(buffer[start])
            start += 1
        length = control[1]
        if length > _MAX_CONTROL:
            raise BadStream(f"a control frame of more than {_MAX_CONTROL} bytes, or masked")
        end = min(size, start + 2 + length - len(control))
        control += buffer[start:end]
        if len(control) == 2 + length:
            found.append(Control(control[0] & 0x0F, bytes(control[2:])))
            control.clear()
            self._tail = b"}"
        return end


class Walk:
    """Reads each frame's header, of any server. `frames` counts data frames, `messages` those that end one.

    With a `marker`, `messages` counts its occurrences in the payloads instead, wherever frames cut them: a NATS server
    puts many messages into a frame.
    """

    __slots__ = ("_control", "_header", "_left", "_marker", "_tail", "bytes", "frames", "messages", "reads")

    def __init__(self, marker: bytes = b"") -> None:
        self.messages = 0
        self.frames = 0
        self.bytes = 0
        self.reads = 0
        self._marker = marker
        self._tail = b""
        self._header = bytearray()
        self._left = 0
        self._control: bytearray | None = None
        """Payload of the control frame under way; None in a data frame."""

    def feed(self, buffer: bytearray, size: int) -> Sequence[Control]:
        """Count one read; BadStream."""
        self.bytes += size
        self.reads += 1
        at = 0
        found: list[Control] = []
        while at < size:
            if self._left:
                at += self._take(buffer, at, size, found)
            elif not self._header and (skipped := self._skip(buffer, at, size)) > at:
                at = skipped
            else:
                at = self._read_header(buffer, at, size, found)
        return found

    def _skip(self, buffer: bytearray, at: int, size: int) -> int:
        """Pass over unfragmented data messages whose header is here, to where something else is to be done."""
        marker, frames, last = self._marker, 0, size - 4
        while at <= last and buffer[at] & 0xF8 == 0x80:  # FIN, no extension, no control frame
            length = buffer[at + 1]
            if length == 126:
                at += 4
                length = buffer[at - 2] << 8 | buffer[at - 1]
            elif length < 126:
                at += 2
            else:
                break
            frames += 1
            if marker:
                self._left = length
                break
            at += length
        self.frames += frames
        if not marker:
            self.messages += frames
            if at > size:
                self._left = at - size
                at = size
        return at

    def _read_header(self, buffer: bytearray, at: int, size: int, found: list[Control]) -> int:
        """Take what there is of a header; where its payload begins."""
        header = self._header
        while at < size:
            header.append(buffer[at])
            at += 1
            if len(header) < 2 or len(header) < 2 + {126: 2, 127: 8}.get(header[1], 0):
                continue
            if header[1] > 127:
                raise BadStream("a masked frame from a server")
            self._left = int.from_bytes(header[2:]) if header[1] > 125 else header[1]
            opcode = header[0] & 0x0F
            if opcode >= CLOSE:
                if header[1] > _MAX_CONTROL:
                    raise BadStream(f"a control frame of more than {_MAX_CONTROL} bytes")
                self._control = bytearray()
                if not self._left:
                    self._end_control(opcode, found)
                    header.clear()
            else:
                self.frames += 1
                if not self._marker:
                    self.messages += header[0] >> 7
                header.clear()
            break
        return at

    def _take(self, buffer: bytearray, at: int, size: int, found: list[Control]) -> int:
        """Take what there is of a payload; how much that is."""
        taken = min(self._left, size - at)
        self._left -= taken
        if self._control is not None:
            self._control += buffer[at : at + taken]
            if not self._left:
                self._end_control(self._header[0] & 0x0F, found)
                self._header.clear()
        elif self._marker:
            self._count(buffer, at, at + taken)
        return taken

    def _end_control(self, opcode: int, found: list[Control]) -> None:
        assert self._control is not None
        found.append(Control(opcode, bytes(self._control)))
        self._control = None

    def _count(self, buffer: bytearray, start: int, end: int) -> None:
        marker = self._marker
        self.messages += buffer.count(marker, start, end)
        straddle = len(marker) - 1
        if straddle:
            self.messages += (self._tail + buffer[start : min(end, start + straddle)]).count(marker)
            fresh = bytes(buffer[max(start, end - straddle) : end])
            self._tail = fresh if len(fresh) == straddle else (self._tail + fresh)[-straddle:]
