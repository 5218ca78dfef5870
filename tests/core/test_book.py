from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.book import Book, BookSide, is_zero
from lfmesh.types import Level, Side

# Few distinct values in several spellings, so that levels meet, empty and come back.
PRICES = st.builds(
    lambda units, spelling: f"{units}{spelling}",
    st.integers(1, 30),
    st.sampled_from(["", ".0", ".00", ".5", ".50", ".05", ".000000000000000001"]),
)
SIZES = st.sampled_from(["0", "0.0", "0.00000000", "1", "1.0", "0.5", "12.34000000", "0.000000000000000001"])
SIDES: st.SearchStrategy[Side] = st.sampled_from(["buy", "sell"])
CHANGES = st.lists(st.tuples(SIDES, PRICES, SIZES), max_size=8)


class NaiveBook:
    def __init__(self, bids: list[Level], asks: list[Level]) -> None:
        self.sides: dict[str, dict[Decimal, Level]] = {"buy": {}, "sell": {}}
        self.apply([("buy", *level) for level in bids] + [("sell", *level) for level in asks])

    def apply(self, changes: list[tuple[Side, str, str]]) -> None:
        for side, px, qty in changes:
            if Decimal(qty) == 0:
                self.sides[side].pop(Decimal(px), None)
            else:
                self.sides[side][Decimal(px)] = (px, qty)

    def levels(self, side: Side) -> list[Level]:
        return [self.sides[side][px] for px in sorted(self.sides[side], reverse=side == "buy")]

    def crossed(self) -> bool:
        bids, asks = self.sides["buy"], self.sides["sell"]
        return bool(bids and asks) and max(bids) >= min(asks)


@given(
    bids=st.lists(st.tuples(PRICES, SIZES), max_size=10),
    asks=st.lists(st.tuples(PRICES, SIZES), max_size=10),
    updates=st.lists(CHANGES, max_size=60),
)
def test_agrees_with_a_naive_book(
    bids: list[Level], asks: list[Level], updates: list[list[tuple[Side, str, str]]]
) -> None:
    # A price named twice in one snapshot would make the two books disagree on purpose: the last one counts in ours.
    bids, asks = (
        list({Decimal(px): (px, qty) for px, qty in bids}.values()),
        list({Decimal(px): (px, qty) for px, qty in asks}.values()),
    )
    book, naive = Book(), NaiveBook(bids, asks)
    book.replace(bids, asks)
    for changes in [[], *updates]:
        book.apply(changes)
        naive.apply(changes)
        best_bid, best_ask, crossed = book.top()
        assert book.bids.sorted() == naive.levels("buy")
        assert book.asks.sorted() == naive.levels("sell")
        assert best_bid == next(iter(naive.levels("buy")), None)
        assert best_ask == next(iter(naive.levels("sell")), None)
        assert crossed == naive.crossed()


def test_one_price_in_two_spellings_is_one_level_with_the_newest_texts() -> None:
    book = Book()
    book.apply([("buy", "1.10", "5"), ("buy", "1.1", "7.0")])
    assert book.bids.sorted() == [("1.1", "7.0")]
    book.apply([("buy", "1.100", "0.00")])
    assert book.top() == (None, None, False)


def test_removing_what_is_not_there_is_nothing() -> None:
    book = Book()
    book.apply([("sell", "3", "1"), ("sell", "4", "0"), ("buy", "2", "0.000")])
    assert book.top() == (None, ("3", "1"), False)


def test_a_locked_book_is_crossed() -> None:
    book = Book()
    book.apply([("buy", "10.0", "1"), ("sell", "10.00", "1")])
    assert book.top()[2]
    book.apply([("sell", "10", "0"), ("sell", "10.000000000000000001", "1")])
    assert not book.top()[2]


def test_replacing_forgets_everything_before() -> None:
    book = Book()
    book.apply([("buy", "9", "1"), ("sell", "11", "1")])
    book.replace([("5", "1"), ("6", "0.0"), ("5.0", "2")], [])
    assert (book.bids.sorted(), book.asks.sorted()) == ([("5.0", "2")], [])
    assert book.top() == (("5.0", "2"), None, False)


def test_what_is_remembered_beside_the_levels_is_bounded() -> None:
    side = Book().bids
    book = Book()
    side = book.bids
    for number in range(1, 60_000):
        book.apply([("buy", str(number), "1"), ("buy", str(number), "0")])
    assert len(side) == 0
    assert len(side.heap) < 1000
    assert len(side.keys) < 10_000


def test_a_heap_rebuilt_in_between_still_knows_the_best() -> None:
    side = BookSide(1)
    book = Book()
    book.asks = side
    for number in range(1, 2000):
        book.apply([("sell", str(5000 - number), "1")])
        if number % 3:
            book.apply([("sell", str(5000 - number), "0")])
    assert book.top()[1] == ("3002", "1")


def test_zero_in_every_spelling() -> None:
    assert all(map(is_zero, ["0", "0.0", "0.00000000"]))
    assert not any(map(is_zero, ["0.00000001", "10", "1.0", "100"]))
