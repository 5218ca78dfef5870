"""WebSocket text frames, made once and shared by all clients (RFC 6455, section 5.2; server frames are unmasked)."""

import struct
from collections.abc import Iterable

_FIN_TEXT = 0x81
_SHORT = [bytes((_FIN_TEXT, length)) for length in range(126)]
_MEDIUM = struct.Struct(">BBH").pack
_LONG = struct.Struct(">BBQ").pack


def text_frame(message: bytes) -> bytes:
    """One message (UTF-8) as one unfragmented text frame."""
    length = len(message)
    if length < 126:
        return _SHORT[length] + message
    if length < 65536:
        return _MEDIUM(_FIN_TEXT, 126, length) + message
    return _LONG(_FIN_TEXT, 127, length) + message


def text_frames(messages: Iterable[bytes]) -> list[bytes]:
    """Each message as a text frame."""
    pack = _MEDIUM
    return [
        pack(_FIN_TEXT, 126, len(message)) + message if 125 < len(message) < 65536 else text_frame(message)
        for message in messages
    ]


def payload(frame: bytes) -> bytes:
    """The message inside a frame made by `text_frame`."""
    length = frame[1]
    return frame[2:] if length < 126 else frame[4:] if length == 126 else frame[10:]
