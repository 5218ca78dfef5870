"""What misbehaving clients send."""

import asyncio
from collections.abc import Callable
from random import Random

from loadgen.load.config import Behaviour
from loadgen.load.tally import TEXT
from loadgen.load.upgrade import Target, frame, target_of
from loadgen.load.wire import Wire

_BAD_REQUEST_PAUSE_S = 0.1
_FLOOD_PAUSE_S = 0.02
_FLOOD_REQUESTS = 40
_FIRST_OFFENCE_S = 0.5
_OVERSIZED_BYTES = 66 * 1024
_HALF_A_HANDSHAKE = b"GET /ws HTTP/1.1\r\nHost: gateway\r\nUpgrade: webso"

_BAD_JSON = (b"{", b"", b'{"op":"subscribe","products":', b'"op"', b"[1,2,3]", b"nonsense")
_UNKNOWN_OPS = (b'{"op":"sell"}', b'{"op":"subscribe"}', b'{"op":7}', b'{"op":"subscribe","products":"all"}')
_INVALID_FRAMES = (
    frame(TEXT, b'{"op":"ping","t":1}', masked=False),
    frame(TEXT, b'{"op":"ping","t":1}', reserved=4),
    frame(0x3, b"a reserved opcode"),
    frame(0x9, b"x" * 126),
    frame(0x9, b"a fragmented ping", fin=False),
    frame(0x0, b"the end of nothing"),
    frame(0x8, b"\x00"),
    frame(TEXT, b"\xff\xfe"),
)


async def offend(behaviour: Behaviour, wire: Wire, chance: Random) -> None:
    """Do it until the connection is over, or this is cancelled."""
    match behaviour:
        case Behaviour.BAD_JSON:
            await _again_and_again(wire, _BAD_REQUEST_PAUSE_S, lambda: wire.send(chance.choice(_BAD_JSON)))
        case Behaviour.UNKNOWN_OP:
            await _again_and_again(wire, _BAD_REQUEST_PAUSE_S, lambda: wire.send(chance.choice(_UNKNOWN_OPS)))
        case Behaviour.FLOOD:
            requests = frame(TEXT, b'{"op":"flood"}') * _FLOOD_REQUESTS  # whose answers are no one's but errors
            await _again_and_again(wire, _FLOOD_PAUSE_S, lambda: wire.write(requests))
        case Behaviour.OVERSIZED:
            await _once(wire, frame(TEXT, b'{"op":"ping","t":1,"x":"' + b"x" * _OVERSIZED_BYTES + b'"}'), chance)
        case Behaviour.INVALID_FRAME:
            await _once(wire, chance.choice(_INVALID_FRAMES), chance)
        case _:
            await wire.wait_ended()


async def half_a_handshake(url: str) -> None:
    """Connect, begin, and say no more until the server ends it; OSError if nobody is there."""
    target: Target = target_of(url)
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        writer.write(_HALF_A_HANDSHAKE)
        await reader.read()
    finally:
        writer.transport.abort()


async def _again_and_again(wire: Wire, pause_s: float, send: Callable[[], None]) -> None:
    while wire.end is None:
        send()
        await asyncio.wait([wire.ended], timeout=pause_s)


async def _once(wire: Wire, what: bytes, chance: Random) -> None:
    await asyncio.wait([wire.ended], timeout=_FIRST_OFFENCE_S * (0.5 + chance.random()))
    wire.write(what)
    await wire.wait_ended()
