"""Holds: what is missing, who brings it, what is declared."""

from decimal import Decimal

import pytest

from lfmesh.core.hold import TRADE_OVERHEAD, Missing
from lfmesh.core.outlet import Run
from lfmesh.core.product_facts import HoldClosed, HoldOpened, Outcome, TradeDiscarded, TradesMissing
from lfmesh.core.trades import BY_HEARTBEAT, BY_ID, FETCHING, PATIENCE
from lfmesh.types import Channel, Position, Trade
from tests.core.product_world import PRODUCT, SECOND, T0, A, B, World, heartbeat, page, position, quote, trade

FAR = 1_000_000


def wanted(world: World) -> list[tuple[int, int]]:
    return [(gap.first, gap.last) for gap in world.product.backfill_wanted(world.now)]


def last_trade(world: World) -> int:
    found: int = world.said(Channel.TICKER)[-1].fields["last_trade"]["trade_id"]
    return found


# In order -------------------------------------------------------------------------------------------------------------


def test_trades_open_at_last_match_and_follow_on_verified() -> None:
    world = World()
    assert world.observe(position(10), trade(11), trade(12, "100.20", "1")) == [Outcome.ACCEPTED] * 3
    opened, _, second = world.said(Channel.TRADES)
    assert (opened.kind, opened.fields, opened.data["reason"], opened.data["seq"]) == (
        "snapshot", {"trades": [], "last_trade_id": 10}, "epoch", 0,
    )  # fmt: skip
    assert world.continuities() == ["verified", "verified"]
    assert (second.fields["px"], second.fields["qty"]) == (Decimal("100.20"), 1)


def test_the_very_first_trade_without_evidence_is_unverified() -> None:
    world = World()
    world.observe(trade(50), trade(51))
    assert world.said(Channel.TRADES)[0].fields == {"trades": []}
    assert world.continuities() == ["unverified", "verified"]


def test_trades_come_once_and_in_order() -> None:
    world = World()
    outcomes = world.observe(trade(50), trade(51), trade(51), trade(50), trade(40), trade(52))
    assert outcomes[2:] == [Outcome.DUPLICATE, Outcome.DUPLICATE, Outcome.STALE, Outcome.ACCEPTED]
    assert world.trade_ids() == [50, 51, 52]


def test_last_match_that_we_have_changes_nothing() -> None:
    world = World()
    outcomes = world.observe(trade(50), position(50), position(49), trade(51))
    assert outcomes == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.STALE, Outcome.ACCEPTED]
    assert world.kinds(Channel.TRADES) == ["snapshot", "trade", "trade"]


def test_last_match_that_is_news_is_a_trade_like_any_other() -> None:
    world = World()
    world.observe(trade(50), position(51), trade(52))
    assert (world.trade_ids(), world.continuities()) == ([50, 51, 52], ["unverified", "verified", "verified"])
    world.observe(position(55))
    assert wanted(world) == [(53, 54)]
    world.observe(page(53, 54))
    assert world.trade_ids()[-3:] == [53, 54, 55]


# A hold ---------------------------------------------------------------------------------------------------------------


def test_a_jump_makes_newer_trades_wait_until_rest_gives_the_missing_ones() -> None:
    world = World()
    assert world.observe(trade(50), trade(54), trade(55), trade(54)) == [Outcome.ACCEPTED] * 3 + [Outcome.DUPLICATE]
    assert world.trade_ids() == [50]
    assert world.statuses(Channel.TRADES) == [("recovering", FETCHING)]
    assert world.statuses(Channel.TICKER) == []
    assert last_trade(world) == 55, "the ticker does not wait"
    assert wanted(world) == [(51, 53)], "at once: there is no other line"
    assert not world.product.outlets[Channel.TRADES].whole

    world.observe(page(51, 53, [51, 52], complete=False), page(51, 53, [53]))
    assert world.trade_ids() == [50, 51, 52, 53, 54, 55]
    assert world.continuities() == ["unverified"] + ["backfilled"] * 3 + ["verified"] * 2
    assert world.kinds(Channel.TRADES).count("snapshot") == 1, "the epoch goes on"
    assert world.statuses(Channel.TRADES)[-1][0] == "live"
    assert world.product.outlets[Channel.TRADES].whole
    assert world.facts_of(HoldOpened) == [HoldOpened(PRODUCT, 51, 53, BY_ID)]
    assert world.facts_of(HoldClosed) == [HoldClosed(PRODUCT, 0, 3, 0, 0)]
    assert (wanted(world), world.product.trades_held) == ([], 0)


