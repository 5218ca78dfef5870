"""Counting without parsing comes to what reading every header comes to, wherever the reads end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.load.tally import CLOSE, INCREMENT, PING, PONG, BadStream, Control, Tally, Walk
from tests.loadgen.load.frames import feed, frame, reads, text

HEAD = INCREMENT
OPCODES = st.sampled_from([PING, PONG, CLOSE])

# Lengths whose bytes look like the first bytes of frames, or like braces.
ODD_LENGTHS = [0x88, 0x89, 0x8A, 0x81, 0x7E, 0x7D, 0x188, 0x189, 0x17D, 0x881]
ODD_LENGTHS += [0x7D88, 0x7D89, 0x817E, 0x8188, 0x8889, 0x7D81]
LONG_LENGTHS = [0x1_0000, 0x1_7D88, 0x1_8889, 0x7_D889, 0x1_817E]


def padded(head: bytes, length: int) -> bytes:
    """A JSON object of exactly so many bytes, if it can be."""
    return head + b"x" * (length - len(head) - 2) + b'"}'


heads = st.sampled_from([HEAD, b'{"op":"snapshot","data":"', b'{"op":"status","reason":"\xc5\x88\xc2\x81~'])
lengths = st.one_of(st.integers(100, 700), st.sampled_from(ODD_LENGTHS))
texts = st.builds(padded, heads, lengths).map(text)
controls = st.builds(
    lambda opcode, payload: frame(0x80 | opcode, payload),
    OPCODES,
    st.one_of(st.binary(max_size=125), st.sampled_from([HEAD, b"}\x88", b"}\x81\x7e\x01\x00", b"}"])),
)
streams = st.lists(st.one_of(texts, texts, texts, controls), max_size=12)
cuts = st.lists(st.integers(0, 5000), max_size=12)


def increments(frames: list[bytes]) -> int:
    return sum(one[0] == 0x81 and HEAD in one for one in frames)


def controls_in(frames: list[bytes]) -> list[Control]:
    return [Control(one[0] & 0xF, one[2:]) for one in frames if one[0] & 0x8 == 8]


@given(streams, cuts)
def test_any_stream_in_any_reads(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frames)
    tally, walk, marked = Tally(), Walk(), Walk(HEAD)
    for reader in (tally, walk, marked):
        assert feed(reader, reads(stream, cuts)) == controls_in(frames)
    assert tally.messages == marked.messages == increments(frames)
    assert walk.messages == walk.frames == marked.frames == sum(one[0] == 0x81 for one in frames)
    assert tally.bytes == walk.bytes == len(stream)


@given(st.lists(st.one_of(texts, controls), min_size=1, max_size=4))
def test_byte_by_byte(frames: list[bytes]) -> None:
    stream = b"".join(one for one in frames if len(one) < 2000)
    pieces = [stream[at : at + 1] for at in range(len(stream))]
    few = [one for one in frames if len(one) < 2000]
    tally, walk = Tally(), Walk(HEAD)
    assert feed(tally, pieces) == feed(walk, pieces) == controls_in(few)
    assert tally.messages == walk.messages == increments(few)


@pytest.mark.parametrize("length", LONG_LENGTHS)
@pytest.mark.parametrize("cut", [0, 1, 2, 5, 8, 9, 10, 11])
def test_long_frames_between_controls(length: int, cut: int) -> None:
    ping, increment = frame(0x89, b"}\x88"), text(padded(HEAD, 300))
    stream = ping + text(padded(b'{"op":"snapshot","data":"', length)) + increment + ping + increment
    at = stream.index(b"\x81\x7f")
    for reader in (tally := Tally(), walk := Walk(HEAD)):
        assert feed(reader, reads(stream, [at + cut])) == [Control(PING, b"}\x88")] * 2
    assert tally.messages == walk.messages == 2


def test_a_close_has_code_and_reason() -> None:
    (control,) = feed(Tally(), [text(padded(HEAD, 200)) + frame(0x88, b"\x0f\xa1slow consumer")])
    assert (control.code, control.reason) == (4001, "slow consumer")
    assert Control(CLOSE, b"").code == 1005


def test_a_walk_counts_fragmented_messages_once_and_markers_across_frames() -> None:
    stream = frame(0x02, b"MSG a 1\r\nMS") + frame(0x00, b"G b 2\r\n") + frame(0x80, b"MSG c 3\r\n")
    walk, marked = Walk(), Walk(b"MSG ")
    feed(walk, [stream])
    feed(marked, reads(stream, [9, 14, 15]))
    assert (walk.frames, walk.messages, marked.frames, marked.messages) == (3, 1, 3, 3)


@pytest.mark.parametrize("stream", [b"\x89\xfe", b"\x89\x7e\x01\x00"])
def test_a_control_frame_that_cannot_be(stream: bytes) -> None:
    for reader in (Tally(), Walk()):
        with pytest.raises(BadStream):
            feed(reader, [stream])
