import json

import pytest

from lfmesh.core import rawtape


@pytest.mark.parametrize("frame", [b"{}", b"\xff\t garbled \r", b"\t"])
def test_a_line_gives_back_what_it_was_made_of(frame: bytes) -> None:
    assert rawtape.split(rawtape.line(1618677830123456789, frame)) == (1618677830123456789, frame)


def test_a_frame_without_its_newlines_is_the_same_json_or_still_none() -> None:
    pretty = b'{\r\n  "a": [1,\n2]\n}'
    flat = rawtape.without_newlines(pretty)
    assert json.loads(flat) == json.loads(pretty)
    assert len(flat) == len(pretty)
    rawtape.line(1, flat)
    with pytest.raises(json.JSONDecodeError):
        json.loads(rawtape.without_newlines(b'{"a":"b\nc"}'))
    assert rawtape.without_newlines(b'{"a":1}') == b'{"a":1}'
