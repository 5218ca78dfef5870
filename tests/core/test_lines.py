"""Two lines of one product: a book each, one of them published, and the change between them."""

from decimal import Decimal

import pytest

from lfmesh.core.lines import (
    BAD_BOOK_FRAME,
    CROSSED,
    DISORDERED,
    FRAMES_LOST,
    LAGGING,
    NO_SNAPSHOT,
    REPLACED_INGESTOR,
    STALLED,
)
from lfmesh.core.liveness import LOST_CONNECTION, SILENT_INGESTOR
from lfmesh.core.product_facts import BookHeld, BookLost, LineChanged, Outcome
from lfmesh.types import NO_INPUT, Channel, InputPosition
from tests.core.product_world import PRODUCT, SECOND, T0, A, B, World, heartbeat, page, quote, snapshot, trade, update

BOOK_A, BOOK_B = snapshot("99.50"), snapshot("99.60")
CROSSING = update(("buy", "101.00", "1"))


def paired() -> World:
    """Both lines hold a book and have brought trade 1; A's is published."""
    world = World()
    world.observe(BOOK_A, trade(1), line=A)
    world.observe(BOOK_B, trade(1), line=B)
    return world


def best_bid(world: World) -> Decimal:
    """Of the newest snapshot of the book."""
    found: Decimal = [said for said in world.said(Channel.BOOK) if said.kind == "snapshot"][-1].fields["bids"][0][0]
    return found


def losses(world: World) -> list[tuple[str, bool, int | None]]:
    return [(fact.why, fact.resync, fact.ingestor) for fact in world.facts_of(BookLost)]


def assert_changed(world: World, why: str) -> None:
    assert world.facts_of(LineChanged) == [LineChanged(PRODUCT, A, B, why)]
    assert world.kinds(Channel.BOOK) == ["snapshot", "snapshot"]
    assert world.said(Channel.BOOK)[-1].data["reason"] == "resync"
    assert best_bid(world) == Decimal("99.60")
    assert all(state == "live" for state, _ in world.statuses(Channel.BOOK))
    assert world.product.line == B


def test_each_line_has_its_own_book_and_one_is_published() -> None:
    world = paired()
    outcomes = world.observe(update(("buy", "99.70", "1")), line=B)
    assert outcomes == [Outcome.ACCEPTED]
    assert world.kinds(Channel.BOOK) == ["snapshot"]
    world.observe(update(("buy", "99.80", "1")), line=A)
    assert [said.fields["bids"] for said in world.said(Channel.BOOK)][1:] == [[[Decimal("99.80"), 1]]]
    assert world.facts_of(BookHeld) == [BookHeld(PRODUCT, A), BookHeld(PRODUCT, B)]
    assert world.product.state(Channel.BOOK) == [
        '{"bids":[[99.80,1],[99.50,2],[99.0,3.00]],"asks":[[101.0,1],[102.00,5]]}'
    ]
    world.observe(CROSSING, line=A)
    assert world.product.state(Channel.BOOK) == [
        '{"bids":[[99.70,1],[99.60,2],[99.0,3.00]],"asks":[[101.0,1],[102.00,5]]}'
    ]


def test_trades_and_quotes_are_of_whichever_comes_first() -> None:
    world = paired()
    assert world.observe(trade(2), quote(10, trade(2)), trade(3), line=B) == [Outcome.ACCEPTED] * 3
    assert world.observe(trade(2), quote(10, trade(2)), trade(3), trade(3), trade(4)) == [
        Outcome.OTHER_LINE, Outcome.OTHER_LINE, Outcome.OTHER_LINE, Outcome.DUPLICATE, Outcome.ACCEPTED,
    ]  # fmt: skip
    assert world.observe(quote(10, trade(2)), line=A) == [Outcome.DUPLICATE]
    assert world.observe(quote(9, trade(2)), line=A) == [Outcome.STALE]
    assert world.trade_ids() == [1, 2, 3, 4]
    assert world.observe(heartbeat(4), line=A) == [Outcome.ACCEPTED]
    assert world.observe(heartbeat(3), line=B) == [Outcome.OTHER_LINE]
    assert world.observe(heartbeat(2), line=B) == [Outcome.STALE]


