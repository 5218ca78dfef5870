from lfmesh.core.liveness import Liveness, Standing
from lfmesh.types import CHANNELS, Channel

SECOND = 1_000_000_000


def states(liveness: Liveness, now: int) -> dict[Channel, tuple[str, str]]:
    return {channel: (standing.state, standing.reason) for channel, standing in liveness.changes(now)}


def test_a_silent_venue_makes_every_stream_stale_until_it_speaks() -> None:
    liveness = Liveness(0, 10 * SECOND)
    assert not liveness.tick(10 * SECOND)
    assert liveness.changes(10 * SECOND) == []
    assert liveness.tick(10 * SECOND + 1)
    said = liveness.changes(11 * SECOND)
    assert [(channel, standing.state, standing.since) for channel, standing in said] == [
        (channel, "stale", 11 * SECOND) for channel in CHANNELS
    ]
    assert "10 s" in said[0][1].reason
    assert not liveness.tick(12 * SECOND), "told once"
    assert liveness.frame(13 * SECOND)
    assert set(states(liveness, 13 * SECOND)) == set(CHANNELS)
    assert liveness.standings[Channel.TICKER] == Standing("live", 13 * SECOND, "data flows")
    assert not liveness.frame(14 * SECOND)


def test_a_lost_link_is_over_with_the_first_frame_but_the_book_waits_for_its_snapshot() -> None:
    liveness = Liveness(0, 10 * SECOND)
    liveness.link_lost("the link broke")
    liveness.book_waits("the link broke")
    assert states(liveness, 1) == dict.fromkeys(CHANNELS, ("recovering", "the link broke"))
    assert liveness.frame(2)
    assert {channel: state for channel, (state, _) in states(liveness, 2).items()} == {
        Channel.TICKER: "live",
        Channel.TRADES: "live",
    }
    liveness.book_waits("")
    assert {channel: state for channel, (state, _) in states(liveness, 3).items()} == {Channel.BOOK: "live"}


def test_a_silent_ingestor_comes_before_all_else_and_leaves_what_was() -> None:
    liveness = Liveness(0, 10 * SECOND)
    liveness.book_waits("crossed")
    states(liveness, 1)
    liveness.ingestor(silent=True)
    assert liveness.is_without_source
    assert states(liveness, 2) == dict.fromkeys(CHANNELS, ("recovering", "the ingestor is silent"))
    assert liveness.standings[Channel.BOOK].since == 1, "it has been recovering since then, for another reason"
    assert liveness.recovering == 3
    liveness.ingestor(silent=False)
    said = states(liveness, 3)
    assert said[Channel.BOOK] == ("recovering", "crossed")
    assert said[Channel.TRADES][0] == "live"
    assert not liveness.is_without_source
