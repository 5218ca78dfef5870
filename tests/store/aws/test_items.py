"""States as items: what is compressed, what becomes an object, what can't be read."""

import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.archive import checksum
from lfmesh.core.state_objects import parse_state
from lfmesh.ports import StoredState
from lfmesh.store.aws import items
from lfmesh.types import CHANNELS, Channel, InputPosition, Position, StreamKey

BOOK = StreamKey("BTC-USD", Channel.BOOK)
RANDOM = random.Random(1).randbytes(2_000_000)


def stored(state: bytes) -> StoredState:
    return StoredState(BOOK, 1, Position(2, 3), InputPosition(2**64 - 1, 5, 6), 7, state)


def item(prepared: items.Prepared) -> dict[str, object]:
    key = {"S": items.key_of("coinbase", prepared.stream)}
    return {items.KEY: key, **dict(zip(items.FIELDS, prepared.fields, strict=True))}


def encoding(prepared: items.Prepared) -> str:
    return str(dict(zip(items.FIELDS, prepared.fields, strict=True))["encoding"]["S"])


NUMBERS = st.integers(0, 2**53 - 1)


@given(
    st.builds(
        StoredState,
        st.builds(StreamKey, st.sampled_from(["BTC-USD", "A-B-C"]), st.sampled_from(CHANNELS)),
        NUMBERS,
        st.builds(Position, NUMBERS, NUMBERS),
        st.builds(InputPosition, st.integers(0, 2**64 - 1), NUMBERS, NUMBERS),
        st.integers(0, 2**63 - 1),
        st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda text: text * 400)),
    )
)
def test_what_is_written_is_read_back(state: StoredState) -> None:
    prepared = items.prepare("coinbase", state)
    assert items.read(item(prepared)) == items.Record(state, None)
    assert prepared.body is None


def test_small_states_stay_readable_and_large_ones_are_compressed_where_that_saves_a_write_unit() -> None:
    assert encoding(items.prepare("v", stored(b"x" * 700))) == "json"
    assert encoding(items.prepare("v", stored(b"x" * 800))) == "zstd"
    assert encoding(items.prepare("v", stored(RANDOM[:5000]))) == "json"
    assert items.prepare("v", stored(b"x" * 100_000)).size < 100


def test_what_does_not_fit_into_an_item_is_an_object_under_its_key() -> None:
    prepared = items.prepare("v", stored(RANDOM))
    assert encoding(prepared) == "object"
    assert prepared.body is not None
    assert prepared.pointer is not None
    name = parse_state(prepared.pointer)
    assert name is not None
    assert (name.venue, name.stream, name.term, name.position) == ("v", BOOK, 1, Position(2, 3))
    assert name.checksum == checksum(prepared.body)
    assert items.unpacked(prepared.body) == RANDOM
    record = items.read(item(prepared))
    assert record == items.Record(stored(b""), prepared.pointer)
    assert items.pointer_of(item(prepared)) == prepared.pointer
    assert items.prepare("v", stored(RANDOM[: items.INLINE_BYTES])).pointer is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": {"S": "1-2"}},
        {"version": {"N": "1"}},
        {"version": None},
        {"ingestor": {"N": "x"}},
        {"stream": {"S": "coinbase/BTC-USD"}},
        {"stream": {"S": "coinbase/BTC-USD/other"}},
        {"encoding": {"S": "gzip"}},
        {"encoding": {"S": "zstd"}},
        {"encoding": {"S": "object"}},
        {"state": {"N": "1"}},
    ],
    ids=str,
)
def test_an_item_that_cannot_be_read(changes: dict[str, dict[str, str] | None]) -> None:
    broken = {**item(items.prepare("coinbase", stored(b"{}"))), **changes}
    with pytest.raises(ValueError, match=r"."):
        items.read({name: value for name, value in broken.items() if value is not None})


@pytest.mark.parametrize("body", [b"", b"nothing", zstandard.compress(b"x" * 1000)[:-3]])
def test_bytes_that_are_no_state(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        items.unpacked(body)