def test_a_crossed_book_gives_way_to_the_other_line_s() -> None:
    world = paired()
    assert world.observe(CROSSING, line=A) == [Outcome.CROSSED]
    assert_changed(world, CROSSED)
    assert losses(world) == [(CROSSED, True, A)], "its own ingestor is asked for a snapshot"
    assert world.said(Channel.TICKER)[-1].fields["best_bid"]["px"] == Decimal("99.60")


def test_a_silent_ingestor_s_book_gives_way_and_does_not_come_back_by_itself() -> None:
    world = paired()
    world.product.silence(A, silent=True)
    world.collect()
    assert_changed(world, SILENT_INGESTOR)
    assert losses(world) == [], "its numbers will prove that it lost nothing"
    world.product.silence(A, silent=False)
    world.observe(update(("buy", "99.90", "1")), line=A)
    assert_changed(world, SILENT_INGESTOR)


def test_a_lost_link_costs_its_line_only() -> None:
    world = paired()
    world.product.link_down(A, LOST_CONNECTION)
    world.collect()
    assert_changed(world, LOST_CONNECTION)
    assert losses(world) == [(LOST_CONNECTION, False, A)], "the new subscription brings a snapshot by itself"
    assert world.statuses(Channel.TRADES) == []


def test_a_restarted_ingestor_costs_its_line_only() -> None:
    world = paired()
    world.product.replaced(A)
    world.collect()
    assert_changed(world, REPLACED_INGESTOR)
    world.incarnations[A] = 2
    assert world.observe(trade(2), BOOK_A, line=A) == [Outcome.ACCEPTED] * 2
    assert_changed(world, REPLACED_INGESTOR)


def test_lost_records_cost_their_line_only() -> None:
    world = paired()
    world.product.lost(A)
    world.collect()
    assert_changed(world, FRAMES_LOST)
    assert losses(world) == [(FRAMES_LOST, True, A)]


def test_a_bad_frame_costs_its_line_only() -> None:
    world = paired()
    world.product.lose_book(B, BAD_BOOK_FRAME, resync=True)
    world.collect()
    assert losses(world) == [(BAD_BOOK_FRAME, True, B)]
    assert world.kinds(Channel.BOOK) == ["snapshot"]
    assert world.statuses(Channel.BOOK) == []


def test_an_update_that_comes_late_makes_the_book_doubtful() -> None:
    world = paired()
    outcomes = world.observe(
        update(("buy", "99.70", "1"), ts_event=T0 + 5), update(("buy", "99.70", "2"), ts_event=T0 + 5),
        update(("buy", "99.70", "9"), ts_event=T0 + 4),
    )  # fmt: skip
    assert outcomes == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.DISORDERED]
    assert losses(world) == [(DISORDERED, True, A)]


def test_updates_without_a_snapshot_ask_their_own_ingestor() -> None:
    world = World()
    world.observe(BOOK_A, line=A)
    assert world.observe(update(("buy", "1", "1")), line=B) == [Outcome.BOOK_NOT_HELD]
    assert losses(world) == [(NO_SNAPSHOT, True, B)]
    assert world.statuses(Channel.BOOK) == []


def test_the_book_recovers_only_while_no_line_holds_one() -> None:
    world = paired()
    world.observe(CROSSING, line=A)
    world.observe(CROSSING, line=B)
    assert world.statuses(Channel.BOOK)[-1] == ("recovering", CROSSED)
    assert world.product.state(Channel.BOOK) is None
    assert not world.product.outlets[Channel.BOOK].whole
    world.observe(BOOK_A, line=A)
    assert world.statuses(Channel.BOOK)[-1][0] == "live"
    assert best_bid(world) == Decimal("99.50")
    assert world.product.outlets[Channel.BOOK].whole


