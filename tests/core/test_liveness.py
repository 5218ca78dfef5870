from lfmesh.core.liveness import FLOWING, Liveness, Standing
from lfmesh.types import CHANNELS, Channel

SECOND = 1_000_000_000


def states(liveness: Liveness, now: int) -> dict[Channel, tuple[str, str]]:
    return {channel: (standing.state, standing.reason) for channel, standing in liveness.changes(now)}


def test_a_silent_venue_makes_every_stream_stale_until_it_speaks() -> None:
    liveness = Liveness(0, 10 * SECOND)
    assert not liveness.tick(10 * SECOND)
    assert liveness.changes(10 * SECOND) == []
    assert (liveness.tick(10 * SECOND + 1), liveness.is_stale) == (True, True)
    said = liveness.changes(11 * SECOND)
    assert [(channel, standing.state, standing.since) for channel, standing in said] == [
        (channel, "stale", 11 * SECOND) for channel in CHANNELS
    ]
    assert "10 s" in said[0][1].reason
    assert not liveness.tick(12 * SECOND), "told once"
    liveness.frame(13 * SECOND)
    assert not liveness.is_stale
    assert set(states(liveness, 13 * SECOND)) == set(CHANNELS)
    assert liveness.standings[Channel.TICKER] == Standing("live", 13 * SECOND, FLOWING)


def test_what_book_and_trades_wait_for_concerns_them_alone() -> None:
    liveness = Liveness(0, 10 * SECOND)
    liveness.book_waits("crossed")
    liveness.trades_wait("fetched")
    assert states(liveness, 1) == {
        Channel.BOOK: ("recovering", "crossed"),
        Channel.TRADES: ("recovering", "fetched"),
    }
    assert liveness.recovering == 2
    liveness.book_waits_no_longer("something else")
    liveness.trades_wait("")
    assert states(liveness, 2) == {Channel.TRADES: ("live", FLOWING)}
    liveness.book_waits_no_longer("crossed")
    assert states(liveness, 3) == {Channel.BOOK: ("live", FLOWING)}


def test_a_lost_source_comes_before_all_else_and_leaves_what_was() -> None:
    liveness = Liveness(0, 10 * SECOND)
    liveness.book_waits("crossed")
    states(liveness, 1)
    liveness.source_lost("the ingestor is silent")
    assert states(liveness, 2) == dict.fromkeys(CHANNELS, ("recovering", "the ingestor is silent"))
    assert liveness.standings[Channel.BOOK].since == 1, "it has been recovering since then, for another reason"
    assert liveness.recovering == 3
    liveness.source_lost("")
    said = states(liveness, 3)
    assert said[Channel.BOOK] == ("recovering", "crossed")
    assert said[Channel.TRADES][0] == "live"


def test_a_silent_venue_says_more_than_a_book_that_waits() -> None:
    liveness = Liveness(0, 10 * SECOND)
    liveness.book_waits("crossed")
    liveness.tick(11 * SECOND)
    assert {state for state, _ in states(liveness, 11 * SECOND).values()} == {"stale"}
