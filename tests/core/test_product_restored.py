"""A product that goes on in an earlier process's epochs, and when it must not."""

from decimal import Decimal

import pytest

from lfmesh.core.lines import FRAMES_LOST
from lfmesh.core.product import Restored, RestoredBook
from lfmesh.core.product_facts import BookLost, Outcome
from lfmesh.types import Channel, InputPosition, Position
from tests.core.product_world import T0, A, B, World, page, position, quote, snapshot, trade, update

EPOCH = T0 // 1000 + 3600 * 1_000_000
"""Of a process whose clock was an hour ahead."""
NUMBER = 50


def left(book: int = NUMBER, ticker: int = NUMBER) -> Restored:
    """After record NUMBER of A: trades up to 5, best bid 99.5, best ask 101."""
    return Restored(
        dict.fromkeys(Channel, Position(EPOCH, 7)),
        {
            Channel.TRADES: InputPosition(A, 1, NUMBER),
            Channel.BOOK: InputPosition(A, 1, book),
            Channel.TICKER: InputPosition(A, 1, ticker),
        },
        (trade(4), trade(5)),
        trade(5),
        5,
        ("99.5", "2"),
        ("101", "1"),
        RestoredBook([("99.5", "2")], [("101", "1")], A),
    )


def going_on(restored: Restored | None = None, after: int = NUMBER) -> World:
    world = World(restored or left())
    world.numbers[A] = after
    return world


def without[T](by_channel: dict[Channel, T], left_out: Channel) -> dict[Channel, T]:
    return {channel: value for channel, value in by_channel.items() if channel != left_out}


def epochs(world: World) -> dict[Channel, list[tuple[bool, int]]]:
    """Of each stream: whether each message goes on in the old epoch, and its number."""
    return {
        channel: [(said.data["epoch"] == EPOCH, said.data["seq"]) for said in world.said(channel)]
        for channel in Channel
    }


def test_all_streams_go_on_with_the_next_record() -> None:
    world = going_on()
    assert world.product.book_held
    assert world.product.state(Channel.BOOK) == ['{"bids":[[99.5,2]],"asks":[[101,1]]}']
    world.observe(update(("buy", "99.6", "1")), trade(6))
    assert epochs(world) == {
        Channel.BOOK: [(True, 8)],
        Channel.TRADES: [(True, 8)],
        Channel.TICKER: [(True, 8), (True, 9)],
    }
    ticks = [said.fields for said in world.said(Channel.TICKER)]
    assert [tick["best_bid"]["px"] for tick in ticks] == [Decimal("99.6")] * 2
    assert [tick["last_trade"]["trade_id"] for tick in ticks] == [5, 6]
    assert world.runs[Channel.BOOK][0].input == InputPosition(A, 1, NUMBER + 2)


def test_records_that_are_in_the_state_change_nothing() -> None:
    world = going_on(after=NUMBER - 4)
    outcomes = world.observe(
        snapshot("50"), update(("buy", "60", "1")), trade(5), page(6, 9), update(("buy", "99.6", "1"))
    )
    assert outcomes == [
        Outcome.RESTORED, Outcome.RESTORED, Outcome.DUPLICATE, Outcome.RESTORED, Outcome.ACCEPTED,
    ]  # fmt: skip
    assert epochs(world) == {Channel.BOOK: [(True, 8)], Channel.TRADES: [], Channel.TICKER: [(True, 8)]}

    world = going_on(after=NUMBER - 4)
    world.turn.source(A, 1)
    world.turn.record(NUMBER - 3, T0)
    world.product.link_down(A, "the link broke")
    world.product.lose_book(A, "a frame could not be read", resync=True)
    assert world.product.book_held
    assert world.facts_of(BookLost) == []