@pytest.mark.parametrize("trouble", ["silent", "link"])
def test_a_line_that_cannot_go_on_stays_until_the_other_has_a_book(trouble: str) -> None:
    world = World()
    world.observe(BOOK_A, trade(1), line=A)
    world.observe(trade(1), line=B)
    if trouble == "silent":
        world.product.silence(A, silent=True)
    else:
        world.product.link_down(A, LOST_CONNECTION)
    world.collect()
    reason = SILENT_INGESTOR if trouble == "silent" else LOST_CONNECTION
    assert world.statuses(Channel.BOOK) == [("recovering", reason)]
    assert world.statuses(Channel.TRADES) == []
    world.observe(BOOK_B, line=B)
    assert best_bid(world) == Decimal("99.60")
    assert world.statuses(Channel.BOOK)[-1][0] == "live"


def test_a_line_that_was_only_slow_goes_on_in_its_epoch() -> None:
    world = World()
    world.observe(BOOK_A, trade(1), line=A)
    world.observe(trade(1), line=B)
    for silent in (True, False):
        world.product.silence(A, silent=silent)
    world.observe(update(("buy", "99.90", "1")), line=A)
    assert world.kinds(Channel.BOOK) == ["snapshot", "book"]
    assert [state for state, _ in world.statuses(Channel.BOOK)] == ["recovering", "live"]


def test_all_streams_recover_only_while_nobody_brings_anything() -> None:
    world = paired()
    world.product.silence(A, silent=True)
    world.product.link_down(B, LOST_CONNECTION)
    world.collect()
    assert world.statuses(Channel.TRADES) == [("recovering", LOST_CONNECTION)]
    world.product.silence(B, silent=True)
    world.collect()
    assert world.statuses(Channel.TRADES)[-1] == ("recovering", SILENT_INGESTOR)
    world.product.silence(B, silent=False)
    world.observe(trade(2), line=B)
    assert world.statuses(Channel.TRADES)[-1][0] == "live"


# Lag ------------------------------------------------------------------------------------------------------------------


def test_a_line_that_lags_the_other_s_trades_is_left() -> None:
    world = paired()
    world.observe(trade(2), line=B)
    world.pass_time(0.4)
    world.observe(trade(3), line=B)
    assert world.kinds(Channel.BOOK) == ["snapshot"]
    world.pass_time(0.1)
    assert_changed(world, LAGGING)
    world.observe(trade(2), trade(3), line=A)
    world.pass_time(1)
    assert_changed(world, LAGGING)


def test_a_line_that_catches_up_in_time_is_kept() -> None:
    world = paired()
    for number in range(2, 20):
        world.observe(trade(number), line=B)
        world.pass_time(0.4)
        world.observe(trade(number), line=A)
    world.pass_time(2)
    assert world.facts_of(LineChanged) == []


def test_a_line_without_a_book_is_no_help_against_lag() -> None:
    world = World()
    world.observe(BOOK_A, trade(1), line=A)
    world.observe(trade(1), trade(2), line=B)
    world.pass_time(1)
    assert world.facts_of(LineChanged) == []
    world.observe(BOOK_B, line=B)
    world.pass_time(0.1)
    assert_changed(world, LAGGING)


def test_our_own_pause_is_nobody_s_lag() -> None:
    world = paired()
    world.observe(trade(2), line=B)
    world.now += 5 * SECOND
    world.product.excuse(5 * SECOND)
    world.pass_time(0.4)
    assert world.facts_of(LineChanged) == []


# Stalls ---------------------------------------------------------------------------------------------------------------


