from hypothesis import given
from hypothesis import strategies as st

from lfmesh.messages import BackfilledTrade, BackfillPage, BackfillRequest
from lfmesh.services.ingestor.fetches import MAX_ATTEMPTS, MAX_FETCHES_A_PRODUCT, Asked, Batch, Fetches
from lfmesh.venues.coinbase.rest import MAX_ROWS, TradesPage


def fetches(max_fetches: int = 100) -> Fetches:
    return Fetches(max_fetches, random=lambda: 0.5)


def wish(product: str = "A-X", first: int = 1, last: int = 1) -> BackfillRequest:
    return BackfillRequest(product, first, last)


def trade(trade_id: int) -> BackfilledTrade:
    return BackfilledTrade(trade_id, "1.0", "2", "buy", 7)


class Venue:
    """Lists the trades that it has, as the venue pages them."""

    def __init__(self, ids: range | list[int]) -> None:
        self.ids = sorted(ids)

    def page(self, batch: Batch) -> TradesPage:
        below = [trade_id for trade_id in self.ids if trade_id < batch.after][-batch.limit :]
        return TradesPage([trade(trade_id) for trade_id in below], len(below), {})

    def answers(self, queue: Fetches, batch: Batch) -> list[BackfillPage]:
        return queue.arrived(batch, self.page(batch))

    def answer(self, queue: Fetches, batch: Batch) -> BackfillPage:
        (told,) = self.answers(queue, batch)
        return told


def taken(queue: Fetches, now: float = 0.0) -> Batch:
    batch = queue.take(now)
    assert batch is not None
    return batch


def test_one_page_with_all_of_it() -> None:
    queue = fetches()
    assert queue.take(0) is None
    assert queue.due_at() is None
    assert queue.ask(wish(first=11, last=13), 0) is Asked.QUEUED
    batch = taken(queue)
    assert (batch.product, batch.after, batch.limit) == ("A-X", 14, 3)
    assert queue.take(0) is None
    assert queue.due_at() is None
    page = Venue(range(1, 100)).answer(queue, batch)
    assert page == BackfillPage("A-X", 11, 13, [trade(11), trade(12), trade(13)], True, 13)
    assert len(queue) == 0
    assert queue.take(0) is None


def test_pages_go_downward_and_each_says_of_which_ids_it_tells() -> None:
    queue, venue = fetches(), Venue(range(1, 10_000))
    queue.ask(wish(first=101, last=101 + 2 * MAX_ROWS + 4), 0)
    told = [venue.answer(queue, taken(queue)) for _ in range(3)]
    assert [(page.from_trade_id, page.to_trade_id, page.complete) for page in told] == [
        (1106, 2105, False),
        (106, 1105, False),
        (101, 105, True),
    ]
    assert [trade.trade_id for page in reversed(told) for trade in page.trades] == list(range(101, 2106))
    assert {page.newest_trade_id for page in told} == {2105}
    assert len(queue) == 0


def test_ids_that_the_venue_does_not_list() -> None:
    cases: tuple[tuple[list[int], list[int], int], ...] = (
        ([], [], 0),  # nothing at all
        ([1, 2, 3], [], 3),  # none that new yet
        ([8, 12, 30], [12], 12),  # holes, and one that is too new
        ([14], [14], 14),
        ([15], [], 0),
    )
    for ids, given_ids, newest in cases:
        queue = fetches()
        queue.ask(wish(first=10, last=14), 0)
        page = Venue(ids).answer(queue, taken(queue))
        assert page == BackfillPage("A-X", 10, 14, [trade(trade_id) for trade_id in given_ids], True, newest)


def test_a_list_whose_oldest_rows_cannot_be_read_is_asked_further() -> None:
    queue = fetches()
    queue.ask(wish(first=10, last=14), 0)
    (page,) = queue.arrived(taken(queue), TradesPage([trade(13), trade(14)], 5, {"bad_price": 3}))
    assert (page.from_trade_id, page.to_trade_id, page.complete) == (13, 14, False)
    batch = taken(queue)
    assert (batch.after, batch.limit) == (13, 3)