def test_ticks_between_the_book_s_input_and_the_ticker_s_are_not_minted_again() -> None:
    world = going_on(left(book=NUMBER - 2)._replace(bid=("99.7", "3")), after=NUMBER - 2)
    world.observe(update(("buy", "99.8", "1")), update(("buy", "99.8", "0"), ("buy", "99.7", "3")))
    assert epochs(world)[Channel.TICKER] == []
    assert epochs(world)[Channel.BOOK] == [(True, 8), (True, 9)]
    world.observe(trade(6))
    assert epochs(world)[Channel.TICKER] == [(True, 8)]
    assert world.said(Channel.TICKER)[0].fields["best_bid"]["px"] == Decimal("99.7")


def test_a_ticker_that_is_not_what_the_book_makes_it_begins_an_epoch() -> None:
    world = going_on(left()._replace(bid=("98", "1")))
    world.observe(trade(6))
    assert world.kinds(Channel.TICKER) == ["snapshot"]
    assert epochs(world)[Channel.TRADES] == [(True, 8)]


def test_without_its_book_the_ticker_does_not_go_on() -> None:
    restored = left()
    inputs = without(restored.inputs, Channel.BOOK)
    world = going_on(restored._replace(inputs=inputs))
    world.observe(trade(6), snapshot())
    assert world.kinds(Channel.TICKER) == ["snapshot", "tick"]
    assert world.kinds(Channel.BOOK) == ["snapshot"]
    world = going_on(left(book=NUMBER + 1))
    world.observe(trade(6))
    assert world.kinds(Channel.TICKER) == ["snapshot"], "nobody knows what its book was then"


def test_a_ticker_of_a_product_without_books_goes_on_alone() -> None:
    restored = left()
    positions = without(restored.positions, Channel.BOOK)
    inputs = without(restored.inputs, Channel.BOOK)
    world = going_on(restored._replace(positions=positions, inputs=inputs, book=None))
    world.observe(quote(20, trade(6), "99", "102"))
    assert epochs(world)[Channel.TICKER] == [(True, 8)]


@pytest.mark.parametrize("what", ["broken", "lost", "replaced"])
def test_what_does_not_follow_the_restored_state_ends_it(what: str) -> None:
    world = going_on()
    getattr(world.product, what)(A)
    world.collect()
    assert not world.product.book_held
    world.observe(trade(6), snapshot("99.6"), trade(7))
    assert world.kinds(Channel.BOOK) == world.kinds(Channel.TICKER)[:1] == ["snapshot"]
    assert epochs(world)[Channel.TRADES] == [(True, 8), (True, 9)], "ids alone prove it"


def test_a_loss_after_the_restart_begins_the_ticker_anew_once() -> None:
    world = going_on()
    world.observe(trade(6))
    for _ in range(2):
        world.product.lost(A)
        world.collect()
        world.observe(snapshot("99.6"), trade(world.trade_ids()[-1] + 1))
    assert world.kinds(Channel.TICKER) == ["tick", "snapshot", "tick", "tick"]
    assert [fact.why for fact in world.facts_of(BookLost)] == [FRAMES_LOST] * 2


def test_a_second_line_ends_the_ticker_s_epoch_while_it_reads_again_but_not_the_book_s() -> None:
    world = going_on(after=NUMBER - 2)
    world.observe(position(5), snapshot("50"), trade(6), line=B)
    assert world.kinds(Channel.TICKER) == ["snapshot", "tick"]
    world.observe(trade(5), trade(5), update(("buy", "99.6", "1")), line=A)
    assert epochs(world)[Channel.BOOK] == [(True, 8)]

    world = going_on()
    world.observe(trade(6), line=A)
    world.observe(trade(7), line=B)
    assert world.kinds(Channel.TICKER) == ["tick", "tick"]


def test_history_holds_back_only_what_does_not_go_on() -> None:
    restored = left()
    inputs = without(restored.inputs, Channel.TICKER)
    world = going_on(restored._replace(inputs=inputs))
    world.product.hold_back(A)
    world.observe(update(("buy", "99.6", "1")), trade(6))
    assert epochs(world)[Channel.BOOK] == [(True, 8)]
    assert world.said(Channel.TICKER) == []
    world.product.go_on(A)
    world.collect()
    assert world.kinds(Channel.TICKER) == ["snapshot"]
    assert all(state == "live" for channel in Channel for state, _ in world.statuses(channel))
