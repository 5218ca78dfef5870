import pytest

from lfmesh.core import encode
from lfmesh.core.hub_status import SILENCE_TOLD_NS, StatusBoard
from lfmesh.core.liveness import SILENT_INGESTOR
from lfmesh.errors import BadMeshFrame
from lfmesh.models import Status, parse_message
from lfmesh.types import Channel, StreamKey, StreamState

A = StreamKey("A-USD", Channel.TICKER)
B = StreamKey("B-USD", Channel.BOOK)
OTHER = StreamKey("C-USD", Channel.TICKER)
SECOND = 1_000_000_000


def board() -> StatusBoard:
    """Two shards; the first is heard, and its streams have data."""
    made = StatusBoard({0: [A, B], 1: [OTHER]}, 10 * SECOND, 0)
    made.heard(0, 0, 0, silent=False)
    made.has_data(A)
    made.has_data(B)
    made.changes(0)
    return made


def said(state: StreamState, reason: str) -> bytes:
    return encode.status(A.product, A.channel, state, 5, reason)


def told(changes: list[tuple[StreamKey, bytes]]) -> list[tuple[StreamKey, str, str, int]]:
    found: list[tuple[StreamKey, str, str, int]] = []
    for key, text in changes:
        message = parse_message(text)
        assert isinstance(message, Status)
        assert (message.product, message.channel) == key
        found.append((key, message.state, message.reason, message.since))
    return found


def test_everything_recovers_at_first_and_each_stream_lives_with_its_first_data() -> None:
    made = StatusBoard({0: [A, B]}, 10 * SECOND, 7)
    assert made.counts() == {"live": 0, "recovering": 2, "stale": 0}
    made.heard(0, 8, 8, silent=False)
    assert told(made.changes(8)) == [
        (A, "recovering", "no data yet", 7),
        (B, "recovering", "no data yet", 7),
    ]
    made.has_data(A)
    assert told(made.changes(9)) == [(A, "live", "data flows", 9)]
    assert made.now_not_live(A) is None
    assert made.now_not_live(B) is not None
    assert made.changes(10) == []


def test_the_publisher_s_word_is_passed_on_byte_for_byte_and_once() -> None:
    here = board()
    here.told(A, said("stale", "quiet"), 1)
    assert here.changes(1) == [(A, said("stale", "quiet"))]
    here.told(A, said("stale", "quiet"), 1)
    assert here.changes(2) == []
    assert here.now_not_live(A) == said("stale", "quiet")
    here.told(A, said("live", "data flows"), 1)
    assert here.changes(3) == [(A, said("live", "data flows"))]


def test_a_silent_publisher_recovers_and_then_is_stale() -> None:
    here = board()
    here.heard(0, 2 * SECOND, 3 * SECOND, silent=True)
    reason = "no beacon from the normalizer of shard 0"
    assert told(here.changes(3 * SECOND)) == [(key, "recovering", reason, 2 * SECOND) for key in (A, B)]
    here.heard(0, 2 * SECOND, 12 * SECOND, silent=True)
    assert here.changes(12 * SECOND) == []
    here.heard(0, 2 * SECOND, 13 * SECOND, silent=True)
    assert told(here.changes(13 * SECOND)) == [(key, "stale", reason, 2 * SECOND) for key in (A, B)]
    here.heard(0, 14 * SECOND, 14 * SECOND, silent=False)
    assert [state for _, state, _, _ in told(here.changes(14 * SECOND))] == ["live", "live"]


def test_our_own_knowledge_comes_before_the_publisher_s_last_word() -> None:
    here = board()
    here.told(A, said("stale", "quiet"), 1)
    here.changes(1)
    here.heard(0, 1, 2, silent=True)
    here.changes(2)
    here.heard(0, 3, 3, silent=False)
    assert dict(here.changes(3))[A] == said("stale", "quiet")


def test_a_new_publisher_s_silence_about_a_stream_means_that_it_lives() -> None:
    here = board()
    here.told(A, said("recovering", "the venue connection is lost"), 1)
    here.changes(1)
    here.new_publisher(0)
    assert told(here.changes(2)) == [(A, "live", "data flows", 2)]


def test_a_gap_is_told_and_its_end() -> None:
    here = board()
    here.gap(B, 5)
    here.gap(B, 6)
    assert told(here.changes(7)) == [(B, "recovering", "messages are missing and have been asked for", 5)]
    here.gap(B, None)
    assert told(here.changes(8)) == [(B, "live", "data flows", 8)]


def test_streams_that_can_t_be_subscribed_are_nobody_s_business() -> None:
    here = board()
    stranger = StreamKey("X-USD", Channel.TICKER)
    here.has_data(stranger)
    here.told(stranger, said("stale", "quiet"), 1)
    assert here.changes(1) == []


def test_what_is_no_status_is_refused() -> None:
    with pytest.raises(BadMeshFrame):
        board().told(A, b'{"state":"sleeping"}', 1)


def test_that_an_ingestor_is_silent_is_told_when_it_has_lasted() -> None:
    here = board()
    silent = said("recovering", SILENT_INGESTOR)
    here.told(A, silent, 0)
    assert here.changes(0) == []
    here.told(A, silent, SILENCE_TOLD_NS - 1)
    assert here.changes(SILENCE_TOLD_NS - 1) == []
    assert here.now_not_live(A) is None
    assert here.changes(SILENCE_TOLD_NS) == [(A, silent)]
    here.told(A, silent, SECOND)
    assert here.changes(2 * SECOND) == []
    here.told(A, said("live", "data flows"), 2 * SECOND)
    assert here.changes(2 * SECOND) == [(A, said("live", "data flows"))]


@pytest.mark.parametrize("word", [said("live", "data flows"), said("recovering", "the venue connection is lost")])
def test_a_short_silence_is_not_told_and_leaves_what_was_said_before(word: bytes) -> None:
    here = board()
    here.told(A, word, 0)
    before = here.changes(0)
    here.told(A, said("recovering", SILENT_INGESTOR), 1)
    assert here.changes(1) == []
    here.told(A, word, SILENCE_TOLD_NS)
    assert here.changes(2 * SILENCE_TOLD_NS) == []
    assert here.now_not_live(A) == (before[0][1] if before and b"recovering" in word else None)


def test_a_new_publisher_takes_it_back_too() -> None:
    here = board()
    here.told(A, said("recovering", SILENT_INGESTOR), 1)
    here.new_publisher(0)
    assert here.changes(2 * SECOND) == []
