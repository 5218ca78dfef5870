from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.levels import LevelTexts
from lfmesh.errors import BadMeshFrame

PRICES = st.builds(
    lambda whole, cents, digits: f"{whole}.{cents:0{digits}}", st.integers(1, 30), st.integers(0, 9), st.integers(1, 3)
)
CHANGES = st.lists(st.tuples(PRICES, st.sampled_from(["0", "0.00000000", "0.5", "10", "100.0"])), max_size=20)


def texts(levels: list[tuple[str, str]]) -> list[bytes]:
    return [f"[{px},{qty}]".encode() for px, qty in levels]


@given(st.sampled_from([1, -1]), st.booleans(), CHANGES, st.lists(CHANGES, max_size=6))
def test_any_changes_give_what_a_dictionary_gives(
    sign: int, load: bool, first: list[tuple[str, str]], rounds: list[list[tuple[str, str]]]
) -> None:
    side = LevelTexts(sign)
    model: dict[Decimal, tuple[str, str]] = {}

    def apply(changes: list[tuple[str, str]]) -> None:
        for px, qty in changes:
            if Decimal(qty):
                model[Decimal(px)] = (px, qty)
            else:
                model.pop(Decimal(px), None)

    def expected() -> list[bytes]:
        return texts([model[px] for px in sorted(model, reverse=sign < 0)])

    apply(first)
    side.load(expected()) if load else side.change(texts(first))
    for changes in rounds:
        apply(changes)
        side.change(texts(changes))
        assert side.merged() == expected()
    assert side.merged() == expected()
    assert side.size == len(model)


def book(count: int) -> list[tuple[str, str]]:
    return [(f"{number}.5", "1") for number in range(count)]


@pytest.mark.parametrize("steps", [1, 3, 500, 5000])
def test_few_and_many_changes_of_a_large_side(steps: int) -> None:
    side = LevelTexts(1)
    model = dict(book(4000))
    side.load(texts(book(4000)))
    for turn in range(4):
        for step in range(steps):
            px = f"{(step * 7919 + turn) % 6000}.5"
            qty = "0" if step % 3 == 0 else f"{turn + 1}.25"
            model.pop(px, None) if qty == "0" else model.update({px: qty})
            side.change(texts([(px, qty)]))
        assert side.merged() == texts(sorted(model.items(), key=lambda level: Decimal(level[0])))


def test_changes_that_nobody_looks_at_are_bounded() -> None:
    side = LevelTexts(-1)
    for number in range(30_000):
        side.change(texts([(f"{number}.1", "0" if number % 2 else "1")]))
        assert len(side._changes) <= 8192
    assert len(side.merged()) == 15_000


def test_what_is_no_level_is_refused_when_it_is_looked_at() -> None:
    side = LevelTexts(1)
    with pytest.raises(BadMeshFrame, match="not a level"):
        side.change([b"[1]"])
    side.load([b"[1]"])
    side.change([b"[2,3]"])
    with pytest.raises(BadMeshFrame, match="not a level"):
        side.merged()
