"""The contract of a state store, for every backend."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lfmesh.core.sharding import stable_id
from lfmesh.ports import StateStore, StoredState
from lfmesh.types import CHANNELS, NO_INPUT, Channel, InputPosition, Position, StreamKey
from tests.store.backends import BACKENDS, PRODUCTS, SHARED, Backend

BOOK = StreamKey("BTC-USD", Channel.BOOK)
TICKER = StreamKey("BTC-USD", Channel.TICKER)
STREAMS = [StreamKey(product, channel) for product in PRODUCTS for channel in CHANNELS]
BIG = 2**53 - 1

WRITER = """
import sys
from tests.store.test_state_store import whole_batch
for seq in range(1, 1_000_000):
    store.write(whole_batch(seq))
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
"""


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    return BACKENDS[request.param](tmp_path, monkeypatch)


@pytest.fixture
def one_store(backend: Backend) -> Iterator[StateStore]:
    with opened(backend) as store:
        yield store


@contextmanager
def opened(backend: Backend) -> Iterator[StateStore]:
    store = backend.open()
    try:
        yield store
    finally:
        store.close()


def stored(stream: StreamKey, term: int, epoch: int, seq: int, state: bytes = b"{}") -> StoredState:
    return StoredState(stream, term, Position(epoch, seq), InputPosition(1, 2, 3), 4, state)


def whole_batch(seq: int, term: int = 1) -> list[StoredState]:
    """A state of every stream, of sizes from a hundred bytes to ten thousand, all with the seq in them."""
    filler = b"0123456789abcdef"
    return [
        stored(stream, term, 1, seq, b'{"seq":%d,"term":%d,"filler":"%b"}' % (seq, term, filler * (6 + 20 * number)))
        for number, stream in enumerate(STREAMS)
    ]


def book_of(levels: int, seed: int) -> bytes:
    """A book whose text zstd can't make small."""
    draw = random.Random(seed)
    side = ",".join(
        f"[{30000 - number}.{draw.randrange(100):02},0.{draw.randrange(10**8):08}]" for number in range(levels)
    )
    return b'{"bids":[' + side.encode() + b'],"asks":[]}'


def held(store: StateStore) -> dict[StreamKey, StoredState]:
    return {one.stream: one for one in store.load()}


def test_a_new_store_is_empty(one_store: StateStore) -> None:
    assert list(one_store.load()) == []
    assert one_store.write([]) == 0


def test_what_was_written_is_read_back_as_it_was_also_later(backend: Backend) -> None:
    states = [
        StoredState(
            BOOK, BIG, Position(BIG, BIG), InputPosition(2**64 - 1, BIG, BIG), 1_800_000_000_123_456_789,
            b'{"bids":[[22356.2700,0.00000001]],"asks":[]}',
        ),
        StoredState(TICKER, 1, Position(1, 0), InputPosition(stable_id("ingestor-A"), 1, 1), 0, b""),
        StoredState(StreamKey("ETH-USD", Channel.TRADES), 1, Position(1, 0), NO_INPUT, 0, b'{"trades":[]}'),
    ]  # fmt: skip
    with opened(backend) as store:
        assert store.write(states) == 3
        assert held(store) == {one.stream: one for one in states}
    with opened(backend) as store:
        assert held(store) == {one.stream: one for one in states}


def test_what_is_loaded_is_in_order(one_store: StateStore) -> None:
    states = whole_batch(1)
    random.Random(1).shuffle(states)
    assert one_store.write(states) == len(STREAMS)
    assert [one.stream for one in one_store.load()] == sorted(STREAMS)


def test_a_write_never_goes_back(one_store: StateStore) -> None:
    cases = [
        ((5, 1, 1), (4, 9, 9)),
        ((5, 7, 1), (5, 6, 9)),
        ((5, 7, 3), (5, 7, 2)),
        ((5, 7, 3), (5, 7, 3)),
        ((5, 10, 1), (5, 9, 1)),
    ]
    streams = [StreamKey(product, Channel.BOOK) for product in PRODUCTS[: len(cases)]]
    newer = [stored(stream, *position, b"new") for stream, (position, _) in zip(streams, cases, strict=True)]
    older = [stored(stream, *position, b"old") for stream, (_, position) in zip(streams, cases, strict=True)]
    other = stored(TICKER, 1, 1, 1, b"other")
    assert one_store.write(newer) == len(cases)
    assert one_store.write([*older, other]) == 1
    assert held(one_store) == {one.stream: one for one in (*newer, other)}