def test_each_trade_keeps_the_time_of_its_own_receipt() -> None:
    world = World()
    world.observe(trade(50), trade(52), page(51, 51))
    assert [said.data["ts_ingest"] for said in world.said(Channel.TRADES)[1:]] == [T0 + 1, T0 + 3, T0 + 2]


def test_pages_come_in_any_order_and_a_late_trade_fills_as_well() -> None:
    world = World()
    world.observe(trade(50), trade(60), page(51, 59, [57, 58, 59], complete=False), trade(52), page(51, 59, [51]))
    assert world.trade_ids() == [50, 51, 52]
    assert wanted(world) == [(53, 56)]
    world.observe(page(53, 56))
    assert world.trade_ids() == list(range(50, 61))
    assert world.facts_of(HoldClosed) == [HoldClosed(PRODUCT, 1, 8, 0, 0)]


def test_what_nobody_gives_in_time_is_declared_and_each_gap_has_its_own_time() -> None:
    world = World()
    world.observe(trade(50), trade(54))
    world.pass_time(6)
    world.observe(trade(57), page(51, 53, [52]))
    world.pass_time(3.9)
    assert world.declared() == []
    world.pass_time(0.2)
    assert world.declared() == [(51, 51), (53, 53)]
    assert world.trade_ids() == [50, 52, 54]
    assert wanted(world) == [(55, 56)]
    world.pass_time(6)
    assert world.declared() == [(51, 51), (53, 53), (55, 56)]
    assert world.trade_ids() == [50, 52, 54, 57]
    assert world.continuities() == ["unverified", "backfilled", "unverified", "unverified"]
    epochs = [said.data["epoch"] for said in world.said(Channel.TRADES) if said.kind == "snapshot"]
    assert epochs == sorted(set(epochs))
    gaps = [said for said in world.said(Channel.TRADES) if said.kind == "snapshot"][1:]
    assert {said.data["reason"] for said in gaps} == {"gap"}
    assert [said.fields["last_trade_id"] for said in gaps] == [51, 53, 56]
    assert world.facts_of(TradesMissing)[-1] == TradesMissing(PRODUCT, 55, 56)
    assert [(fact.by_rest, fact.declared) for fact in world.facts_of(HoldClosed)] == [(1, 4)]
    assert world.statuses(Channel.TRADES)[-1][0] == "live"


def test_a_trade_that_was_declared_does_not_come_late() -> None:
    world = World()
    world.observe(trade(50), trade(52))
    world.pass_time(10.1)
    assert world.observe(trade(51), trade(53), page(51, 51)) == [Outcome.STALE, Outcome.ACCEPTED, Outcome.DUPLICATE]
    assert world.trade_ids() == [50, 52, 53]


def test_a_gap_says_where_the_stream_stood_before_it() -> None:
    world = World()
    world.observe(trade(50), trade(52))
    world.pass_time(10.1)
    snapshots: list[Run] = [run for run in world.runs[Channel.TRADES] if run.previous is not None]
    assert snapshots[0].previous == Position(world.said(Channel.TRADES)[0].data["epoch"], 1)


def test_the_time_in_which_we_did_not_run_counts_for_nobody() -> None:
    world = World()
    world.observe(trade(50), trade(52))
    world.pass_time(5)
    world.now += 60 * SECOND
    world.product.excuse(60 * SECOND)
    world.pass_time(4.9)
    assert world.declared() == []
    world.pass_time(0.3)
    assert world.declared() == [(51, 51)]


@pytest.mark.parametrize("bound", ["trades", "bytes"])
def test_past_the_bound_the_oldest_gap_is_declared_before_its_time(bound: str) -> None:
    size = TRADE_OVERHEAD + len("100.10") + len("0.50000000")
    patience = PATIENCE._replace(held_trades=3) if bound == "trades" else PATIENCE._replace(held_bytes=3 * size)
    world = World(patience=patience)
    world.observe(trade(50), trade(52), trade(54), trade(55))
    assert world.trade_ids() == [50]
    world.observe(trade(56))
    assert (world.trade_ids(), world.declared()) == ([50, 52], [(51, 51)])
    world.observe(trade(57))
    assert world.trade_ids() == [50, 52, 54, 55, 56, 57]


