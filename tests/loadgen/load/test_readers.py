"""What clients do with what they read, whatever the reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core import encode
from lfmesh.types import Channel, Position
from loadgen.client.wire import Subscribe
from loadgen.load.frames import Splitter
from loadgen.load.readers import CheckingReader, CountingReader
from loadgen.load.sampler import FIRST_DISTANCE_BYTES, MAX_PER_WINDOW, Latencies, Sampler
from loadgen.load.sequence import SequenceChecker
from loadgen.load.tally import PING, BadStream, Control, Reader
from tests.loadgen.client.feed import EPOCH, P, snapshot
from tests.loadgen.load.frames import feed, frame, reads, text

MS = 1_000_000
T0 = 1_800_000_000_000_000_000
TICKER = encode.ticker_fields("null", "null", "null")
PING_FRAME = frame(0x89, b"}\x88")


def tick(seq: int, at: int = T0) -> bytes:
    prefix = encode.increment_prefix("tick", P, Channel.TICKER, EPOCH)
    return encode.increment(prefix, seq, (at - 2 * MS, at - MS, at), "unverified", TICKER)


def stream(count: int) -> bytes:
    book = encode.snapshot(P, Channel.BOOK, Position(EPOCH, 0), 5, "subscribe", ["{}", "{}", "{}"])
    opening = [*snapshot(Channel.TICKER, 0, [TICKER]), tick(1), *book]
    return b"".join(map(text, opening)) + PING_FRAME + b"".join(text(tick(seq)) for seq in range(2, count + 1))


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> int:
        return self.now


@given(st.integers(1, 60), st.lists(st.integers(0, 20_000), max_size=10))
def test_counting_is_exact_across_the_end_of_joining(count: int, cuts: list[int]) -> None:
    joined: list[bool] = []
    clock = Clock()
    reader = CountingReader(Sampler(1, clock), Latencies(), lambda: joined.append(True), clock)
    reader.ask([P], ["ticker", "book"])
    data = stream(count)
    assert feed(reader, reads(data, cuts)) == [Control(PING, b"}\x88")]
    assert (reader.messages, reader.received_bytes) == (count, len(data))
    assert joined == [True]
    assert reader.asked.joined_at == reader.asked.first_at == T0


def test_joining_ends_with_the_last_part_of_the_last_snapshot() -> None:
    joined: list[bool] = []
    reader = CountingReader(Sampler(), Latencies(), lambda: joined.append(True))
    reader.ask([P], ["ticker", "book"])
    frames = stream(1)[: -len(PING_FRAME)]
    feed(reader, [frames[:-1]])
    assert joined == []
    feed(reader, [frames[-1:]])
    assert joined == [True]


def test_what_never_begins_is_given_up() -> None:
    joined: list[bool] = []
    reader = CountingReader(Sampler(), Latencies(), lambda: joined.append(True))
    reader.ask([P, "ETH-USD"], ["ticker", "book"])
    error = b'{"op":"error","code":"UNKNOWN_PRODUCT","msg":"ETH-USD"}'
    feed(reader, [text(error) + stream(5)])
    reader.give_up()
    feed(reader, [text(tick(6)), text(tick(7))])
    assert joined == []
    assert (reader.messages, dict(reader.errors)) == (7, {"UNKNOWN_PRODUCT": 1})


def test_a_checking_reader_joins_and_sees_the_present_come() -> None:
    joined: list[bool] = []
    clock = Clock()
    checker = SequenceChecker()
    checker.connected(T0)
    reader = CheckingReader(checker, Sampler(1, clock), Latencies(), lambda: joined.append(True), clock)
    reader.ask(resuming=False)
    checker.requested(Subscribe(id=1, products=[P], channels=["ticker"]), T0)
    subscribed = f'{{"op":"subscribed","id":1,"products":["{P}"],"channels":["ticker"]}}'.encode()
    feed(reader, [text(subscribed)])
    assert joined == []
    feed(reader, [text(message) for message in [*snapshot(Channel.TICKER, 0, [TICKER]), tick(1)]])
    assert joined == [True]
    reader.watch()
    feed(reader, [text(tick(2, T0 - 1))])
    unseen = reader.caught_up
    assert not unseen
    feed(reader, [text(tick(3, T0 + 1)) + text(b'{"op":"pong","t":1}')])
    seen: bool = reader.caught_up
    assert seen
    assert reader.messages == 3
    assert [str(found) for found in checker.violations.first] == ["reply: pong 1 to no ping"]


def test_samples_are_of_the_time_of_receipt_and_only_of_what_was_published_since() -> None:
    clock = Clock()
    latencies = Latencies()
    sampler = Sampler(1, clock)
    reader = CountingReader(sampler, latencies, clock=clock)
    reader.ask([P], [])
    feed(reader, [text(tick(seq, T0)) for seq in range(50)])
    assert sampler.samples == 0, "published before it was asked for"
    for seq in range(4000):
        clock.now = T0 + seq * MS
        feed(reader, [text(tick(seq, clock.now - 5 * MS))])
    assert latencies.publish.max == 5 * MS
    assert latencies.ingest.max == 6 * MS
    assert latencies.publish.percentile(0.01) == 5 * MS
    size = len(text(tick(1000)))
    assert 0.8 < latencies.publish.count / (4000 * size / FIRST_DISTANCE_BYTES) < 1.2


def test_samples_grow_rarer_where_there_are_too_many() -> None:
    clock = Clock()
    sampler = Sampler(1, clock)
    data = text(tick(5, T0 + 1)) * 10_000
    until = sampler.look(data, 0, len(data), T0, Latencies())
    assert until >= 0
    assert MAX_PER_WINDOW < sampler.samples < len(data) / FIRST_DISTANCE_BYTES / 1.5


@pytest.mark.parametrize("data", [b"\x01\x02{}", b"\x82\x02{}", b"\x81\xff" + b"\xff" * 8, b"\x81\x7f" + b"\xff" * 8])
def test_what_is_no_gateways_frame_ends_it(data: bytes) -> None:
    reader: Reader = Splitter(lambda *_: None)
    with pytest.raises(BadStream):
        feed(reader, [data])
