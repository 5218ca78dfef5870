"""How long throttled requests are made again."""

import pytest

from lfmesh.store.aws.patience import Patience


def test_it_ends_after_so_many_retries_of_which_nothing_came_through() -> None:
    pauses: list[float] = []
    patience = Patience(4, 10.0, pauses.append, lambda: 1.0)
    assert [patience.again() for _ in range(6)] == [True] * 4 + [False] * 2
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4])


def test_progress_begins_it_anew() -> None:
    pauses: list[float] = []
    patience = Patience(2, 10.0, pauses.append, lambda: 1.0)
    for _ in range(20):
        assert patience.again()
        assert patience.again()
        patience.progressed()
    assert set(pauses) == {0.05, 0.1}


def test_it_ends_in_any_case_after_its_time() -> None:
    patience = Patience(3, -1.0, lambda _: None, lambda: 1.0)
    patience.progressed()
    assert not patience.again()


def test_pauses_have_a_bound() -> None:
    pauses: list[float] = []
    patience = Patience(10, 10.0, pauses.append, lambda: 1.0)
    while patience.again():
        pass
    assert max(pauses) == 2.0