def test_a_stalled_product_s_books_are_not_trusted_any_more() -> None:
    world = paired()
    world.pass_time(10.2, alive=False)
    assert losses(world) == [(STALLED, True, B), (STALLED, True, A)]
    assert world.kinds(Channel.BOOK) == ["snapshot"], "no change to a book that is lost as well"
    assert {channel: world.statuses(channel)[-1][0] for channel in Channel} == dict.fromkeys(Channel, "stale")
    world.observe(heartbeat(1))
    assert world.statuses(Channel.TRADES)[-1][0] == "live"
    assert world.statuses(Channel.BOOK)[-1] == ("recovering", STALLED)
    world.observe(BOOK_A)
    assert world.statuses(Channel.BOOK)[-1][0] == "live"


def test_after_a_stall_the_ticker_of_one_line_begins_an_epoch() -> None:
    world = World()
    world.observe(BOOK_A, trade(1))
    world.pass_time(10.2, alive=False)
    world.observe(quote(20, trade(2)))
    assert world.kinds(Channel.TICKER) == ["snapshot", "tick", "snapshot"]


def test_a_product_without_books_asks_for_none_after_a_stall() -> None:
    world = World()
    world.observe(trade(1))
    world.pass_time(11, alive=False)
    assert losses(world) == []


# Where the output comes from ------------------------------------------------------------------------------------------


def inputs(world: World, channel: Channel) -> list[InputPosition]:
    return [run.input for run in world.runs[channel] if run.epoch]


def test_frames_name_the_line_that_they_come_from() -> None:
    world = World()
    world.observe(BOOK_A, trade(1), line=A)
    assert inputs(world, Channel.TICKER)[-1] == InputPosition(A, 1, 2)
    world.observe(BOOK_B, trade(1), update(("buy", "99.7", "1")), line=B)
    world.observe(CROSSING, line=A)
    assert inputs(world, Channel.BOOK)[-1] == InputPosition(B, 1, 3)
    assert inputs(world, Channel.TICKER)[-1] == NO_INPUT, "of a product of two lines"


def test_a_fill_counts_for_no_line() -> None:
    world = paired()
    world.observe(trade(4), page(2, 3), line=B)
    assert world.trade_ids() == [1, 2, 3, 4]


# History --------------------------------------------------------------------------------------------------------------


def test_a_line_that_reads_history_is_not_changed_to() -> None:
    world = World()
    world.product.hold_back(B)
    world.observe(BOOK_A, trade(1), line=A)
    assert world.kinds(Channel.BOOK) == [], "not before it is known who brings the present"
    world.product.go_on(B)
    world.collect()
    assert world.kinds(Channel.BOOK) == ["snapshot"]

    world = World()
    world.observe(BOOK_A, trade(1), line=A)
    world.product.hold_back(B)
    world.observe(BOOK_B, trade(1), line=B)
    world.product.silence(A, silent=True)
    world.collect()
    assert world.kinds(Channel.BOOK) == ["snapshot"]
    assert world.statuses(Channel.BOOK)[-1] == ("recovering", SILENT_INGESTOR)
    world.product.go_on(B)
    world.collect()
    assert world.facts_of(LineChanged) == [LineChanged(PRODUCT, A, B, SILENT_INGESTOR)]
    assert world.statuses(Channel.BOOK)[-1][0] == "live"


def test_who_falls_silent_in_its_history_holds_nobody_back() -> None:
    world = World()
    world.product.hold_back(B)
    world.product.silence(B, silent=True)
    world.observe(BOOK_A, trade(1), line=A)
    assert (world.kinds(Channel.BOOK), world.kinds(Channel.TICKER)) == (["snapshot"], ["snapshot", "tick"])
    world = World()
    world.product.hold_back(B)
    world.observe(BOOK_A, trade(1), line=A)
    world.product.silence(B, silent=True)
    world.collect()
    assert (world.kinds(Channel.BOOK), world.kinds(Channel.TICKER)) == (["snapshot"], ["snapshot"])
    world.product.silence(B, silent=False)
    world.observe(BOOK_B, trade(1), line=B)
    world.product.silence(A, silent=True)
    world.collect()
    assert world.facts_of(LineChanged) == [], "it still reads its history"