# Evidence -------------------------------------------------------------------------------------------------------------


def test_a_heartbeat_ahead_of_us_is_a_gap_after_a_moment() -> None:
    world = World()
    world.observe(trade(50), heartbeat(52))
    world.pass_time(0.9)
    assert (wanted(world), world.statuses(Channel.TRADES)) == ([], [])
    assert world.product.trades_behind == 2
    world.pass_time(0.2)
    assert wanted(world) == [(51, 52)]
    assert world.facts_of(HoldOpened) == [HoldOpened(PRODUCT, 51, 52, BY_HEARTBEAT)]
    world.observe(page(51, 52))
    assert (world.trade_ids(), last_trade(world)) == ([50, 51, 52], 52)
    assert world.statuses(Channel.TRADES)[-1][0] == "live"


def test_a_heartbeat_that_the_trade_itself_follows_is_none() -> None:
    world = World()
    world.observe(trade(50), heartbeat(52), trade(51))
    world.pass_time(0.9)
    world.observe(trade(52), heartbeat(52), heartbeat(0))
    world.pass_time(2)
    assert world.facts_of(HoldOpened) == []
    assert world.product.trades_behind == 0, "0 is unknown"


def test_what_only_a_heartbeat_has_shown_is_declared_in_time_as_well() -> None:
    world = World()
    world.observe(trade(50), heartbeat(52))
    world.pass_time(11.2)
    assert world.declared() == [(51, 52)]
    world.observe(trade(53))
    assert world.trade_ids() == [50, 53]


def test_a_newer_heartbeat_knows_better() -> None:
    world = World()
    world.observe(trade(50), heartbeat(60, sequence=2000))
    world.pass_time(0.5)
    world.observe(heartbeat(50, sequence=2001))
    world.pass_time(1)
    assert world.facts_of(HoldOpened) == []
    world.observe(heartbeat(60, sequence=2002))
    world.pass_time(1.2)
    assert wanted(world) == [(51, 60)]
    world.observe(heartbeat(50, sequence=2003))
    assert wanted(world) == []
    assert world.statuses(Channel.TRADES)[-1][0] == "live"


def test_a_page_without_a_hold_is_taken_as_far_as_it_goes_on() -> None:
    world = World()
    world.observe(trade(50), page(49, 52))
    assert (world.trade_ids(), last_trade(world)) == ([50, 51, 52], 52)
    assert world.observe(page(49, 52)) == [Outcome.DUPLICATE]
    assert World().observe(page(49, 52)) == [Outcome.DUPLICATE], "nothing is known to go on from"
    world.observe(page(55, 56))
    assert wanted(world) == [], "the line has not come so far"
    world.pass_time(1)
    assert wanted(world) == [(53, 54)]


def test_rest_is_asked_once_another_line_has_had_its_time() -> None:
    world = World()
    world.observe(trade(50), line=B)
    world.observe(trade(50), trade(53), line=A)
    assert wanted(world) == [], "B may bring them"
    world.pass_time(0.9)
    assert wanted(world) == []
    world.pass_time(0.2)
    assert wanted(world) == [(51, 52)]


@pytest.mark.parametrize("why", ["silent", "link lost", "further"])
def test_rest_is_asked_at_once_where_no_other_line_can_bring_it(why: str) -> None:
    world = World()
    world.observe(trade(50), line=B)
    if why == "silent":
        world.product.silence(B, silent=True)
    elif why == "link lost":
        world.product.link_down(B, why)
    else:
        world.observe(trade(53), line=B)
    world.observe(trade(50), trade(53), line=A)
    assert wanted(world) == [(51, 52)]


