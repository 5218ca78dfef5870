import json
from collections.abc import Iterable

from lfmesh.core.backoff import Backoff
from lfmesh.venues.coinbase.parse import VenueError
from lfmesh.venues.coinbase.protocol import ECHOED, Echo
from lfmesh.venues.coinbase.subscription import PACE_S, RESYNC_INTERVAL_S, Subscription

CHANNELS = ("ticker", "level2_batch")
PRODUCTS = ("A-X", "B-X", "C-X", "D-X")
TIMEOUT_S = 5.0


class Venue:
    """The venue's side of the conversation: refuses some products, confirms the rest."""

    def __init__(self, refused: Iterable[str] = (), echo_after_error: bool = False) -> None:
        self.refused = set(refused)
        self.echo_after_error = echo_after_error
        self.held: set[tuple[str, str]] = set()
        self.requests: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []

    def hear(self, request: str) -> list[Echo | VenueError]:
        asked = json.loads(request)
        channels, products = tuple(asked["channels"]), tuple(asked["product_ids"])
        self.requests.append((asked["type"], channels, products))
        bad = sorted(self.refused.intersection(products))
        if bad and asked["type"] == "subscribe":
            error = VenueError("Failed to subscribe", f"{bad[0]} is not a valid product")
            return [error, self.echo()] if self.echo_after_error else [error]
        streams = {(channel, product) for channel in channels for product in products}
        self.held = self.held | streams if asked["type"] == "subscribe" else self.held - streams
        return [self.echo()]

    def echo(self, leaving_out: Iterable[tuple[str, str]] = ()) -> Echo:
        return Echo(
            frozenset((ECHOED.get(channel, channel), product) for channel, product in self.held - set(leaving_out))
        )


def subscription(products: tuple[str, ...] = PRODUCTS) -> Subscription:
    return Subscription(CHANNELS, products, TIMEOUT_S, Backoff(1, 30, lambda: 1.0, first_at_once=False))


def talk(wish: Subscription, venue: Venue, now: float, until: float) -> list[tuple[str, ...]]:
    """Let both talk from `now` to `until`, in steps of 10 ms; returns the products that came up, one item a change."""
    came = []
    while now < until:
        for request in wish.due(now):
            for answer in venue.hear(request):
                if isinstance(answer, Echo):
                    wish.echoed(answer, now)
                else:
                    wish.refused(answer, now)
                new, _ = wish.changes()
                if new:
                    came.append(new)
        now += 0.01
    return came


def test_accepted_as_asked() -> None:
    wish, venue = subscription(), Venue()
    assert not wish.confirmed
    assert wish.problems() == ["A-X, B-X, C-X, D-X: not confirmed by the venue yet"]
    assert talk(wish, venue, 0.0, 20.0) == [PRODUCTS]
    assert venue.requests == [("subscribe", CHANNELS, PRODUCTS)]
    assert (wish.confirmed, wish.up, wish.problems(), wish.silent) == (True, PRODUCTS, [], False)


def test_nothing_is_asked_while_an_answer_is_due() -> None:
    wish = subscription()
    assert len(wish.due(0.0)) == 1
    assert wish.due(0.01) == []
    assert wish.due(TIMEOUT_S - 0.01) == []
    assert not wish.silent


def test_silence_makes_the_connection_useless() -> None:
    wish = subscription()
    wish.due(0.0)
    assert wish.due(TIMEOUT_S) == []
    assert wish.silent
    assert wish.problems() == ["A-X, B-X, C-X, D-X: no answer to the subscription within 5 s"]


def test_an_empty_echo_is_a_refusal_and_is_retried() -> None:
    wish, venue = subscription(), Venue()
    wish.due(0.0)
    wish.echoed(Echo(frozenset()), 0.1)
    assert wish.changes() == ((), ())
    assert not wish.silent
    assert wish.problems() == ["A-X, B-X, C-X, D-X: left out of the venue's confirmation"]
    assert wish.refused_products == 4
    assert wish.due(0.9) == []
    assert talk(wish, venue, 1.0, 1.5) == [PRODUCTS]
    assert wish.problems() == []


def test_one_bad_product_does_not_keep_the_others_out() -> None:
    for echo_after_error in (False, True):
        wish, venue = subscription(), Venue(refused=["C-X"], echo_after_error=echo_after_error)
        came = talk(wish, venue, 0.0, 1.0)
        assert sorted(product for group in came for product in group) == ["A-X", "B-X", "D-X"]
        assert wish.up == ("A-X", "B-X", "D-X")
        assert not wish.confirmed
        assert wish.problems() == ["C-X: refused by the venue: Failed to subscribe: C-X is not a valid product"]
        assert wish.refused_products == 1


