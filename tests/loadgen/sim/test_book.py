from hypothesis import given
from hypothesis import strategies as st

from loadgen.sim.book import Ladder

changes = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), max_size=60)


@given(changes, st.booleans())
def test_a_ladder_holds_the_last_size_of_each_price_best_first(puts: list[tuple[int, int]], is_bid: bool) -> None:
    ladder = Ladder(is_bid=is_bid)
    expected: dict[int, int] = {}
    for price, lots in puts:
        ladder.put(price if is_bid else -price, lots)
        expected[price] = lots
    levels = sorted(((px, lots) for px, lots in expected.items() if lots), reverse=is_bid)
    assert list(ladder.levels()) == levels
    assert ladder.best() == (levels[0] if levels else None)
    assert len(ladder) == len(levels)
