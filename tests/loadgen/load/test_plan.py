"""Who does what follows from the configuration alone."""

import random
from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from loadgen.load.config import OFFENCES, Behaviour, LoadConfig
from loadgen.load.plan import Zipf, plan

PRODUCTS = tuple(f"P{number}-USD" for number in range(50))
CONFIG = LoadConfig(url="ws://gateway/ws", products=PRODUCTS, clients=200)


def changed(**changes: object) -> LoadConfig:
    return msgspec.structs.replace(CONFIG, **changes)


def test_shares_are_kept_and_mixed() -> None:
    clients = plan(changed(slow=0.05, stalled=0.1, flapping=0.02, misbehaving=0.07))
    counts = Counter(client.behaviour for client in clients)
    assert counts[Behaviour.SLOW] == 10
    assert counts[Behaviour.STALLED] == 20
    assert counts[Behaviour.FLAPPING] == 4
    assert [counts[offence] for offence in OFFENCES] == [2] * 7
    assert counts[Behaviour.GOOD] == 200 - 10 - 20 - 4 - 14
    assert {client.behaviour for client in clients[:50]} != {Behaviour.GOOD}
    unchecked = [client.behaviour for client in clients if not client.checked]
    assert not {Behaviour.SLOW, Behaviour.STALLED, Behaviour.FLAPPING} & set(unchecked)
    assert {client.behaviour for client in clients if client.full} == {Behaviour.SLOW, Behaviour.STALLED}
    with pytest.raises(ValueError, match="more than 1"):
        plan(changed(slow=0.6, stalled=0.6))


def test_a_seed_makes_the_same_choices_in_any_number_of_processes() -> None:
    config = changed(shape="random", products_each=7, slow=0.1, seed=5, check=0.3)
    whole = plan(config)
    shared = msgspec.structs.replace(config, processes=3)
    parts = [client for process in range(3) for client in plan(shared, process)]
    assert sorted(parts) == sorted(whole)
    assert plan(config) == whole
    assert [client.products for client in plan(msgspec.structs.replace(config, seed=6))] != [
        client.products for client in whole
    ]


def test_shapes() -> None:
    assert {client.products for client in plan(changed(products_each=3))} == {PRODUCTS[:3]}
    assert {client.products for client in plan(changed(shape="all", products_each=3))} == {PRODUCTS}
    drawn = plan(changed(shape="random", products_each=5))
    assert all(len(set(client.products)) == 5 for client in drawn)
    assert len({client.products for client in drawn}) > 100
    wanted = Counter(product for client in drawn for product in client.products)
    assert wanted[PRODUCTS[0]] > 4 * wanted[PRODUCTS[40]]


@pytest.mark.parametrize(("share", "checked"), [(0, 0), (0.001, 2), (0.25, 50), (1, 200)])
def test_checked_clients_are_spread(share: float, checked: int) -> None:
    clients = plan(changed(check=share))
    numbers = [client.number for client in clients if client.checked]
    assert len(numbers) == checked
    if checked == 50:
        assert max(b - a for a, b in pairwise(numbers)) == 4


@pytest.mark.parametrize("count", [1, 3, 9, 10])
def test_zipf_draws_different_ones_by_their_weight(count: int) -> None:
    chance, zipf = random.Random(1), Zipf(10, 1.0)
    draws = [zipf.draw(count, chance) for _ in range(2000)]
    assert all(len(set(one)) == count and one == sorted(one) for one in draws)
    seen = Counter(number for one in draws for number in one)
    if count == 1:
        harmonic = sum(1 / n for n in range(1, 11))
        assert abs(seen[0] / 2000 - 1 / harmonic) < 0.05
    if count < 10:
        assert seen[0] > seen[4] > seen[9]
    with pytest.raises(ValueError, match="11 different"):
        zipf.draw(11, chance)