def test_of_one_batch_the_newest_holds(one_store: StateStore) -> None:
    one_store.write([stored(BOOK, 1, 1, seq, str(seq).encode()) for seq in (2, 5, 3)])
    assert held(one_store)[BOOK].state == b"5"


def test_of_two_writers_the_stale_one_changes_nothing(backend: Backend) -> None:
    """A process that was thought dead writes what it still held, after its successor has written."""
    with opened(backend) as store:
        store.write([stored(BOOK, 1, 100, 7, b"both know"), stored(TICKER, 1, 100, 1, b"only the old one")])
    with opened(backend) as successor:
        successor.write([stored(BOOK, 2, 90, 1, b"successor")])
    with opened(backend) as stale:
        assert stale.write([stored(BOOK, 1, 100, 900, b"stale"), stored(TICKER, 1, 100, 2, b"still right")]) == 1
        assert {key: one.state for key, one in held(stale).items()} == {BOOK: b"successor", TICKER: b"still right"}


@pytest.mark.parametrize("name", SHARED)
def test_two_writers_at_once_leave_the_newest_of_each_stream(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is stale, and both write as fast as they can."""
    backend = BACKENDS[name](tmp_path, monkeypatch)
    with opened(backend) as first, opened(backend) as second, opened(backend) as reader:
        rounds = 4

        def write(store: StateStore, term: int) -> None:
            for seq in range(1, rounds + 1):
                store.write(whole_batch(seq, term))

        threads = [threading.Thread(target=write, args=each) for each in ((first, 1), (second, 2))]
        for thread in threads:
            thread.start()
        seen: dict[StreamKey, tuple[int, Position]] = {}
        while any(thread.is_alive() for thread in threads):
            for one in reader.load():
                assert (one.term, one.position) >= seen.get(one.stream, (0, Position(0, 0))), "it went back"
                assert one.state.startswith(b'{"seq":%d,"term":%d,' % (one.position.seq, one.term))
                seen[one.stream] = one.term, one.position
        for thread in threads:
            thread.join()
        assert held(reader) == {one.stream: one for one in whole_batch(rounds, 2)}


@pytest.mark.parametrize("levels", [3000, 90_000], ids=["larger than an item takes together", "larger than an item"])
def test_deep_books(backend: Backend, levels: int) -> None:
    states = [
        stored(StreamKey(product, Channel.BOOK), 1, 1, 1, book_of(levels, seed))
        for seed, product in enumerate(PRODUCTS[:3])
    ]
    with opened(backend) as store:
        assert store.write([*states, stored(TICKER, 1, 1, 1, b"small")]) == 4
        assert store.write(states) == 0
    with opened(backend) as store:
        found = held(store)
        assert [found[one.stream] for one in states] == states
        assert store.write([stored(BOOK, 1, 1, 2, b"small again")]) == 1
        assert held(store)[BOOK].state == b"small again"


@pytest.mark.parametrize("batches", [1, 4])
def test_killed_in_the_middle_of_writing(backend: Backend, batches: int) -> None:
    """What the writer told of is there, and each state is one that was written, whole."""
    with subprocess.Popen(
        [sys.executable, "-c", backend.program + WRITER],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env={**os.environ, **backend.environment},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(batches)]
        assert all(lines), "the writer has ended"
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
    last = int(lines[-1])
    with opened(backend) as store:
        found = held(store)
        assert set(found) == set(STREAMS)
        assert {one.position.seq for one in found.values()} <= {last, last + 1}
        for seq in (last, last + 1):
            written = {one.stream: one for one in whole_batch(seq)}
            assert all(one == written[key] for key, one in found.items() if one.position.seq == seq)
        assert store.write(whole_batch(last + 2)) == len(STREAMS)


def test_closing_twice_is_closing_once(backend: Backend) -> None:
    store = backend.open()
    store.close()
    store.close()


POSITIONS = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.sampled_from([BOOK, TICKER]), POSITIONS), max_size=5), max_size=8))
def test_after_any_writes_each_stream_has_the_newest(
    one_store: StateStore, batches: list[list[tuple[StreamKey, tuple[int, int, int]]]]
) -> None:
    newest = {one.stream: (one.term, *one.position) for one in one_store.load()}
    for batch in batches:
        one_store.write([stored(stream, *position, repr(position).encode()) for stream, position in batch])
        for stream, position in batch:
            newest[stream] = max(newest.get(stream, (0, 0, 0)), position)
    assert {key: (one.term, *one.position) for key, one in held(one_store).items()} == newest
    for key, one in held(one_store).items():
        assert one.state == repr(newest[key]).encode()
