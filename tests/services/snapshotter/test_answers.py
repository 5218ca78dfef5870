import msgspec
import pytest

from lfmesh.messages import (
    LookupRequest,
    Rejected,
    Request,
    ResyncRequest,
    SnapshotReply,
    SnapshotRequest,
    StatesReply,
    StatesRequest,
    Unavailable,
    decode_reply,
    decode_summary,
    encode,
)
from lfmesh.services.snapshotter.answers import Answer, Answers
from lfmesh.types import Channel, StreamKey
from tests.core.model_publisher import keys
from tests.services.snapshotter.link import BOOK, TICKER, Link


def asked(link: Link, request: Request | bytes, page_bytes: int = 1_000_000) -> tuple[object, list[bytes]]:
    answerer = Answers(link.intake, 0, ["P0-USD", "QUIET-USD"], page_bytes)
    payload = request if isinstance(request, bytes) else encode(request)
    answer = answerer.answer(payload, 77)
    assert isinstance(answer, Answer)
    return decode_reply(answer.header), answer.frames


def followed() -> Link:
    link = Link()
    for key in (BOOK, TICKER):
        link.take(link.source.open(key), link.source.increment(key, [1, 2]))
    return link


def test_a_snapshot_is_answered_with_position_and_parts() -> None:
    link = followed()
    reply, parts = asked(link, SnapshotRequest(*BOOK))
    assert isinstance(reply, SnapshotReply)
    assert (reply.product, reply.channel, reply.term, reply.ts_snapshot) == (*BOOK, 3, 77)
    assert (reply.epoch, reply.seq) == link.source.streams[BOOK].position
    assert parts == [link.source.streams[BOOK].state(Channel.BOOK).encode()]


def test_a_join_storm_costs_one_encoding() -> None:
    link = followed()
    first = asked(link, SnapshotRequest(*BOOK))
    assert all(asked(link, SnapshotRequest(*BOOK)) == first for _ in range(50))
    counters = link.intake.counters
    assert (counters.snapshots_created_total, counters.requests_total) == (1, {"state": 51})


def test_a_stream_in_a_gap_answers_with_its_last_whole_state() -> None:
    link = followed()
    before = link.source.streams[BOOK].copy()
    link.source.increment(BOOK, [3])
    link.take(link.source.increment(BOOK, [4]))
    reply, parts = asked(link, SnapshotRequest(*BOOK))
    assert isinstance(reply, SnapshotReply)
    assert (reply.epoch, reply.seq) == before.position
    assert parts == [before.state(Channel.BOOK).encode()]


def test_the_states_of_all_streams_are_summed_up() -> None:
    link = followed()
    reply, frames = asked(link, StatesRequest(0))
    assert reply == StatesReply(3, [])
    summaries = {(one.product, one.channel): one for one in map(decode_summary, frames)}
    assert set(summaries) == {BOOK, TICKER}
    assert summaries[BOOK].bids == link.source.streams[BOOK].sides()[0]
    assert summaries[TICKER].fields.decode() == link.source.streams[TICKER].ticker
    assert {one.term for one in summaries.values()} == {3}


def test_summaries_come_in_pages_of_whole_products() -> None:
    link = Link()
    streams = keys(5)
    for key in streams:
        link.take(link.source.open(key), link.source.increment(key, list(range(30))))
    found = []
    after, pages, more = "", 0, True
    while more:
        header, frames = asked(link, StatesRequest(0, after), page_bytes=1500)
        assert isinstance(header, StatesReply)
        page = [decode_summary(frame) for frame in frames]
        assert {(one.product, one.channel) for one in page} == {
            key for key in streams if key.product in {one.product for one in page}
        }
        found += page
        after, more, pages = page[-1].product, header.more, pages + 1
    assert 1 < pages <= 5
    assert [(one.product, one.channel) for one in found] == sorted(streams, key=lambda key: key.product)
    for one in found:
        if one.channel is Channel.BOOK:
            assert (one.bids, one.asks) == link.source.streams[StreamKey(one.product, one.channel)].sides()


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (SnapshotRequest("QUIET-USD", Channel.BOOK), Unavailable("no data yet")),
        (SnapshotRequest("OTHER-USD", Channel.BOOK), Rejected("shard 0 does not carry OTHER-USD")),
        (StatesRequest(5), Rejected("shard 0 is served here, not 5")),
        (LookupRequest(), Rejected("a snapshotter does not answer LookupRequest")),
        (ResyncRequest(["P0-USD"]), Rejected("a snapshotter does not answer ResyncRequest")),
    ],
)
def test_what_cannot_be_answered_is_said(request_: Request, answer: object) -> None:
    assert asked(followed(), request_) == (answer, [])


@pytest.mark.parametrize("payload", [b"", b"garbage", msgspec.msgpack.encode({"type": "dance"})])
def test_what_is_no_request_is_rejected_and_counted(payload: bytes) -> None:
    link = followed()
    header, frames = asked(link, payload)
    assert isinstance(header, Rejected)
    assert frames == []
    assert link.intake.counters.bad_frames_total == 1


def test_an_unreadable_state_is_unavailable_and_taken_anew() -> None:
    link = followed()
    broken = StreamKey("P0-USD", Channel.TRADES)
    link.take(link.source.open(broken))
    for key in (BOOK, broken):
        state = link.intake.state.get(key)
        assert state is not None
        state.content.apply([b'{"fields":nonsense}}'])
    assert isinstance(asked(link, SnapshotRequest(*BOOK))[0], Unavailable)
    assert len(asked(link, StatesRequest(0))[1]) == 1, "what can be read is told"
    link.recover()
    link.check()
