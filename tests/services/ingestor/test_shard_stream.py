from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.codec import RawKind, RawRecord, RecordKind, unpack_raw
from lfmesh.core.ring import ReplayRing
from lfmesh.messages import ReplayRequest, Reply, Unavailable
from lfmesh.services.ingestor.shard_stream import BATCH_MAX_BYTES, REPLY_MAX_BYTES, REPLY_MAX_FRAMES, ShardStream

INGESTOR, INCARNATION = 7, 1_000


class Bench:
    """A stream whose batches are taken when they are full, or by `take`."""

    def __init__(self, ring_bytes: int = 1 << 20, max_age_ns: int = 0, batch_max_frames: int = 512) -> None:
        self.firsts = 0
        self.taken: list[bytes] = []
        ring: ReplayRing[int, bytes] = ReplayRing(ring_bytes, max_age_ns)
        identity = (INGESTOR, INCARNATION, "B")
        self.stream = ShardStream(3, identity, ring, batch_max_frames, self._first, lambda _: self.take())  # type: ignore[arg-type]  # the literal "B"

    def _first(self, _: ShardStream) -> None:
        self.firsts += 1

    def take(self, now: int = 1) -> bytes | None:
        batch = self.stream.take(now)
        if batch is not None:
            self.taken.append(batch)
        return batch

    def replay(
        self, first: int, last: int = 0, incarnation: int = INCARNATION
    ) -> tuple[Reply | Unavailable, list[bytes]]:
        return self.stream.replay(ReplayRequest(3, incarnation, first, last))


def numbers(frames: list[bytes]) -> list[int]:
    found: list[int] = []
    for frame in frames:
        header, records = unpack_raw(frame)
        found.extend(range(header.first_number, header.first_number + len(records)))
    return found


def test_a_batch_is_what_was_gathered() -> None:
    bench = Bench()
    bench.stream.add(11, b"one")
    bench.stream.add(12, b"two")
    bench.stream.add_record(RawRecord(int(RecordKind.LINK_DOWN), 13, b"{}"))
    assert bench.firsts == 1
    assert bench.stream.pending == 3
    assert bench.stream.next_number == 1  # numbers are given when the batch is taken
    batch = bench.take(now=99)
    assert batch is not None
    header, records = unpack_raw(batch)
    assert header == (RawKind.BATCH, "B", 3, INGESTOR, INCARNATION, 1, 1, 99)
    assert records == [(0, 11, b"one"), (0, 12, b"two"), (1, 13, b"{}")]
    assert bench.stream.pending == 0
    assert bench.take() is None
    bench.stream.add(14, b"three")
    assert bench.firsts == 2


def test_beacon_names_the_next_number_and_the_oldest() -> None:
    bench = Bench()
    assert unpack_raw(bench.stream.beacon(5)) == ((RawKind.BEACON, "B", 3, INGESTOR, INCARNATION, 1, 1, 5), [])
    bench.stream.add(1, b"x")
    assert unpack_raw(bench.stream.beacon(5))[0].first_number == 1  # not numbered yet
    bench.take()
    assert unpack_raw(bench.stream.beacon(5))[0][5:7] == (2, 1)


def test_batches_are_bounded_in_frames_and_bytes() -> None:
    bench = Bench(batch_max_frames=10)
    for _ in range(25):
        bench.stream.add(1, b"x")
    assert [len(unpack_raw(batch)[1]) for batch in bench.taken] == [10, 10]
    bench = Bench(ring_bytes=1 << 24)
    for _ in range(100):
        bench.stream.add(1, b"x" * 10_000)
    assert all(len(batch) < BATCH_MAX_BYTES + 11_000 for batch in bench.taken)
    assert len(bench.taken) == 100 // (BATCH_MAX_BYTES // 10_000 + 1)