def test_gaps_that_fit_on_a_page_cost_one_request() -> None:
    queue, venue = fetches(), Venue(range(1, 10_000))
    for first, last in ((500, 501), (1490, 1495), (700, 710), (1500, 1500), (450, 450)):
        queue.ask(wish(first=first, last=last), 0)
    batch = taken(queue)
    assert (batch.after, batch.limit) == (1496, 996)  # all of the first one, and what is above and below it
    told = venue.answers(queue, batch)
    assert [(page.from_trade_id, page.to_trade_id) for page in told] == [(500, 501), (1490, 1495), (700, 710)]
    for page in told:
        assert [trade.trade_id for trade in page.trades] == [*range(page.from_trade_id, page.to_trade_id + 1)]
        assert (page.complete, page.newest_trade_id) == (True, 1495)
    batch = taken(queue)
    assert (batch.after, batch.limit) == (1501, 1)
    assert venue.answer(queue, batch).from_trade_id == 1500
    assert venue.answer(queue, taken(queue)).from_trade_id == 450
    assert len(queue) == 0


def test_a_gap_that_a_page_reaches_in_part() -> None:
    queue, venue = fetches(), Venue(range(1, 10_000))
    queue.ask(wish(first=4000, last=6000), 0)
    queue.ask(wish(first=4900, last=5100), 0)  # part of it is wanted by others as well
    told = venue.answers(queue, taken(queue))
    assert [(page.from_trade_id, page.to_trade_id, page.complete) for page in told] == [(5001, 6000, False)]
    queue.ask(wish(first=3500, last=4500), 0)
    told = venue.answers(queue, taken(queue))
    assert [(page.from_trade_id, page.to_trade_id, page.complete) for page in told] == [
        (4001, 5000, False),
        (4001, 4500, False),
    ]


def test_what_is_waited_for_is_known() -> None:
    queue = fetches()
    assert queue.ask(wish(first=10, last=20), 0) is Asked.QUEUED
    for first, last in ((10, 20), (10, 10), (12, 20)):
        assert queue.ask(wish(first=first, last=last), 0) is Asked.KNOWN
    assert queue.ask(wish(first=9, last=20), 0) is Asked.QUEUED
    assert queue.ask(wish(first=10, last=21), 0) is Asked.QUEUED
    assert queue.ask(wish("B-X", 10, 20), 0) is Asked.QUEUED
    taken(queue)
    assert queue.ask(wish(first=10, last=20), 0) is Asked.KNOWN  # under way
    assert len(queue) == 4


def test_what_has_been_told_already_is_asked_anew() -> None:
    queue, venue = fetches(), Venue(range(1, 5000))
    queue.ask(wish(first=1, last=1500), 0)
    assert not venue.answer(queue, taken(queue)).complete  # 501 to 1500
    assert queue.ask(wish(first=1, last=500), 0) is Asked.KNOWN
    assert queue.ask(wish(first=400, last=501), 0) is Asked.QUEUED


def test_products_take_turns_page_by_page() -> None:
    queue, venue = fetches(), Venue(range(1, 10_000))
    queue.ask(wish("LONG-X", 1, 5000), 0)
    queue.ask(wish("A-X", 10, 12), 0)
    queue.ask(wish("A-X", 1, 2), 0)
    queue.ask(wish("B-X", 10, 12), 0)
    order = []
    while (batch := queue.take(0)) is not None:
        order.append(batch.product)
        venue.answers(queue, batch)
    assert order == ["LONG-X", "A-X", "B-X", "LONG-X", "LONG-X", "LONG-X", "LONG-X"]


def test_one_request_of_a_product_is_under_way_at_a_time() -> None:
    queue = fetches()
    queue.ask(wish(first=1, last=5), 0)
    queue.ask(wish(first=10, last=15), 0)
    batch = taken(queue)
    queue.ask(wish(first=20, last=25), 0)
    assert queue.take(0) is None
    assert queue.due_at() is None
    queue.put_back(batch)
    assert taken(queue).after == 26
    assert all(fetch.attempts == 0 for fetch in batch.fetches)


def test_the_queue_is_bounded() -> None:
    queue = fetches(max_fetches=2)
    assert [queue.ask(wish(product), 0) for product in ("A-X", "B-X", "C-X", "A-X")] == [
        Asked.QUEUED, Asked.QUEUED, Asked.FULL, Asked.KNOWN,
    ]  # fmt: skip
    queue = fetches()
    asked = [queue.ask(wish("A-X", 10 * number, 10 * number), 0) for number in range(1, MAX_FETCHES_A_PRODUCT + 2)]
    assert asked == [Asked.QUEUED] * MAX_FETCHES_A_PRODUCT + [Asked.FULL]
    assert queue.ask(wish("B-X"), 0) is Asked.QUEUED


