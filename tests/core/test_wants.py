from lfmesh.core.recovery import Wanted
from lfmesh.core.wants import Wants
from lfmesh.types import Channel, Position, StreamKey

A, B, C = (StreamKey(f"{name}-USD", Channel.BOOK) for name in "ABC")
SNAPSHOT = Wanted("snapshot", None)
AFTER = Wanted("retransmit", Position(1, 5))


def test_first_come_first_served_up_to_the_bound() -> None:
    wants = Wants(max_under_way=2)
    for key in (A, B, C):
        wants.add(key, SNAPSHOT)
    assert [key for key, _ in wants.take()] == [A, B]
    assert wants.take() == []
    assert (wants.waiting, wants.under_way) == (1, 2)
    wants.settle(A)
    assert wants.take() == [(C, SNAPSHOT)]


def test_one_request_a_stream_and_the_last_wish_holds() -> None:
    wants = Wants(max_under_way=2)
    wants.add(A, AFTER)
    assert wants.take() == [(A, AFTER)]
    wants.add(A, AFTER)
    wants.add(A, SNAPSHOT)
    wants.add(B, AFTER)
    assert wants.take() == [(B, AFTER)], "A is under way; B need not wait for it"
    wants.settle(A)
    assert wants.take() == [(A, SNAPSHOT)]


def test_what_is_wanted_no_more_is_not_asked() -> None:
    wants = Wants(max_under_way=2)
    wants.add(A, AFTER)
    wants.drop(A)
    wants.drop(B)
    assert wants.take() == []
    assert wants.waiting == 0
