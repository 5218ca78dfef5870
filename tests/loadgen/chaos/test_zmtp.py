"""A ZeroMQ stream cut into whole messages, however it arrives."""

from hypothesis import given
from hypothesis import strategies as st

from loadgen.chaos.zmtp import Framer, message_of, parts_of, unit_end

GREETING = bytes(range(64))
COMMAND = b"\x04\x05PINGx"

messages = st.lists(st.lists(st.binary(max_size=400), min_size=1, max_size=3), max_size=6)


def chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    found, at = [], 0
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    return [*found, data[at:]]


@given(messages, st.lists(st.integers(1, 90), max_size=40))
def test_what_is_split_is_what_was_sent(sent: list[list[bytes]], sizes: list[int]) -> None:
    whole = [message_of(parts) for parts in sent]
    framer = Framer()
    units = [unit for chunk in chunks(GREETING + COMMAND + b"".join(whole), sizes) for unit in framer.split(chunk)]
    assert b"".join(unit.raw for unit in units if unit.kind in ("greeting", "rest")) == GREETING
    assert [unit.raw for unit in units if unit.kind == "command"] == [COMMAND]
    assert [unit.raw for unit in units if unit.kind == "message"] == whole
    assert [parts_of(unit.raw) for unit in units if unit.kind == "message"] == sent


@given(messages, st.lists(st.integers(1, 90), max_size=40), st.lists(st.booleans(), min_size=1, max_size=5))
def test_changing_between_skip_and_split_loses_no_byte(
    sent: list[list[bytes]], sizes: list[int], moods: list[bool]
) -> None:
    data = GREETING + b"".join(message_of(parts) for parts in sent)
    framer, out = Framer(), b""
    for number, chunk in enumerate(chunks(data, sizes)):
        if moods[number % len(moods)]:
            units = framer.split(chunk)
            out += b"".join(unit.raw for unit in units)
            assert all(unit_end(unit.raw) == len(unit.raw) for unit in units if unit.kind == "message")
        else:
            out += framer.release()
            framer.skip(chunk)
            out += chunk
    assert out + framer.release() == data


def test_a_long_frame_has_a_long_header() -> None:
    message = message_of([b"id", b"x" * 70_000])
    assert parts_of(message) == [b"id", b"x" * 70_000]
    assert unit_end(message) == len(message)
    assert unit_end(message[:-1]) is None
