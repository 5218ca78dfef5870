"""Frames of a WebSocket server for tests, and the plainest reading of them."""

from collections.abc import Iterable, Sequence

from loadgen.load.tally import Control, Reader

_BUFFER = bytearray(b'"op":"incr"\x89\x88\x81' * 30_000)


def frame(first: int, payload: bytes) -> bytes:
    """One unmasked frame; `first` is its first byte."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2) + payload
    return bytes((first, 127)) + size.to_bytes(8) + payload


def text(payload: bytes) -> bytes:
    """An unfragmented text frame."""
    return frame(0x81, payload)


def reads(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The stream as it comes in reads that end at `cuts`."""
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)})
    starts = [0, *ends]
    return [stream[start:end] for start, end in zip(starts, ends, strict=False) if end > start]


def feed(reader: Reader, pieces: Sequence[bytes]) -> list[Control]:
    """Feed all reads through one buffer that still holds what others have read."""
    found: list[Control] = []
    for piece in pieces:
        _BUFFER[: len(piece)] = piece
        found += reader.feed(_BUFFER, len(piece))
    return found