def test_failures_are_tried_again_with_growing_pauses_and_then_told() -> None:
    queue, now, pauses = fetches(), 0.0, []
    queue.ask(wish(first=3, last=9), now)
    for _ in range(MAX_ATTEMPTS - 1):
        assert queue.failed(taken(queue, now), "HTTP 500", now) == []
        due_at = queue.due_at()
        assert due_at is not None
        assert queue.take(due_at - 0.001) is None
        pauses.append(due_at - now)
        now = due_at
    assert pauses == sorted(pauses)
    assert pauses[0] > 0
    (end,) = queue.failed(taken(queue, now), "HTTP 500", now)
    assert end == BackfillPage("A-X", 3, 9, [], True, 0, "HTTP 500")
    assert len(queue) == 0


def test_the_end_names_what_has_not_come() -> None:
    queue, venue = fetches(), Venue(range(1, 5000))
    queue.ask(wish(first=1, last=1500), 0)
    venue.answer(queue, taken(queue))
    (fetch,) = queue.waiting()
    assert queue.end(fetch, "no more") == BackfillPage("A-X", 1, 500, [], True, 1500, "no more")


def test_a_page_that_works_forgives_what_failed_before() -> None:
    queue, venue = fetches(), Venue(range(1, 10_000))
    queue.ask(wish(first=1, last=9000), 0)
    for number in range(9):
        for _ in range(MAX_ATTEMPTS - 1):
            assert queue.failed(taken(queue, 1e9), "HTTP 500", 0) == []
        assert venue.answer(queue, taken(queue, 1e9)).complete == (number == 8)


def test_what_has_waited_but_not_what_is_under_way() -> None:
    queue = fetches()
    queue.ask(wish("A-X"), 0)
    queue.ask(wish("B-X"), 10)
    assert queue.waiting(-0.1) == []
    assert [fetch.product for fetch in queue.waiting(0)] == ["A-X"]
    assert [fetch.product for fetch in queue.waiting(10)] == ["A-X", "B-X"]
    assert taken(queue).product == "A-X"
    assert queue.waiting(0) == []
    assert [fetch.product for fetch in queue.waiting()] == ["B-X"]


@given(
    wishes=st.lists(st.tuples(st.sampled_from("AB"), st.integers(1, 3000), st.integers(0, 2500)), max_size=12),
    listed=st.sets(st.integers(1, 6000), max_size=60),
    dense=st.booleans(),
    answers=st.lists(st.sampled_from(("page", "page", "busy", "failed")), max_size=60),
)
def test_every_request_ends_once_and_all_of_it_is_told(
    wishes: list[tuple[str, int, int]], listed: set[int], dense: bool, answers: list[str]
) -> None:
    queue = fetches()
    venue = Venue(range(1, 6000)) if dense else Venue(sorted(listed))
    queued = [
        (product, first, first + more)
        for product, first, more in wishes
        if queue.ask(BackfillRequest(product, first, first + more), 0) is Asked.QUEUED
    ]
    script, told = iter(answers), []
    while (batch := queue.take(1e9)) is not None:
        assert 1 <= batch.limit <= MAX_ROWS
        match next(script, "page"):
            case "page":
                pages = venue.answers(queue, batch)
                assert pages
            case "busy":
                queue.put_back(batch)
                pages = []
            case _:
                pages = queue.failed(batch, "failed", 0)
        told += pages
    assert len(queue) == 0
    assert sum(page.complete for page in told) == len(queued)
    for page in told:
        if not page.problem:
            inside = {i for i in venue.ids if page.from_trade_id <= i <= page.to_trade_id}
            assert [trade.trade_id for trade in page.trades] == sorted(inside)
            assert len(page.trades) <= MAX_ROWS
    for product, first, last in queued:
        ranges = [(page.from_trade_id, page.to_trade_id) for page in told if page.product == product]
        expected = first
        while expected <= last:  # upward along pages that join on
            expected = max((to + 1 for start, to in ranges if start <= expected <= to), default=0)
            assert expected