def test_replay_gives_frames_as_they_were_pushed() -> None:
    bench = Bench()
    for count in (1, 3, 2):
        for _ in range(count):
            bench.stream.add(1, b"x")
        bench.take()
    assert bench.replay(1) == (Reply(), bench.taken)
    assert bench.replay(3) == (Reply(), bench.taken[1:])
    assert bench.replay(5) == (Reply(), bench.taken[2:])
    assert bench.replay(2, last=4) == (Reply(), bench.taken[1:2])
    assert bench.replay(1, last=2) == (Reply(), bench.taken[:2])
    assert bench.replay(7) == (Reply(), [])


def test_replay_of_nothing_yet() -> None:
    assert Bench().replay(1) == (Reply(), [])


def test_replay_of_what_is_not_there() -> None:
    bench = Bench()
    bench.stream.add(1, b"x")
    bench.take()
    for header, frames in (
        bench.replay(3),
        bench.replay(0),
        bench.replay(-1),
        bench.replay(1, incarnation=INCARNATION - 1),
    ):
        assert isinstance(header, Unavailable)
        assert frames == []


def test_the_ring_forgets_the_oldest_and_says_so() -> None:
    bench = Bench(ring_bytes=65536)
    for _ in range(100):
        bench.stream.add(1, b"x" * 2000)
        bench.take()
    oldest = bench.stream.oldest_number
    assert 60 < oldest <= 100
    assert bench.stream.ring_statistics().bytes <= 65536
    header, frames = bench.replay(oldest - 1)
    assert header == Unavailable(f"number {oldest - 1} is gone; {oldest} is the oldest")
    header, frames = bench.replay(oldest)
    assert header == Reply()
    assert numbers(frames) == list(range(oldest, 101))


def test_age_ends_retention() -> None:
    bench = Bench(max_age_ns=1000)
    bench.stream.add(1, b"x")
    bench.take(now=1)
    bench.stream.add(1, b"y")
    bench.take(now=900)
    bench.stream.beacon(1500)
    assert bench.stream.oldest_number == 2
    bench.stream.beacon(5000)
    assert bench.stream.oldest_number == bench.stream.next_number == 3
    assert isinstance(bench.replay(2)[0], Unavailable)
    assert bench.replay(3) == (Reply(), [])


def test_long_replays_come_in_pieces() -> None:
    bench = Bench(ring_bytes=64 << 20)
    for _ in range(5):
        bench.stream.add(1, b"x" * (REPLY_MAX_BYTES // 4))
        bench.take()
    header, frames = bench.replay(1)
    assert header == Reply(more=True)
    assert numbers(frames) == [1, 2, 3]
    assert numbers(bench.replay(4)[1]) == [4, 5]
    bench = Bench(ring_bytes=64 << 20)
    for _ in range(REPLY_MAX_FRAMES + 1):
        bench.stream.add(1, b"x")
        bench.take()
    header, frames = bench.replay(1)
    assert header == Reply(more=True)
    assert len(frames) == REPLY_MAX_FRAMES
    assert bench.replay(REPLY_MAX_FRAMES + 1)[0] == Reply(more=False)


def test_one_frame_larger_than_a_reply_is_still_given() -> None:
    bench = Bench(ring_bytes=64 << 20)
    bench.stream.add(1, b"x" * (REPLY_MAX_BYTES + 1))
    bench.stream.add(1, b"y")
    bench.take()
    assert bench.replay(1) == (Reply(more=True), bench.taken[:1])
    assert bench.replay(2) == (Reply(), bench.taken[1:])


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 12), st.data())
def test_numbers_have_no_holes_however_they_were_batched(turns: list[int], batch_max: int, data: st.DataObject) -> None:
    bench = Bench(batch_max_frames=batch_max)
    for turn in turns:
        for _ in range(turn):
            bench.stream.add(1, b"x")
        bench.take()
    total = sum(turns)
    assert numbers(bench.taken) == list(range(1, total + 1))
    first = data.draw(st.integers(1, total + 1))
    last = data.draw(st.integers(first, total + 1))
    _, frames = bench.replay(first, last)
    given_numbers = numbers(frames)
    assert set(range(first, min(last, total) + 1)) <= set(given_numbers)
    assert given_numbers == sorted(given_numbers)
