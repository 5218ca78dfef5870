from lfmesh.services.gateway.asks import Ask, Asks
from lfmesh.types import Channel, Position, StreamKey

A = StreamKey("A-USD", Channel.TICKER)
B = StreamKey("B-USD", Channel.TICKER)
C = StreamKey("C-USD", Channel.TICKER)


def test_a_state_is_asked_for_once_whoever_wants_it() -> None:
    asks = Asks()
    for party in ("hub", "http"):
        asks.add(Ask("snapshot", A), party)
    (ask,) = asks.take()
    asks.add(Ask("snapshot", A, attempt=2), "feed")
    assert asks.take() == []
    assert asks.settle(ask) == {"hub", "http", "feed"}
    asks.add(Ask("snapshot", A, attempt=3), "hub")
    assert asks.take() == [Ask("snapshot", A, attempt=3)]


def test_one_retransmission_a_stream_at_a_time_and_the_last_wish_holds() -> None:
    asks = Asks()
    first, second, third = (Ask("retransmit", A, Position(1, seq)) for seq in (1, 2, 3))
    asks.add(first, "feed")
    assert asks.take() == [first]
    asks.add(second, "feed")
    asks.add(third, "feed")
    assert (asks.take(), asks.waiting, asks.under_way) == ([], 1, 1)
    assert asks.settle(first) == set()
    assert asks.take() == [third]


def test_kinds_don_t_wait_for_each_other() -> None:
    asks = Asks()
    wanted = [Ask("retransmit", A, Position(1, 1)), Ask("older", A, Position(1, 1)), Ask("snapshot", A)]
    for ask in wanted:
        asks.add(ask, "hub")
    assert asks.take() == wanted


def test_so_many_are_under_way_and_no_more() -> None:
    asks = Asks(max_under_way=2)
    for key in (A, B, C):
        asks.add(Ask("snapshot", key), "hub")
    first, second = asks.take()
    assert asks.take() == []
    asks.settle(second)
    assert [ask.key for ask in asks.take()] == [C]
    assert first.key == A


def test_what_archives_are_asked_has_a_bound_of_its_own() -> None:
    asks = Asks(max_under_way=1, max_archive=2)
    archived = [Ask("archive", key, Position(1, 1)) for key in (A, B, C)]
    for ask in archived:
        asks.add(ask, "hub")
    asks.add(Ask("snapshot", A), "hub")
    assert asks.take() == [*archived[:2], Ask("snapshot", A)]
    asks.add(Ask("snapshot", B), "hub")
    assert asks.take() == []
    asks.settle(archived[0])
    assert asks.take() == [archived[2]]
    asks.settle(Ask("snapshot", A))
    assert asks.take() == [Ask("snapshot", B)]
