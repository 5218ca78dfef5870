import pytest

from lfmesh.core.archive import (
    AHEAD_NS,
    SegmentName,
    SnapshotName,
    StreamClock,
    event_time,
    hour_of,
    is_snapshot,
    parse_segment,
    parse_snapshot,
)
from lfmesh.core.encode import increment, increment_prefix, snapshot
from lfmesh.types import Channel, Position, StreamKey

BOOK = StreamKey("BTC-USD", Channel.BOOK)
TS = 1_618_677_830_123_456_789  # 2021-04-17T16:43:50Z
NAME = SegmentName("coinbase", BOOK, TS, TS + 5, 1_700_000_000_000_000, 7, 9, Position(3, 4), 3, "0123456789abcdef")


def test_a_segments_key_says_all_of_its_name_and_is_its_partition() -> None:
    assert NAME.key.startswith("tape/venue=coinbase/product=BTC-USD/channel=book/date=2021-04-17/hour=16/")
    assert parse_segment(NAME.key) == NAME
    assert (NAME.first, NAME.last) == (Position(NAME.epoch, 7), Position(NAME.epoch, 9))


def test_a_snapshots_key_says_all_of_its_name() -> None:
    name = SnapshotName("sim", 4, 3, TS, 17, 30, "0123456789abcdef")
    assert parse_snapshot(name.key) == name
    assert name.key.startswith("snapshots/venue=sim/shards=4/shard=3/date=2021-04-17/hour=16/")


@pytest.mark.parametrize("key", ["", NAME.key + ".tmp", NAME.key[:-1], "x" + NAME.key, "states/a", NAME.key[5:]])
def test_other_keys_are_no_names(key: str) -> None:
    assert parse_segment(key) is None
    assert parse_snapshot(key) is None


def test_keys_of_a_stream_sort_by_time_then_position() -> None:
    names = [
        NAME,
        NAME._replace(first_seq=10, last_seq=12),
        NAME._replace(first_ts=TS + 1, first_seq=8),
        NAME._replace(first_ts=TS + 3600 * 10**9, last_ts=TS + 3600 * 10**9, epoch=5),
    ]
    keys = [name.key for name in names]
    assert keys == sorted(keys)


def test_the_time_of_a_line_is_read_from_its_text() -> None:
    line = increment(
        increment_prefix("tick", "BTC-USD", Channel.TICKER, 5), 1, (TS, TS + 10, TS + 20), "verified", "{}"
    )
    assert event_time(line) == TS
    ahead = increment(increment_prefix("tick", "BTC-USD", Channel.TICKER, 5), 1, (TS, 10, 20), "verified", "{}")
    assert event_time(ahead) == 10 + AHEAD_NS
    (opening,) = snapshot("BTC-USD", Channel.BOOK, Position(5, 0), TS, "epoch", [b"{}"])
    assert event_time(opening) == 0
    assert is_snapshot(opening)
    assert not is_snapshot(line)
    with pytest.raises(ValueError, match="not found"):
        event_time(b'{"op":"pong"}')


def test_the_clock_of_a_stream_never_goes_back() -> None:
    clock = StreamClock()
    assert [clock.see(ts) for ts in (0, 5, 3, 0, 9)] == [0, 5, 5, 5, 9]
    assert hour_of(TS) == TS // 3_600_000_000_000
