from lfmesh.core.followed import Followed, size_of
from lfmesh.core.recovery import Follower
from lfmesh.types import Channel, Position, StreamKey

SECOND = 1_000_000_000


def followed(term: int, instance: int) -> Followed:
    return Followed(StreamKey("A-USD", Channel.BOOK), Follower(position=Position(5, 2)), term, instance, 10 * SECOND)


def test_a_higher_term_supersedes_and_then_a_higher_instance() -> None:
    known = followed(3, 7)
    newer = [(4, 1), (3, 8)]
    assert all(known.superseded(term, instance, 99 * SECOND) for term, instance in newer)
    assert not any(known.superseded(term, instance, 99 * SECOND) for term, instance in [(3, 7), (3, 6), (2, 9)])


def test_where_the_instance_is_unknown_time_shows_whose_it_is_not() -> None:
    known = followed(3, 0)
    assert not known.superseded(3, 7, 12 * SECOND)
    assert known.superseded(3, 7, 12 * SECOND + 1)
    assert known.superseded(4, 1, 10 * SECOND)


def test_what_is_older_does_not_make_it_older() -> None:
    known = followed(3, 7)
    for term, instance in [(2, 9), (3, 6)]:
        known.said_by(term, instance)
        assert (known.term, known.instance) == (3, 7)
    for term, instance in [(3, 8), (4, 1)]:
        known.said_by(term, instance)
        assert (known.term, known.instance) == (term, instance)


def test_our_epoch_is_vouched_for_and_the_one_that_was_seen() -> None:
    known = followed(3, 7)
    assert [known.vouched(epoch) for epoch in (4, 5, 8)] == [False, True, False]
    known.follower.beacon(Position(8, 1), 0)
    assert [known.vouched(epoch) for epoch in (4, 5, 8)] == [False, True, True]


def test_a_size_is_that_of_the_message() -> None:
    assert size_of((None, b"12345")) == 5  # type: ignore[arg-type]  # a header has no part in it