def test_requests_keep_the_pace() -> None:
    wish, venue = subscription(tuple(f"P{n}-X" for n in range(25))), Venue(refused=[f"P{n}-X" for n in range(25)])
    talk(wish, venue, 0.0, 2.0)
    assert len(venue.requests) <= 2.0 / PACE_S + 1


def test_refused_products_are_asked_for_again_with_growing_pauses() -> None:
    wish, venue = subscription(("A-X",)), Venue(refused=["A-X"])
    talk(wish, venue, 0.0, 16.0)
    assert len(venue.requests) == 5  # at 0, 1, 3, 7, 15
    venue.refused.clear()
    assert talk(wish, venue, 16.0, 40.0) == [("A-X",)]
    assert wish.problems() == []


def test_a_channel_left_out_of_the_echo() -> None:
    wish, venue = subscription(("A-X", "B-X")), Venue()
    (request,) = wish.due(0.0)
    venue.hear(request)
    wish.echoed(venue.echo(leaving_out=[("level2_batch", "B-X")]), 0.1)
    assert wish.changes() == (("A-X", "B-X"), ())
    assert wish.problems() == ["B-X: left out of the venue's confirmation for level2_batch"]
    assert wish.due(1.0) == []
    (request,) = wish.due(1.1)
    assert json.loads(request)["product_ids"] == ["B-X"]
    wish.echoed(venue.echo(), 1.2)
    assert wish.problems() == []


def test_a_subscription_that_the_venue_takes_away() -> None:
    wish, venue = subscription(), Venue()
    talk(wish, venue, 0.0, 1.0)
    venue.held = {stream for stream in venue.held if stream[1] != "B-X"}
    wish.echoed(venue.echo(), 1.0)
    assert wish.changes() == ((), ("B-X",))
    assert wish.problems() == ["B-X: left out of the venue's confirmation"]


def test_resync_subscribes_the_book_anew() -> None:
    wish, venue = subscription(), Venue()
    talk(wish, venue, 0.0, 1.0)
    assert wish.resync(["A-X", "B-X", "A-X", "Z-Z"], 1.0) == 2
    requests = wish.due(1.0)
    assert [json.loads(request)["type"] for request in requests] == ["unsubscribe", "subscribe"]
    assert all(json.loads(request)["product_ids"] == ["A-X", "B-X"] for request in requests)
    assert all(json.loads(request)["channels"] == ["level2_batch"] for request in requests)
    for request in requests:
        (answer,) = venue.hear(request)
        assert isinstance(answer, Echo)
        wish.echoed(answer, 1.1)
        assert wish.changes() == ((), ())
        assert wish.problems() == []
        assert wish.confirmed
    assert wish.due(10.0) == []


def test_resyncs_are_joined_and_limited() -> None:
    wish, venue = subscription(), Venue()
    talk(wish, venue, 0.0, 1.0)
    assert wish.resync(["A-X"], 1.0) == 1
    assert wish.resync(["A-X"], 1.0) == 0  # waits already
    first = wish.due(1.0)
    assert wish.resync(["A-X"], 1.05) == 0  # is under way
    for request in first:
        for answer in venue.hear(request):
            assert isinstance(answer, Echo)
            wish.echoed(answer, 1.1)
    assert wish.resync(["A-X"], 1.2) == 1
    assert wish.due(1.0 + RESYNC_INTERVAL_S - 0.01) == []
    assert len(wish.due(1.0 + RESYNC_INTERVAL_S)) == 2


def test_a_resync_that_the_venue_refuses_is_retried() -> None:
    wish, venue = subscription(), Venue()
    talk(wish, venue, 0.0, 1.0)
    wish.resync(["A-X"], 1.0)
    unsubscribe, _ = wish.due(1.0)
    (answer,) = venue.hear(unsubscribe)
    assert isinstance(answer, Echo)
    wish.echoed(answer, 1.1)
    wish.refused(VenueError("Failed to subscribe", "busy"), 1.2)
    assert wish.problems() == ["A-X: refused by the venue: Failed to subscribe: busy"]
    assert talk(wish, venue, 1.2, 4.0) == []  # its ticker has flowed all the time
    assert wish.confirmed


def test_an_unsolicited_error_changes_nothing() -> None:
    wish, venue = subscription(), Venue()
    talk(wish, venue, 0.0, 1.0)
    wish.refused(VenueError("slow down", ""), 2.0)
    assert wish.confirmed
    assert wish.due(3.0) == []
