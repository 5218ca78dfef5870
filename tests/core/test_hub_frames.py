"""Frames against those of the `websockets` library, plain and compressed."""

import random
from collections.abc import Iterator

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from lfmesh.core.hub_frames import (
    DEFLATE_MIN_BYTES,
    DEFLATE_WINDOW_BITS,
    deflated,
    deflated_frame,
    deflated_frames,
    payload,
    payloads,
    text_frame,
    text_frames,
)

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 300_000]


def prose(length: int, seed: int = 1) -> bytes:
    """Text that compresses about as market data does."""
    draw = random.Random(seed)
    return "".join(
        f'["{draw.uniform(60_000, 61_000):.2f}",0.{draw.randrange(10**6)}],' for _ in range(length // 20 + 1)
    )[:length].encode()


def noise(length: int) -> bytes:
    return random.Random(2).randbytes(length)


def read(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """What a client that negotiated the least window reads: whether it was compressed, and the message.

    Each message by a decoder of its own, that knows nothing of the ones before it.
    """
    reader = StreamReader()
    reader.feed_data(data)
    while reader.buffer:
        extension = PerMessageDeflate(True, True, DEFLATE_WINDOW_BITS, DEFLATE_WINDOW_BITS)
        compressed = bool(reader.buffer[0] & 0x40)
        parsing = Frame.parse(reader.read_exact, mask=False, extensions=[extension])
        with pytest.raises(StopIteration) as end:
            next(parsing)
        frame: Frame = end.value.value
        assert (frame.opcode, frame.fin) == (Opcode.TEXT, True)
        yield compressed, bytes(frame.data)


@pytest.mark.parametrize("length", LENGTHS)
def test_frames_are_those_of_the_library(length: int) -> None:
    message = b"x" * length
    expected = Frame(Opcode.TEXT, message).serialize(mask=False)
    assert text_frame(message) == expected
    assert text_frames([message, message]) == [expected, expected]
    assert payload(expected) == message


@pytest.mark.parametrize("length", [*LENGTHS, DEFLATE_MIN_BYTES - 1, DEFLATE_MIN_BYTES, 250, 500, 150_000])
@pytest.mark.parametrize("make", [prose, bytes])
def test_a_compressed_frame_is_the_message_and_never_longer(length: int, make: type[bytes]) -> None:
    message = make(length)
    frame = deflated_frame(message)
    assert [*read(frame)] == [(length >= DEFLATE_MIN_BYTES, message)]
    assert len(frame) <= len(text_frame(message))


@pytest.mark.parametrize("length", [DEFLATE_MIN_BYTES, 500, 5000, 70_000])
def test_what_would_not_shrink_is_sent_as_it_is(length: int) -> None:
    message = noise(length)
    assert deflated_frame(message) == text_frame(message)


def test_a_run_of_frames_becomes_the_same_run_compressed() -> None:
    messages = [prose(length, length) for length in (300, 20, 1000, 0, 100_000, 126)]
    run = b"".join(text_frames(messages))
    assert [*payloads(run)] == messages
    assert deflated(run) == b"".join(deflated_frames(messages))
    assert [message for _, message in read(deflated(run))] == messages
    assert [compressed for compressed, _ in read(deflated(run))] == [True, False, True, False, True, False]
    assert deflated(b"") == b""


def test_the_same_message_has_the_same_bytes_wherever_it_stands() -> None:
    message = prose(400)
    assert deflated_frames([prose(1000, 3), message, message])[1:] == [deflated_frame(message)] * 2
