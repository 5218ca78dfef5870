"""Takes a gateway's stream apart into messages, for clients that look at each one. Pure."""

from collections.abc import Callable, Sequence

from loadgen.load.tally import CLOSE, TEXT, BadStream, Control

_FIN_TEXT = 0x80 | TEXT
_MAX_FRAME_BYTES = 64 * 1024 * 1024

Take = Callable[[bytes, int, int], None]
"""Gets a text message: it is `data[start:end]`."""


class Splitter:
    """Calls `take` for each text message, which must be one frame; `feed` as `loadgen.load.tally.Reader`."""

    __slots__ = ("_need", "_rest", "_take", "bytes")

    def __init__(self, take: Take) -> None:
        self.bytes = 0
        self._take = take
        self._rest = bytearray()
        self._need = 2

    @property
    def rest(self) -> bytes:
        """What has come of the next frame."""
        return bytes(self._rest)

    def feed(self, buffer: bytearray, size: int) -> Sequence[Control]:
        """Take one read apart; BadStream."""
        self.bytes += size
        rest = self._rest
        if rest or size < self._need:
            rest += memoryview(buffer)[:size]
            if len(rest) < self._need:
                return ()
            data = bytes(rest)
            rest.clear()
        else:
            data = bytes(memoryview(buffer)[:size])
        return self._split(data)

    def _split(self, data: bytes) -> Sequence[Control]:
        controls: list[Control] = []
        at, size, take = 0, len(data), self._take
        while at + 2 <= size:
            first, length = data[at], data[at + 1]
            start = at + 2
            if length == 126:
                start = at + 4
                length = data[at + 2] << 8 | data[at + 3] if start <= size else 0
            elif length == 127:
                start = at + 10
                length = int.from_bytes(data[at + 2 : start]) if start <= size else 0
            elif length > 127:
                raise BadStream("a masked frame from a server")
            end = start + length
            if end > size:
                self._keep(data, at, end)
                return controls
            if first == _FIN_TEXT:
                take(data, start, end)
            else:
                controls.append(_control(first, data[start:end]))
            at = end
        self._keep(data, at, at + 2)
        return controls

    def _keep(self, data: bytes, at: int, end: int) -> None:
        """The next frame is not complete: it goes to `end` at least."""
        if end - at > _MAX_FRAME_BYTES:
            raise BadStream(f"a frame of {end - at} bytes")
        self._need = end - at
        self._rest += data[at:]


def _control(first: int, payload: bytes) -> Control:
    if first & 0xF0 != 0x80 or first & 0x0F < CLOSE:
        raise BadStream(f"a frame that begins with {first:#04x}: neither whole text nor control")
    return Control(first & 0x0F, payload)
