"""The contract of a state store, for every backend."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lfmesh.core.sharding import stable_id
from lfmesh.ports import StateStore, StoredState
from lfmesh.types import NO_INPUT, Channel, InputPosition, Position, StreamKey
from tests.store.backends import BACKENDS, OpenStore

BOOK = StreamKey("BTC-USD", Channel.BOOK)
TICKER = StreamKey("BTC-USD", Channel.TICKER)
BIG = 2**53 - 1


@pytest.fixture(params=sorted(BACKENDS))
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    return BACKENDS[request.param](tmp_path)


@contextmanager
def opened(open_store: OpenStore) -> Iterator[StateStore]:
    store = open_store()
    try:
        yield store
    finally:
        store.close()


def stored(stream: StreamKey, term: int, epoch: int, seq: int, state: bytes = b"{}") -> StoredState:
    return StoredState(stream, term, Position(epoch, seq), InputPosition(1, 2, 3), 4, state)


def held(store: StateStore) -> dict[StreamKey, StoredState]:
    return {one.stream: one for one in store.load()}


def test_a_new_store_is_empty(open_store: OpenStore) -> None:
    with opened(open_store) as store:
        assert list(store.load()) == []
        assert store.write([]) == 0


def test_what_was_written_is_read_back_as_it_was_also_later(open_store: OpenStore) -> None:
    states = [
        StoredState(
            BOOK, BIG, Position(BIG, BIG), InputPosition(2**64 - 1, BIG, BIG), 1_800_000_000_123_456_789,
            b'{"bids":[[22356.2700,0.00000001]],"asks":[]}',
        ),
        StoredState(TICKER, 1, Position(1, 0), InputPosition(stable_id("ingestor-A"), 1, 1), 0, b""),
        StoredState(StreamKey("ETH-USD", Channel.TRADES), 1, Position(1, 0), NO_INPUT, 0, b'{"trades":[]}'),
    ]  # fmt: skip
    with opened(open_store) as store:
        assert store.write(states) == 3
        assert held(store) == {one.stream: one for one in states}
    with opened(open_store) as store:
        assert held(store) == {one.stream: one for one in states}


@pytest.mark.parametrize(
    ("newer", "older"),
    [((5, 1, 1), (4, 9, 9)), ((5, 7, 1), (5, 6, 9)), ((5, 7, 3), (5, 7, 2)), ((5, 7, 3), (5, 7, 3))],
    ids=["term", "epoch", "seq", "equal"],
)
def test_a_write_never_goes_back(
    open_store: OpenStore, newer: tuple[int, int, int], older: tuple[int, int, int]
) -> None:
    with opened(open_store) as store:
        assert store.write([stored(BOOK, *newer, b"new")]) == 1
        assert store.write([stored(BOOK, *older, b"old"), stored(TICKER, *older, b"other")]) == 1
        assert {key: one.state for key, one in held(store).items()} == {BOOK: b"new", TICKER: b"other"}


def test_of_one_batch_the_newest_holds(open_store: OpenStore) -> None:
    with opened(open_store) as store:
        store.write([stored(BOOK, 1, 1, seq, str(seq).encode()) for seq in (2, 5, 3)])
        assert held(store)[BOOK].state == b"5"


def test_of_two_writers_the_stale_one_changes_nothing(open_store: OpenStore) -> None:
    """A process that was thought dead writes what it still held, after its successor has written."""
    with opened(open_store) as store:
        store.write([stored(BOOK, 1, 100, 7, b"both know"), stored(TICKER, 1, 100, 1, b"only the old one")])
    with opened(open_store) as successor:
        successor.write([stored(BOOK, 2, 90, 1, b"successor")])
    with opened(open_store) as stale:
        assert stale.write([stored(BOOK, 1, 100, 900, b"stale"), stored(TICKER, 1, 100, 2, b"still right")]) == 1
        assert {key: one.state for key, one in held(stale).items()} == {BOOK: b"successor", TICKER: b"still right"}


def test_a_state_of_many_megabytes(open_store: OpenStore) -> None:
    state = b'{"bids":[' + b"[1.00000001,2.00000002]," * 250_000 + b"[1,2]]}"
    with opened(open_store) as store:
        store.write([stored(BOOK, 1, 1, 1, state)])
        assert held(store)[BOOK].state == state


def test_closing_twice_is_closing_once(open_store: OpenStore) -> None:
    store = open_store()
    store.close()
    store.close()


POSITIONS = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.sampled_from([BOOK, TICKER]), POSITIONS), max_size=5), max_size=8))
def test_after_any_writes_each_stream_has_the_newest(
    open_store: OpenStore, batches: list[list[tuple[StreamKey, tuple[int, int, int]]]]
) -> None:
    with opened(open_store) as store:
        newest = {one.stream: (one.term, *one.position) for one in store.load()}
        for batch in batches:
            store.write([stored(stream, *position, repr(position).encode()) for stream, position in batch])
            for stream, position in batch:
                newest[stream] = max(newest.get(stream, (0, 0, 0)), position)
        assert {key: (one.term, *one.position) for key, one in held(store).items()} == newest
        for key, one in held(store).items():
            assert one.state == repr(newest[key]).encode()
