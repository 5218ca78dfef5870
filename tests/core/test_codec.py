import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core import codec, topics
from lfmesh.core.codec import Flags, Header, RawHeader, RawKind, RawRecord
from lfmesh.errors import BadMeshFrame
from lfmesh.types import Channel, InputPosition, StreamKey

u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
headers = st.builds(
    Header,
    flags=st.sampled_from([int(flag) for flag in Flags]),
    term=u64, instance=u64, input=st.builds(InputPosition, u64, u64, u64),
    epoch=u64, first_seq=u64, prev_epoch=u64, prev_seq=u64, ts_event=i64, ts_publish=i64, sent=st.integers(0, 65535),
)  # fmt: skip
TOPIC = topics.market_data(3, StreamKey("BTC-USD", Channel.BOOK))


@given(headers, st.lists(st.binary(max_size=300), max_size=20))
def test_what_is_packed_is_unpacked(header: Header, messages: list[bytes]) -> None:
    frame = codec.unpack(codec.pack(TOPIC, header, messages))
    assert frame == (TOPIC, header, messages)


@given(st.lists(st.builds(RawRecord, st.integers(0, 255), i64, st.binary(max_size=300)), max_size=20), u64, u64)
def test_what_is_packed_raw_is_unpacked(records: list[RawRecord], number: int, incarnation: int) -> None:
    header = RawHeader(RawKind.BATCH, "B", 7, 2**63, incarnation, number, 1, -5)
    assert codec.unpack_raw(codec.pack_raw(header, records)) == (header, records)


@given(st.integers(0, 20), st.integers(1, 2**40))
def test_the_last_record_of_a_raw_frame_is_known_without_unpacking_it(count: int, first: int) -> None:
    header = RawHeader(RawKind.BATCH, "B", 7, 2**63, 11, first, 1, -5)
    frame = codec.pack_raw(header, [RawRecord(0, 1, b"x")] * count)
    assert codec.last_record(frame) == InputPosition(2**63, 11, first + count - 1)
    for cut in (b"", frame[:20], b"\xff" + frame[1:]):
        with pytest.raises(BadMeshFrame):
            codec.last_record(cut)


@given(st.integers(0, 400))
def test_a_truncated_frame_is_refused(cut: int) -> None:
    header = Header(0, 1, 2, InputPosition(3, 4, 5), 6, 7, 0, 0, 8, 9)
    whole = codec.pack(TOPIC, header, [b"x" * 100, b"y" * 200])
    raw = codec.pack_raw(RawHeader(RawKind.BATCH, "A", 0, 1, 2, 3, 1, 0), [RawRecord(0, 1, b"x" * 300)])
    with pytest.raises(BadMeshFrame):
        codec.unpack(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(BadMeshFrame):
        codec.unpack_raw(raw[: min(cut, len(raw) - 1)])


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_read_but_never_breaks(garbage: bytes) -> None:
    for unpack in (codec.unpack, codec.unpack_raw):
        with contextlib.suppress(BadMeshFrame):
            unpack(garbage)


def test_another_version_is_refused() -> None:
    frame = bytearray(codec.pack(TOPIC, Header(0, 1, 2, InputPosition(3, 4, 5), 6, 7, 0, 0, 8, 9), [b"x"]))
    frame[len(TOPIC) + 1] = 99
    with pytest.raises(BadMeshFrame, match="version 99"):
        codec.unpack(bytes(frame))


def test_bytes_after_the_messages_are_refused() -> None:
    frame = codec.pack(TOPIC, Header(0, 1, 2, InputPosition(3, 4, 5), 6, 7, 0, 0, 8, 9), [b"x"])
    with pytest.raises(BadMeshFrame, match="messages end"):
        codec.unpack(frame + b"z")


def test_topics_end_with_a_delimiter_so_that_none_is_a_prefix_of_another() -> None:
    one = topics.market_data(1, StreamKey("BTC-USD", Channel.TICKER))
    assert not topics.market_data(10, StreamKey("BTC-USD", Channel.TICKER)).startswith(topics.market_data_prefix(1))
    assert not topics.market_data(1, StreamKey("BTC-USDT", Channel.TICKER)).startswith(one[: -len("ticker.")])
    assert not topics.beacon(10).startswith(topics.beacon(1))
    assert topics.parse_market_data(one) == (1, StreamKey("BTC-USD", Channel.TICKER))


@pytest.mark.parametrize("topic", [b"", b"md.1.", b"bc.1.", b"md.x.BTC-USD.book.", b"md.1.BTC-USD.depth.", b"\xff\xfe"])
def test_what_is_no_topic_is_refused(topic: bytes) -> None:
    with pytest.raises(BadMeshFrame):
        topics.parse_market_data(topic)


@given(headers, st.lists(st.binary(max_size=30), max_size=5))
def test_a_glance_tells_what_the_header_does_without_the_messages(header: Header, messages: list[bytes]) -> None:
    frame = codec.pack(TOPIC, header, messages)
    told = header.epoch, header.first_seq, header.prev_epoch, header.prev_seq, header.ts_event, header.ts_publish
    assert codec.glance(frame) == (TOPIC, header.flags, len(messages), *told)
    for bad in (b"no topic", frame[:60], frame.replace(b"\0", b"\0\xff", 1)):
        with pytest.raises(BadMeshFrame):
            codec.glance(bad)
