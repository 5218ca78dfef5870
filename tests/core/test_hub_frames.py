import pytest
from websockets.frames import Frame, Opcode

from lfmesh.core.hub_frames import payload, text_frame, text_frames


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 300_000])
def test_frames_are_those_of_the_library(length: int) -> None:
    message = b"x" * length
    expected = Frame(Opcode.TEXT, message).serialize(mask=False)
    assert text_frame(message) == expected
    assert text_frames([message, message]) == [expected, expected]
    assert payload(expected) == message
