"""The comparison with the exchange's truth finds what is wrong, and nothing else."""

import pytest

from loadgen.chaos.truth import Findings, Ledger, compare_state, compare_trades, unreached
from loadgen.chaos.venue import ProductTruth
from loadgen.client.state import TradeLine

P = "BTC-USD"


def trade(trade_id: int, px: str = "1.50") -> TradeLine:
    return TradeLine(trade_id, px, "2", "buy")


def ledger(first: int = 1, last: int = 10) -> Ledger:
    made = Ledger()
    made.add(P, [trade(number) for number in range(first, last + 1)])
    return made


def compared(held: list[TradeLine], declared: tuple[tuple[int, int], ...] = (), after: int = 2) -> Findings:
    return compare_trades("client", P, held, declared, ledger(), after)


def test_a_whole_history_is_whole() -> None:
    assert not compared([trade(number) for number in range(3, 11)])
    assert not compared([trade(number) for number in range(1, 11)])


def test_a_loss_is_found() -> None:
    found = compared([trade(number) for number in range(3, 11) if number not in (5, 6)])
    assert (found.lost, found.undeclared) == (2, 2)
    assert found.words == [f"client: {P}: 2 trades lost, 5 to 6, undeclared"]


def test_the_last_trade_lost_is_found() -> None:
    assert compared([trade(number) for number in range(3, 10)]).lost == 1


def test_a_declared_loss_is_a_loss_all_the_same() -> None:
    held = [trade(number) for number in range(3, 11) if number not in (5, 6, 8)]
    found = compared(held, ((5, 6),))
    assert (found.lost, found.undeclared) == (3, 1)
    assert "1 of them undeclared" in found.words[0]


def test_a_declaration_of_what_came_later_is_no_loss() -> None:
    assert not compared([trade(number) for number in range(3, 11)], ((1, 6),))


@pytest.mark.parametrize("held", [[3, 4, 4, 5, 6, 7, 8, 9, 10], [3, 5, 4, 6, 7, 8, 9, 10]])
def test_a_repetition_is_found(held: list[int]) -> None:
    found = compared([trade(number) for number in held])
    assert (found.repeated, found.lost) == (1, 0)


def test_another_price_is_found() -> None:
    found = compared([trade(number, "1.5" if number == 7 else "1.50") for number in range(3, 11)])
    assert (found.altered, found.lost) == (1, 0)


def test_a_trade_that_was_never_made_is_found() -> None:
    held = [trade(number) for number in range(3, 11)]
    assert compare_trades("client", P, [*held, trade(11)], (), ledger(), 2).altered == 1


def test_a_life_that_has_ended_is_compared_up_to_its_end() -> None:
    held = [trade(number) for number in range(3, 8)]
    assert not compare_trades("client", P, held, (), ledger(), 2, until=7)
    assert compare_trades("client", P, held[:2] + held[3:], (), ledger(), 2, until=7).lost == 1


def test_the_ledger_takes_no_trade_twice() -> None:
    with pytest.raises(ValueError, match="trade 10 after 10"):
        ledger().add(P, [trade(10)])


def test_what_is_forgotten_is_not_compared_any_more() -> None:
    made = ledger()
    made.forget(4)
    assert made.between(P, 1, 10) == [trade(number) for number in range(7, 11)]
    assert made.last_id(P) == 10
    assert not compare_trades("client", P, [trade(number) for number in range(9, 11)], (), made, 8)


def truth() -> ProductTruth:
    bids, asks = [("10.0", "1"), ("9.9", "2")], [("10.1", "3")]
    return ProductTruth(P, bids, asks, bids[0], asks[0], 10, 10, "")


def test_an_equal_state_is_equal() -> None:
    one = truth()
    assert not compare_state("client", one, (one.bids, one.asks), (one.best_bid, one.best_ask, 10))
    assert not compare_state("client", one, None, None)


@pytest.mark.parametrize(
    ("bids", "asks"),
    [
        ([("10.0", "1")], [("10.1", "3")]),
        ([("10.0", "1"), ("9.9", "2.0")], [("10.1", "3")]),
        ([("10.0", "1"), ("9.9", "2")], []),
        ([("9.9", "2"), ("10.0", "1")], [("10.1", "3")]),
    ],
)
def test_an_unequal_book_is_found(bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> None:
    found = compare_state("client", truth(), (bids, asks), None)
    assert found.books == 1
    assert P in found.words[0]


def test_an_unequal_ticker_is_found() -> None:
    one = truth()
    assert compare_state("client", one, None, (one.best_bid, one.best_ask, 9)).tickers == 1
    assert compare_state("client", one, None, (None, one.best_ask, 10)).tickers == 1


def test_who_is_behind() -> None:
    assert unreached({"A": 5, "B": 6, "C": 1}, {"A": 5, "B": 5, "C": None}) == ["B", "C"]
