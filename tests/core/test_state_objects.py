"""Keys of oversize states: read back as they were made, in the order of the positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.archive import parse_segment, parse_snapshot
from lfmesh.core.state_objects import name_state, parse_state, parse_version, state_folder, version
from lfmesh.types import CHANNELS, Channel, Position, StreamKey

BOOK = StreamKey("BTC-USD", Channel.BOOK)
NUMBERS = st.integers(0, 2**53 - 1)
PLACES = st.tuples(NUMBERS, NUMBERS, NUMBERS)


def test_the_key_is_that_of_the_documentation() -> None:
    name = name_state("coinbase", BOOK, 1, Position(2, 3), b"body")
    assert name.key == (
        "states/venue=coinbase/product=BTC-USD/channel=book/0000000000000001-0000000000000002-0000000000000003_"
        "230d8358dc8e8890.json.zst"
    )
    assert name.key.startswith(state_folder("coinbase", BOOK))
    assert parse_segment(name.key) is None
    assert parse_snapshot(name.key) is None


@given(PLACES, st.sampled_from(CHANNELS), st.binary(max_size=9))
def test_a_key_is_read_back(place: tuple[int, int, int], channel: Channel, body: bytes) -> None:
    term, epoch, seq = place
    name = name_state("v.x-1", StreamKey("A-B", channel), term, Position(epoch, seq), body)
    assert parse_state(name.key) == name


@pytest.mark.parametrize(
    "key",
    [
        "",
        "states/venue=v/product=A-B/channel=book/1-2-3_0123456789abcdef.json.zst",
        "states/venue=v/product=A-B/channel=other/0000000000000001-0000000000000002-0000000000000003_0123456789abcdef.json.zst",
        "states/venue=v/product=A-B/channel=book/0000000000000001-0000000000000002-0000000000000003_0123456789abcdef.json",
    ],
)
def test_other_keys_are_none(key: str) -> None:
    assert parse_state(key) is None


@given(PLACES, PLACES)
def test_versions_sort_as_term_epoch_and_seq_do(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    texts = [version(term, Position(epoch, seq)) for term, epoch, seq in (one, other)]
    assert (texts[0] < texts[1]) == (one < other)
    assert parse_version(texts[0]) == (one[0], Position(*one[1:]))
    assert len(texts[0]) == len(texts[1])
