"""The short way for increments gives what the whole way gives: `unpack_increments` and `Feed.follows`."""

from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core import codec, topics
from lfmesh.core.codec import Flags, Header
from lfmesh.core.feed import Feed
from lfmesh.core.recovery import Accepted
from lfmesh.errors import BadMeshFrame
from lfmesh.types import Channel, InputPosition, StreamKey

KEY = StreamKey("A-USD", Channel.TRADES)
TOPIC = topics.market_data(0, KEY)

counts = st.integers(1, 5)
numbers = st.integers(0, 2**63 - 1)


def packed(epoch: int, first_seq: int, count: int = 1, term: int = 3, flags: Flags = Flags.INCREMENTS) -> bytes:
    header = Header(flags, term, 9, InputPosition(1, 2, 3), epoch, first_seq, 0, 0, 7, 8)
    return codec.pack(TOPIC, header, [b"m%d" % number for number in range(count)])


@given(epoch=numbers, first_seq=numbers, count=counts, term=numbers)
def test_a_frame_of_increments_reads_the_same_either_way(epoch: int, first_seq: int, count: int, term: int) -> None:
    frame = packed(epoch, first_seq, count, term)
    whole, short = codec.unpack(frame), codec.unpack_increments(frame)
    assert short is not None
    assert short == (whole.topic, term, epoch, first_seq, whole.header.ts_publish, whole.messages)


@given(frame=st.binary(max_size=200) | st.integers(0, 140).map(lambda size: packed(1, 2, 2)[:size]))
def test_what_can_t_be_read_one_way_can_t_be_read_the_other(frame: bytes) -> None:
    short = codec.unpack_increments(frame)
    try:
        whole = codec.unpack(frame)
    except BadMeshFrame:
        assert short is None
    else:
        assert short is None or short.messages == whole.messages


def test_other_frames_are_left_to_unpack() -> None:
    assert codec.unpack_increments(packed(1, 0, flags=Flags.SNAPSHOT)) is None
    assert codec.unpack_increments(packed(1, 0, flags=Flags.STATUS)) is None
    assert codec.unpack_increments(packed(1, 1, count=0)) is None


def test_the_short_way_knows_who_may_speak_and_what_is_missing() -> None:
    feed = Feed(0, join="anywhere")
    feed.frame(codec.unpack(packed(1, 1)), 0)
    other = topics.market_data(0, StreamKey("B-USD", Channel.TRADES))
    following = codec.unpack_increments(packed(1, 2))
    assert following is not None
    assert not feed.follows(feed.followed(KEY), following._replace(first_seq=3))
    assert not feed.follows(feed.followed(KEY), following._replace(first_seq=1))
    assert not feed.follows(feed.followed(KEY), following._replace(epoch=2))
    assert not feed.follows(feed.followed(StreamKey("B-USD", Channel.TRADES)), following)
    feed.frame(codec.unpack(packed(1, 4)), 0)
    assert not feed.follows(feed.followed(KEY), following), "what is held back comes after it"
    feed.frame(codec.unpack(packed(1, 2, count=2)), 0)
    following = following._replace(first_seq=5)
    feed.frame(codec.unpack(packed(1, 1, term=4))._replace(topic=other), 0)
    assert not feed.follows(feed.followed(KEY), following), "its publisher has been replaced"
    assert not feed.follows(feed.followed(KEY), following._replace(term=4)), (
        "the first word of a new publisher is for the whole way"
    )


steps = st.lists(
    st.tuples(st.integers(1, 2), st.integers(1, 8), counts, st.integers(3, 4), st.booleans()), min_size=1, max_size=30
)


@given(steps)
def test_a_feed_asked_the_short_way_first_accepts_the_same(history: list[tuple[int, int, int, int, bool]]) -> None:
    """Any frames at all: what is accepted, in which order, and where the stream then stands."""
    whole, short = Feed(0, join="anywhere"), Feed(0, join="anywhere")
    for now, (epoch, seq, count, term, snapshot) in enumerate(history):
        flags = Flags.SNAPSHOT if snapshot else Flags.INCREMENTS
        frame = packed(epoch, 0 if snapshot else seq, count, term, flags)
        expected = whole.frame(codec.unpack(frame), now).facts
        increments = codec.unpack_increments(frame)
        if increments is not None and short.follows(short.followed(KEY), increments):
            (fact,) = expected
            assert isinstance(fact, Accepted)
            assert (fact.epoch, fact.first_seq) == (increments.epoch, increments.first_seq)
            assert [message for _, message in fact.items] == increments.messages
        else:
            assert short.frame(codec.unpack(frame), now).facts == expected
        assert short.position(KEY) == whole.position(KEY)
        assert short.term == whole.term