def test_the_other_line_fills_the_gap_verified() -> None:
    world = World()
    world.observe(trade(50), line=B)
    world.observe(trade(50), trade(53), line=A)
    outcomes = world.observe(trade(51), trade(52), trade(53), trade(54), line=B)
    assert outcomes == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.OTHER_LINE, Outcome.ACCEPTED]
    assert world.trade_ids() == [50, 51, 52, 53, 54]
    assert set(world.continuities()[1:]) == {"verified"}
    assert world.facts_of(HoldClosed) == [HoldClosed(PRODUCT, 2, 0, 0, 0)]


# Ids that can't be ----------------------------------------------------------------------------------------------------


def test_a_trade_that_a_heartbeat_shows_to_be_absurd_is_dropped() -> None:
    world = World()
    garbled = Trade(PRODUCT, 50 + FAR, "100.10", "1", "buy", T0, 1051)
    world.observe(trade(50), garbled)
    assert last_trade(world) == 50 + FAR
    world.observe(heartbeat(51, sequence=1050))
    assert wanted(world) == [(51, 50 + FAR - 1)], "an older heartbeat proves nothing"
    world.observe(heartbeat(51, sequence=1051), trade(52))
    assert [fact.trade_id for fact in world.facts_of(TradeDiscarded)] == [50 + FAR]
    assert wanted(world) == [(51, 51)]
    world.observe(page(51, 51))
    assert (world.trade_ids(), last_trade(world)) == ([50, 51, 52], 52)


def test_a_trade_that_rest_does_not_know_for_seconds_is_dropped() -> None:
    world = World()
    world.observe(trade(50), trade(57))
    world.observe(page(51, 56, [51, 52], newest=52))
    assert wanted(world) == [(53, 56)], "REST may be late"
    world.pass_time(3)
    world.observe(page(53, 56, [], newest=52))
    assert [fact.trade_id for fact in world.facts_of(TradeDiscarded)] == [57]
    assert last_trade(world) == 52
    assert world.statuses(Channel.TRADES)[-1][0] == "live"
    world.observe(trade(53))
    assert world.trade_ids() == [50, 51, 52, 53]


def test_an_absurd_first_trade_does_not_end_the_stream() -> None:
    for first in (trade(FAR), position(FAR)):
        world = World()
        outcomes = world.observe(first, trade(50), heartbeat(50, sequence=5 * FAR), trade(51), trade(52))
        assert outcomes == [
            Outcome.ACCEPTED, Outcome.STALE, Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.ACCEPTED,
        ]  # fmt: skip
        assert world.trade_ids()[-2:] == [51, 52]
        assert last_trade(world) == 52


def test_an_absurd_ticker_gives_way() -> None:
    world = World()
    world.observe(trade(50), quote(60, trade(FAR)), heartbeat(51, sequence=5 * FAR))
    assert last_trade(world) == 50
    assert world.facts_of(HoldOpened) == []


def test_what_is_told_in_two_ways_is_left_to_the_venue_s_record() -> None:
    world = World()
    other = trade(53, px="99")
    assert world.observe(trade(50), trade(53), other, trade(53))[2:] == [Outcome.INCONSISTENT] * 2
    assert [fact.trade_id for fact in world.facts_of(TradeDiscarded)] == [53]
    assert wanted(world) == [(51, 53)]
    world.observe(page(51, 53))
    assert world.trade_ids() == [50, 51, 52, 53]

    world = World()
    world.observe(trade(50), other, page(51, 53, [53]))
    assert world.observe(other) == [Outcome.INCONSISTENT]
    world.observe(page(51, 52))
    last = world.said(Channel.TRADES)[-1]
    assert (last.fields["trade_id"], last.fields["px"], last.data["continuity"]) == (
        53,
        Decimal("100.10"),
        "backfilled",
    )


def test_a_disputed_trade_alone_is_declared_in_time_and_not_before() -> None:
    world = World()
    world.observe(trade(50), trade(52), trade(52, px="7"))
    world.pass_time(9.5)
    assert world.declared() == []
    world.pass_time(0.7)
    assert world.declared() == [(51, 52)]


def test_many_ranges_are_told_oldest_first() -> None:
    world = World()
    world.observe(trade(50), trade(52), trade(56), trade(54))
    assert world.product.backfill_wanted(world.now) == [
        Missing(51, 51, T0), Missing(53, 53, T0), Missing(55, 55, T0),
    ]  # fmt: skip
